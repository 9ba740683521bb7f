//! A session as Python sees it.

use crate::arrays::{self, Out};
use crate::error::{self, InputError, Refusal, compute, input, only_user};
use crate::generation::{Generation, Options, TokenGeneration};
use crate::model::Model;
use crate::pools;
use crate::state::{State, in_chunks};
use bitttt::cmd::machine::{MAX_THREADS, backend as backend_by_name};
use bitttt::engine::blob::HOST_BATCH;
use bitttt_core::{Backend, Batch, Learning, snapshot};
use bitttt_threads::physical_cores;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex};

/// One stream of tokens through a model, which learns as it reads.
#[pyclass(frozen, module = "bitttt")]
pub struct Session {
    /// Nothing once it is closed.
    state: Mutex<Option<State>>,
    model: Py<Model>,
    vocab_size: u32,
    batch: usize,
    threads: usize,
    backend: &'static str,
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (model, *, batch=None, context=None, threads=None, learning=true, backend=None))]
    fn new(
        py: Python<'_>,
        model: Py<Model>,
        batch: Option<usize>,
        context: Option<usize>,
        threads: Option<usize>,
        learning: bool,
        backend: Option<&str>,
    ) -> PyResult<Self> {
        let threads = threads.unwrap_or_else(physical_cores);
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(input(format_args!(
                "threads = {threads} must be a number from 1 to {MAX_THREADS}"
            )));
        }
        let backend = backend.map(backend_by_name).transpose().or_input()?;
        let backend = backend.unwrap_or_else(Backend::detect);
        let batch = batch.map_or(HOST_BATCH, Batch::new);
        let sized = context.map_or(batch, |tokens| batch.with_context(tokens));
        let blob = Arc::clone(&model.get().blob);
        let made = compute(py, || {
            let pool = pools::of(threads)?;
            State::new(blob, pool, sized, backend)
        })?;
        let session = Self {
            state: Mutex::new(Some(made.or_input()?)),
            vocab_size: model.get().vocab_size(),
            model,
            batch: batch.tokens(),
            threads,
            backend: backend.name(),
        };
        session.set_learning(learning)?;
        Ok(session)
    }

    /// Reads tokens and returns the logits after each of them, [len(tokens), vocab_size].
    #[pyo3(signature = (tokens))]
    fn forward<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let tokens = arrays::tokens(tokens, self.vocab_size)?;
        self.with(|state| {
            state.look().check(&tokens).map_err(error::session)?;
            let vocab = self.vocab_size as usize;
            let logits = arrays::zeros(py, tokens.len(), vocab)?;
            let mut rows = logits.readwrite(); // nobody else knows the array yet
            let rows = rows.as_slice_mut()?;
            state.with(|session| {
                in_chunks(py, &tokens, self.batch, |at, chunk| {
                    let rows = &mut rows[at * vocab..];
                    session.prefill_with(chunk, &mut |i, logits| {
                        rows[i * vocab..(i + 1) * vocab].copy_from_slice(logits);
                    })
                })
            })?;
            Ok(logits)
        })
    }

    /// Reads one token and returns the logits that follow, [vocab_size]: a copy, or `out`.
    #[pyo3(signature = (token, out=None))]
    fn step<'py>(
        &self,
        py: Python<'py>,
        token: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let token = arrays::token(token, self.vocab_size)?;
        self.read(py, &[token], out)
    }

    /// Reads tokens and returns the logits that follow the last, [vocab_size]: a copy, or `out`.
    #[pyo3(signature = (tokens, out=None))]
    fn prefill<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        self.read(py, &arrays::tokens(tokens, self.vocab_size)?, out)
    }

    /// Reads the prompt and returns an iterator over pieces of the text that follows.
    #[pyo3(signature = (prompt, max_tokens=200, *, temperature=0.8, top_k=0, top_p=1.0, seed=0, stop=None))]
    #[allow(clippy::too_many_arguments)] // as many as Python's users give by name
    fn generate(
        slf: Py<Self>,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        seed: u64,
        stop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Generation> {
        let options = Options {
            max_tokens,
            temperature,
            top_k,
            top_p,
            seed,
        };
        Generation::new(py, slf, prompt, &options, stop)
    }

    /// As `generate`, over tokens; `stop` takes tokens only.
    #[pyo3(signature = (prompt, max_tokens=200, *, temperature=0.8, top_k=0, top_p=1.0, seed=0, stop=None))]
    #[allow(clippy::too_many_arguments)]
    fn generate_tokens(
        slf: Py<Self>,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        seed: u64,
        stop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<TokenGeneration> {
        let options = Options {
            max_tokens,
            temperature,
            top_k,
            top_p,
            seed,
        };
        TokenGeneration::new(py, slf, prompt, &options, stop)
    }

    /// What was learned and where the stream is, for `restore` and for `--load-state` of the command.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.with(|state| {
            let session = state.look();
            let bytes = snapshot::HEADER_BYTES + 4 * session.state().len();
            PyBytes::new_with(py, bytes, |to| {
                compute(py, || session.snapshot(to))?
                    .map(drop)
                    .map_err(input)
            })
        })
    }

    /// Goes on from a snapshot of the same model, to the same bits.
    fn restore(&self, py: Python<'_>, snapshot: PyBackedBytes) -> PyResult<()> {
        self.with(|state| {
            compute(py, || state.with(|session| session.restore(&snapshot)))?.map_err(input)
        })
    }

    /// Reads without learning from now on.
    fn freeze(&self) -> PyResult<()> {
        self.set_learning(false)
    }

    /// Learns from now on.
    fn learn(&self) -> PyResult<()> {
        self.set_learning(true)
    }

    /// Forgets everything: the beginning of a document.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.with(|state| compute(py, || state.with(|session| session.reset())))
    }

    /// Gives its memory back; it cannot be used any more.
    fn close(&self) -> PyResult<()> {
        *only_user(&self.state, "session")? = None;
        Ok(())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, _error: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close()
    }

    /// The model.
    #[getter]
    pub fn model(&self, py: Python<'_>) -> Py<Model> {
        self.model.clone_ref(py)
    }

    /// Tokens read since the beginning of the document.
    #[getter]
    fn position(&self) -> PyResult<u64> {
        self.with(|state| Ok(state.look().position()))
    }

    /// Checksum of the learned state and the position: equal on every machine after the same tokens.
    #[getter]
    fn state_hash(&self, py: Python<'_>) -> PyResult<String> {
        self.with(|state| {
            let hash = compute(py, || state.look().state_hash())?;
            Ok(format!("{hash:08x}"))
        })
    }

    /// Updates that were dropped because they were not finite.
    #[getter]
    fn dropped_updates(&self) -> PyResult<u32> {
        self.with(|state| Ok(state.look().dropped_updates()))
    }

    /// Whether tokens are learned from.
    #[getter]
    fn learning(&self) -> PyResult<bool> {
        self.with(|state| Ok(state.learning))
    }

    #[getter]
    fn threads(&self) -> usize {
        self.threads
    }

    #[getter]
    fn backend(&self) -> &'static str {
        self.backend
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let model = self.model.get().__repr__();
        let position = self.position();
        let position = position.map_or_else(|e| e.value(py).to_string(), |n| n.to_string());
        format!("<bitttt.Session on {model}, position: {position}>")
    }
}

impl Session {
    /// Uses the session, if nobody else does and it is not closed.
    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> PyResult<T>) -> PyResult<T> {
        match only_user(&self.state, "session")?.as_mut() {
            Some(state) => work(state),
            None => Err(InputError::new_err(
                "this session is closed: make a new one",
            )),
        }
    }

    /// Tokens that are read at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        tokens: &[u32],
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let out = Out::of(out, self.vocab_size)?;
        self.with(|state| state.read(py, tokens, self.batch, |logits| out.take(py, logits))?)
    }

    fn set_learning(&self, on: bool) -> PyResult<()> {
        self.with(|state| {
            state.learning = on;
            state.with(|session| {
                session.set_learning(if on { Learning::On } else { Learning::Frozen })
            });
            Ok(())
        })
    }
}
