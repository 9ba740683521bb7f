//! The core's session with what it borrows, and how tokens are read: interruptibly, without the interpreter's lock.

use crate::error::{self, compute};
use bitttt::engine::Blob;
use bitttt::engine::blob::memory_for;
use bitttt_core::{Backend, Batch, SessionError};
use bitttt_threads::Pool;
use pyo3::prelude::*;
use self_cell::{MutBorrow, self_cell};
use std::sync::Arc;
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
    /// Whether tokens are learned from.
    pub learning: bool,
    /// Changes with every call that changes the session.
    pub uses: u64,
}

impl State {
    /// A session at the start of a document.
    ///
    /// # Errors
    /// More memory than there is.
    pub fn new(
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
pub fn in_chunks(
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
