//! `--backend` and `--threads`, which every command that runs the core has.

use crate::engine::machine::Machine;
use anyhow::{Result, anyhow};
use bitttt_core::Backend;
use bitttt_threads::physical_cores;

/// Most threads that may be asked for: a slip of the finger must not make a million.
pub const MAX_THREADS: usize = 1024;

/// What to run on.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct MachineArgs {
    #[arg(long, value_name = "NAME", help = backend_help())]
    backend: Option<String>,
    /// Threads to run on; one for each physical core unless given
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
}

impl MachineArgs {
    /// The machine asked for.
    ///
    /// # Errors
    /// A name that this machine has no backend for, or too few threads in the system.
    pub fn machine(&self) -> Result<Machine> {
        let backend = match &self.backend {
            Some(name) => backend(name)?,
            None => Backend::detect(),
        };
        Machine::new(backend, self.threads.unwrap_or_else(physical_cores))
    }
}

/// The backend of this name.
///
/// # Errors
/// The names that this machine has.
pub fn backend(name: &str) -> Result<Backend> {
    Backend::by_name(name).ok_or_else(|| {
        anyhow!(
            "--backend {name} is not available here; this machine has {}",
            backend_names()
        )
    })
}

/// Backends of this machine, slowest first.
pub fn backend_names() -> String {
    let names: Vec<_> = Backend::all().map(Backend::name).collect();
    names.join(", ")
}

fn backend_help() -> String {
    format!(
        "Run on this backend instead of the fastest; this machine has {}",
        backend_names()
    )
}

/// A number of threads from the command line.
///
/// # Errors
/// What is no number of threads.
pub fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=MAX_THREADS) => Ok(threads),
        _ => Err(format!("give a number from 1 to {MAX_THREADS}")),
    }
}
