//! Generation as Python's iterators: the prompt is read when it is made, a token whenever the next is asked for.
//!
//! A token that is given out has been read by the session: a snapshot taken between two of them goes on from there.

use crate::arrays;
use crate::error::{Refusal, compute, input, only_user};
use crate::session::Session;
use crate::stop::Stop;
use bitttt::engine::text::Written;
use bitttt_core::Sampler;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::sync::Mutex;

/// How much is made, and how tokens are chosen.
pub struct Options {
    pub max_tokens: usize,
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub seed: u64,
}

impl Options {
    fn sampler(&self) -> PyResult<Sampler> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(input(format_args!(
                "temperature = {} must be 0 or more",
                self.temperature
            )));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(input(format_args!(
                "top_p = {} must lie in (0, 1]",
                self.top_p
            )));
        }
        Ok(Sampler::new(self.temperature, self.seed)
            .top_k(self.top_k)
            .top_p(self.top_p))
    }
}

/// Makes tokens one by one.
struct Writer {
    session: Py<Session>,
    sampler: Sampler,
    /// Chosen, but not given out.
    next: u32,
    left: usize,
    stop: Vec<u32>,
    /// The session's uses after the last of ours.
    uses: u64,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    end: Option<&'static str>,
}

impl Writer {
    fn new(
        py: Python<'_>,
        session: Py<Session>,
        prompt: &Bound<'_, PyAny>,
        options: &Options,
        stop: Vec<u32>,
    ) -> PyResult<Self> {
        let mut sampler = options.sampler()?;
        let this = session.get();
        let prompt = prompt_tokens(py, this, prompt)?;
        let (next, uses) = this.with(|state| {
            let next = state.read(py, &prompt, this.batch(), |l| sampler.sample(l))?;
            Ok((next, state.uses))
        })?;
        Ok(Self {
            session,
            sampler,
            next,
            left: options.max_tokens,
            stop,
            uses,
            tokens: Vec::new(),
            prompt_tokens: prompt.len(),
            end: None,
        })
    }

    /// The next token, which the session has read; none at the end.
    fn advance(&mut self, py: Python<'_>) -> PyResult<Option<u32>> {
        if self.end.is_none() && self.stop.contains(&self.next) {
            self.end = Some("stop");
        }
        if self.end.is_none() && self.left == 0 {
            self.end = Some("length");
        }
        if self.end.is_some() {
            return Ok(None);
        }
        py.check_signals()?; // who loops in C, as list() does, does not look for Ctrl-C
        let (token, sampler) = (self.next, &mut self.sampler);
        let session = self.session.get();
        (self.next, self.uses) = session.with(|state| {
            if state.uses != self.uses {
                return Err(input(
                    "the session was used since the last token: generate anew from where it is",
                ));
            }
            let next = state.read(py, &[token], 1, |l| sampler.sample(l))?;
            Ok((next, state.uses))
        })?;
        self.left -= 1;
        self.tokens.push(token);
        Ok(Some(token))
    }
}

/// Tokens of a prompt. At the start of a document text follows what begins one, as in training.
fn prompt_tokens(
    py: Python<'_>,
    session: &Session,
    prompt: &Bound<'_, PyAny>,
) -> PyResult<Vec<u32>> {
    let Ok(text) = prompt.cast::<PyString>() else {
        return arrays::tokens(prompt, session.vocab_size());
    };
    let text: String = text.extract()?;
    let model = session.model(py);
    let tokenizer = model.get().words(py)?.tokenizer();
    let position = session.with(|state| Ok(state.look().position()))?;
    compute(py, || tokenizer.prompt(&text, position))?.or_input()
}

/// Text as it is made: an iterator of pieces, each of whole characters.
#[pyclass(frozen, module = "bitttt")]
pub struct Generation {
    inner: Mutex<(Writer, Option<Written>)>,
}

impl Generation {
    pub fn new(
        py: Python<'_>,
        session: Py<Session>,
        prompt: &Bound<'_, PyAny>,
        options: &Options,
        stop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let model = session.get().model(py);
        let stop = Stop::of(stop, model.get().words(py)?.stop().to_vec())?;
        let writer = Writer::new(py, session, prompt, options, stop.tokens)?;
        Ok(Self {
            inner: Mutex::new((writer, Some(Written::new(&stop.strings)))),
        })
    }
}

#[pymethods]
impl Generation {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let mut inner = only_user(&self.inner, "generation")?;
        let (writer, text) = &mut *inner;
        let model = writer.session.get().model(py);
        let tokenizer = model.get().words(py)?.tokenizer();
        while let Some(written) = text {
            let piece = match writer.advance(py)? {
                Some(token) => written.push(tokenizer.decode(token)),
                None => text.take().map(Written::finish).unwrap_or_default(),
            };
            if text.as_ref().is_some_and(Written::stopped) {
                writer.end = Some("stop");
                *text = None;
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    #[getter]
    fn tokens(&self) -> PyResult<Vec<u32>> {
        Ok(only_user(&self.inner, "generation")?.0.tokens.clone())
    }

    #[getter]
    fn prompt_tokens(&self) -> PyResult<usize> {
        Ok(only_user(&self.inner, "generation")?.0.prompt_tokens)
    }

    #[getter]
    fn finish_reason(&self) -> PyResult<Option<&'static str>> {
        Ok(only_user(&self.inner, "generation")?.0.end)
    }
}

/// Tokens as they are made.
#[pyclass(frozen, module = "bitttt")]
pub struct TokenGeneration {
    inner: Mutex<Writer>,
}

impl TokenGeneration {
    pub fn new(
        py: Python<'_>,
        session: Py<Session>,
        prompt: &Bound<'_, PyAny>,
        options: &Options,
        stop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let model = session.get().model(py);
        let default = match model.get().words(py) {
            Ok(words) => words.stop().to_vec(),
            Err(_) => vec![model.get().document_token()],
        };
        let stop = Stop::of(stop, default)?;
        if !stop.strings.is_empty() {
            return Err(input(
                "tokens do not stop at strings: give tokens to stop at, or use generate",
            ));
        }
        let writer = Writer::new(py, session, prompt, options, stop.tokens)?;
        Ok(Self {
            inner: Mutex::new(writer),
        })
    }
}

#[pymethods]
impl TokenGeneration {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        only_user(&self.inner, "generation")?.advance(py)
    }

    #[getter]
    fn tokens(&self) -> PyResult<Vec<u32>> {
        Ok(only_user(&self.inner, "generation")?.tokens.clone())
    }

    #[getter]
    fn prompt_tokens(&self) -> PyResult<usize> {
        Ok(only_user(&self.inner, "generation")?.prompt_tokens)
    }

    #[getter]
    fn finish_reason(&self) -> PyResult<Option<&'static str>> {
        Ok(only_user(&self.inner, "generation")?.end)
    }
}
