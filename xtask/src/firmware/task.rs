//! What a board is given to do, what that must come to, and which boards have room for it.

use crate::blob;
use crate::boards::{Board, Engine};
use crate::host::{self, Job, Outcome};
use anyhow::{Context, Result};
use bitttt_core::format::{DType, Mixer};
use bitttt_core::{Batch, Model};
use std::fmt;

/// A job with its outcome.
pub struct Task<'a> {
    pub job: Job<'a>,
    /// What this machine comes to.
    pub expected: Outcome,
    /// Length of the model's file.
    pub blob_bytes: u64,
    /// What `MemoryPlan` says of a session.
    pub session_bytes: u64,
    /// A session and its snapshot, which `self-test` holds at once.
    memory_bytes: u64,
    /// The least that runs the model.
    needs: Engine,
}

impl<'a> Task<'a> {
    /// Does the job here.
    pub fn new(job: Job<'a>) -> Result<Self> {
        let file = job.blob.display();
        let blob = blob::read(job.blob)?;
        let model =
            Model::from_bytes(blob.bytes()).with_context(|| format!("{file} is not a model"))?;
        let plan = model.memory(Batch::ONE);
        Ok(Self {
            expected: host::outcome(&job)?,
            blob_bytes: blob.bytes().len() as u64,
            session_bytes: plan.bytes() as u64,
            needs: needs(&model),
            memory_bytes: (plan.bytes() + plan.snapshot_bytes()) as u64,
            job,
        })
    }

    /// Whether a board has room for the model beside the firmware at its largest.
    pub fn fits(&self, board: &Board) -> bool {
        self.needs <= board.engine
            && self.blob_bytes + board.flash_limit <= board.flash
            && self.memory_bytes + board.ram_limit <= board.ram
    }

    /// Name of the model's file.
    pub fn model(&self) -> String {
        let name = self.job.blob.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

fn needs(model: &Model<'_>) -> Engine {
    let mut layers = (0..model.config().n_layers).filter_map(|l| model.layer_config(l).ok());
    let alphabet = model
        .tokenizer()
        .is_some_and(|tokenizer| tokenizer.is_alphabet());
    let mut tensors = model.tensors();
    if layers.any(|layer| layer.mixer != Mixer::TttLinear) {
        Engine::Full
    } else if alphabet
        && tensors.all(|tensor| matches!(tensor.dtype, DType::T5 | DType::I8 | DType::F32))
    {
        Engine::Minimal
    } else {
        Engine::Linear
    }
}

impl fmt::Display for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, prompt {:?}, {} tokens; this machine: tokens {:08x}, state {:08x}",
            self.model(),
            self.job.prompt,
            self.job.tokens,
            self.expected.tokens_hash,
            self.expected.state_hash
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::BOARDS;

    fn fitting(blob: &std::path::Path) -> Vec<&'static str> {
        let job = Job {
            blob,
            prompt: "",
            tokens: 1,
        };
        let task = Task::new(job).unwrap();
        let fitting = BOARDS.iter().filter(|board| task.fits(board));
        fitting.map(|board| board.name).collect()
    }

    #[test]
    fn the_small_model_fits_on_every_board_and_a_large_one_not_on_the_smallest() {
        let small = fitting(&crate::blob::small().unwrap());
        assert_eq!(small.len(), BOARDS.len());
        let large = crate::blob::random(bitttt_core::format::DType::T2).unwrap();
        let large = fitting(&large);
        assert!(!large.contains(&"cortex-m0") && large.contains(&"cortex-m55"));
    }
}
