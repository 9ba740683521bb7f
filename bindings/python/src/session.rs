//! A session: the core's, with the memory that it runs in.

use crate::arrays::{self, Out};
use crate::error::{self, InputError, Refusal, compute, input, only_user};
use crate::generation::{Generation, Options, TokenGeneration};
use crate::model::Model;
use crate::pools;
use bitttt::cmd::machine::{MAX_THREADS, backend as backend_by_name};
use bitttt::engine::Blob;
use bitttt::engine::blob::{HOST_BATCH, memory_for};
use bitttt_core::{Backend, Batch, Learning, SessionError, snapshot};
use bitttt_threads::{Pool, physical_cores};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use self_cell::{MutBorrow, self_cell};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Computing that lasts longer is interrupted to look for Ctrl-C.
const PATIENCE: Duration = Duration::from_millis(50);

/// The core's session, whose lifetimes are those of what it borrows.
pub type Core<'a> = bitttt_core::Session<'a, 'a>;

/// What a session borrows.
struct Ground {
    blob: Arc<Blob>,
    pool: Arc<Pool>,
    memory: MutBorrow<Vec<f32>>,
}

self_cell!(
    struct Running {
        owner: Ground,
        #[covariant]
        dependent: Core,
    }
);

/// A session in its memory, and how often it has been used.
pub struct State {
    running: Running,
    learning: bool,
    /// Changes with every call that changes the session.
    pub uses: u64,
}

impl State {
    fn new(
        blob: Arc<Blob>,
        pool: Arc<Pool>,
        batch: Batch,
        backend: Backend,
    ) -> anyhow::Result<Self> {
        let memory = MutBorrow::new(memory_for(&blob.model(), batch)?);
        let ground = Ground { blob, pool, memory };
        let running = Running::try_new(ground, |ground| {
            let memory = ground.memory.borrow_mut();
            let mut session = Core::with_backend(ground.blob.model(), batch, memory, backend)?;
            session.set_parallel(&*ground.pool);
            Ok::<_, SessionError>(session)
        })?;
        Ok(Self {
            running,
            learning: true,
            uses: 0,
        })
    }

    /// Uses the session.
    pub fn with<T>(&mut self, work: impl FnOnce(&mut Core<'_>) -> T) -> T {
        self.uses += 1;
        self.running.with_dependent_mut(|_, session| work(session))
    }

    /// The session, to look at.
    pub fn look(&self) -> &Core<'_> {
        self.running.borrow_dependent()
    }

    /// Reads tokens and shows the logits that follow the last one.
    pub fn read<T>(
        &mut self,
        py: Python<'_>,
        tokens: &[u32],
        batch: usize,
        show: impl FnOnce(&mut [f32]) -> T,
    ) -> PyResult<T> {
        self.look().check(tokens).map_err(error::session)?;
        self.with(|session| {
            let (first, last) = tokens.split_at(tokens.len().saturating_sub(batch));
            in_chunks(py, first, batch, |_, chunk| {
                session.prefill(chunk).map(drop)
            })?;
            let logits = compute(py, || session.prefill(last))?;
            Ok(show(logits.map_err(error::session)?))
        })
    }
}

/// Gives `read` tokens, with the place of the first, in chunks of whole batches that take about [`PATIENCE`], and looks
/// for Ctrl-C between them.
fn in_chunks(
    py: Python<'_>,
    tokens: &[u32],
    batch: usize,
    mut read: impl FnMut(usize, &[u32]) -> Result<(), SessionError> + Send,
) -> PyResult<()> {
    let (mut at, mut size) = (0, batch);
    while at < tokens.len() {
        let chunk = &tokens[at..tokens.len().min(at.saturating_add(size))];
        let start = Instant::now();
        compute(py, || read(at, chunk))?.map_err(error::session)?;
        py.check_signals()?;
        if start.elapsed() < PATIENCE / 2 {
            size = size.saturating_mul(2);
        }
        at += chunk.len();
    }
    Ok(())
}

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

    #[pyo3(signature = (tokens, out=None))]
    fn prefill<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        self.read(py, &arrays::tokens(tokens, self.vocab_size)?, out)
    }

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

    fn restore(&self, py: Python<'_>, snapshot: PyBackedBytes) -> PyResult<()> {
        self.with(|state| {
            compute(py, || state.with(|session| session.restore(&snapshot)))?.map_err(input)
        })
    }

    fn freeze(&self) -> PyResult<()> {
        self.set_learning(false)
    }

    fn learn(&self) -> PyResult<()> {
        self.set_learning(true)
    }

    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.with(|state| compute(py, || state.with(|session| session.reset())))
    }

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

    #[getter]
    pub fn model(&self, py: Python<'_>) -> Py<Model> {
        self.model.clone_ref(py)
    }

    #[getter]
    fn position(&self) -> PyResult<u64> {
        self.with(|state| Ok(state.look().position()))
    }

    #[getter]
    fn state_hash(&self, py: Python<'_>) -> PyResult<String> {
        self.with(|state| {
            let hash = compute(py, || state.look().state_hash())?;
            Ok(format!("{hash:08x}"))
        })
    }

    #[getter]
    fn dropped_updates(&self) -> PyResult<u32> {
        self.with(|state| Ok(state.look().dropped_updates()))
    }

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
