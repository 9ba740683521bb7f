//! What sessions run on: instructions and threads. Neither changes a bit of any result.

use anyhow::{Context as _, Result};
use bitttt_core::{Backend, Batch, Model, Session};
use bitttt_threads::{Pool, physical_cores};

/// A backend and threads to lend.
#[derive(Debug)]
pub struct Machine {
    /// Kernels.
    pub backend: Backend,
    /// Threads.
    pub pool: Pool,
}

impl Machine {
    /// The fastest backend and one thread for each physical core.
    ///
    /// # Errors
    /// Where the system gives no threads.
    pub fn detect() -> Result<Self> {
        Self::new(Backend::detect(), physical_cores())
    }

    /// This backend and this many threads.
    ///
    /// # Errors
    /// Where the system gives no threads.
    pub fn new(backend: Backend, threads: usize) -> Result<Self> {
        let pool = Pool::new(threads).with_context(|| {
            format!("cannot start {threads} threads; give fewer with --threads")
        })?;
        Ok(Self { backend, pool })
    }

    /// A session on all of it.
    ///
    /// # Errors
    /// Memory that is shorter than the plan.
    pub fn session<'m, 's>(
        &'s self,
        model: Model<'m>,
        batch: Batch,
        memory: &'s mut [f32],
    ) -> Result<Session<'m, 's>> {
        let mut session = Session::with_backend(model, batch, memory, self.backend)?;
        session.set_parallel(&self.pool);
        Ok(session)
    }
}
