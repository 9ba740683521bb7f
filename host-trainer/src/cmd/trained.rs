//! `--checkpoint` and `--device`, where a command can run what `train` left instead of a blob.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use bitttt_export::AlignedCopy;

use crate::device;
use crate::engine::graph::Graph;

/// A trained model and where it runs.
#[derive(clap::Args, Clone, Debug)]
pub struct Trained {
    /// Directory that `bitttt train` wrote: its model runs as it was trained, on --device
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub checkpoint: Option<PathBuf>,
    /// Device that a --checkpoint runs on
    #[arg(
        long,
        value_name = "cpu|cuda[:N]",
        default_value = "cpu",
        requires = "checkpoint"
    )]
    pub device: String,
}

impl Trained {
    /// The model on its device, and as a blob.
    ///
    /// # Errors
    /// No such device, or no whole checkpoint.
    pub fn load(&self) -> Result<(Graph, AlignedCopy)> {
        let device = device::open(&self.device)?;
        let dir = self.checkpoint.as_ref().context("give --checkpoint")?;
        Graph::load(dir, &device)
    }

    /// Refuses a flag that a checkpoint has no use for.
    ///
    /// # Errors
    /// Names it.
    pub fn refuse(&self, flag: &str, given: bool) -> Result<()> {
        ensure!(
            !given,
            "{flag} is for models in a .bttt; export the checkpoint first"
        );
        Ok(())
    }
}
