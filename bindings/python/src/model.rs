//! A model: a mapped file.

use crate::arrays;
use crate::error::{Refusal, compute};
use bitttt::cmd::inspect::config_json;
use bitttt::engine::Blob;
use bitttt::engine::text::encode;
use bitttt_core::Tokenizer;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

/// A model in a .bttt file, which is mapped into memory and read in place.
#[pyclass(frozen, module = "bitttt")]
pub struct Model {
    pub blob: Arc<Blob>,
    path: PathBuf,
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
        Ok(Self { blob, path })
    }

    /// Dimensions and layers, as `bitttt inspect` tells them.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        crate::config::to_python(py, &config_json(&self.blob.model()))
    }

    #[getter]
    fn path(&self) -> &std::path::Path {
        &self.path
    }

    #[getter]
    fn fingerprint(&self) -> String {
        format!("{:08x}", self.blob.model().fingerprint())
    }

    #[getter]
    pub fn vocab_size(&self) -> u32 {
        self.blob.model().config().vocab_size
    }

    #[getter]
    pub fn document_token(&self) -> u32 {
        self.blob.model().config().document_token
    }

    #[getter]
    fn has_tokenizer(&self) -> bool {
        self.blob.model().tokenizer().is_some()
    }

    #[getter]
    fn metadata(&self) -> String {
        self.blob.model().metadata().to_owned()
    }

    /// Bytes of the file.
    #[getter]
    fn nbytes(&self) -> usize {
        self.blob.bytes().len()
    }

    pub fn encode(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        compute(py, || encode(&tokenizer, text.as_bytes()))
    }

    fn decode(&self, tokens: &Bound<'_, PyAny>) -> PyResult<String> {
        let tokenizer = self.tokenizer()?;
        let tokens = arrays::tokens(tokens, self.vocab_size())?;
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|&token| tokenizer.decode(token))
            .copied()
            .collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn __repr__(&self) -> String {
        format!("bitttt.Model({:?})", self.path.display().to_string())
    }
}

impl Model {
    /// The tokenizer.
    ///
    /// # Errors
    /// A model without one.
    pub fn tokenizer(&self) -> PyResult<Tokenizer<'_>> {
        self.blob.tokenizer().or_input()
    }
}
