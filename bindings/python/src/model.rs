//! A model: a mapped file.

use crate::arrays;
use crate::config::{to_json, to_python};
use crate::error::{Refusal, compute, input, one_line};
use crate::words::Words;
use bitttt::cmd::inspect::config_json;
use bitttt::engine::Blob;
use bitttt::engine::chat::Message;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A model in a .bttt file, which is mapped into memory and read in place.
#[pyclass(frozen, module = "bitttt")]
pub struct Model {
    pub blob: Arc<Blob>,
    path: PathBuf,
    words: OnceLock<anyhow::Result<Words>>,
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (path, *, verify=true))]
    fn new(py: Python<'_>, path: PathBuf, verify: bool) -> PyResult<Self> {
        let open = if verify {
            Blob::open
        } else {
            Blob::open_unverified
        };
        let blob = compute(py, || open(&path))?.or_file()?;
        let blob = Arc::new(blob);
        Ok(Self {
            blob,
            path,
            words: OnceLock::new(),
        })
    }

    /// Dimensions and layers, as `bitttt inspect` tells them.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &config_json(&self.blob.model()))
    }

    /// The file.
    #[getter]
    fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Identifies the content, in eight hexadecimal digits.
    #[getter]
    fn fingerprint(&self) -> String {
        format!("{:08x}", self.blob.model().fingerprint())
    }

    /// Number of tokens, and of logits.
    #[getter]
    pub fn vocab_size(&self) -> u32 {
        self.blob.model().config().vocab_size
    }

    /// Token that starts and separates documents.
    #[getter]
    pub fn document_token(&self) -> u32 {
        self.blob.model().config().document_token
    }

    /// Whether it takes and makes text.
    #[getter]
    fn has_tokenizer(&self, py: Python<'_>) -> bool {
        self.words(py).is_ok()
    }

    /// Tokens that end what it writes.
    #[getter]
    fn stop_tokens(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        Ok(self.words(py)?.stop().to_vec())
    }

    /// What its maker wrote into the file.
    #[getter]
    fn metadata(&self) -> String {
        self.blob.model().metadata().to_owned()
    }

    /// Bytes of the file.
    #[getter]
    fn nbytes(&self) -> usize {
        self.blob.bytes().len()
    }

    /// Tokens of a text, without the document token.
    fn encode(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        let tokenizer = self.words(py)?.tokenizer();
        compute(py, || tokenizer.encode(text))?.or_input()
    }

    /// Text of tokens; what is no whole character is U+FFFD.
    fn decode(&self, py: Python<'_>, tokens: &Bound<'_, PyAny>) -> PyResult<String> {
        let tokenizer = self.words(py)?.tokenizer();
        let tokens = arrays::tokens(tokens, self.vocab_size())?;
        let bytes = tokenizer.decode_text(&tokens);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A conversation as an imported model was taught to read it, up to where its answer begins.
    fn apply_chat_template(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<String> {
        let template = self.words(py)?.template().ok_or_else(|| {
            input("this model has no chat template: write the conversation as it was taught")
        })?;
        let json = to_json(messages)?;
        let messages: Vec<Message> = serde_json::from_str(&json).map_err(|error| {
            input(format_args!(
                "messages must be a list of {{\"role\": ..., \"content\": ...}}: {error}"
            ))
        })?;
        compute(py, || template.render(&messages))?.or_input()
    }

    pub fn __repr__(&self) -> String {
        format!("bitttt.Model({:?})", self.path.display().to_string())
    }
}

impl Model {
    /// What it needs to read and write text.
    ///
    /// # Errors
    /// A model without a tokenizer, or with one that cannot be read.
    pub fn words(&self, py: Python<'_>) -> PyResult<&Words> {
        let make = || Words::of(Arc::clone(&self.blob));
        let words = match self.words.get() {
            Some(words) => words,
            None => compute(py, || self.words.get_or_init(make))?,
        };
        words.as_ref().map_err(|error| input(one_line(error)))
    }
}
