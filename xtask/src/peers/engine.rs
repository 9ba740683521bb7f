//! What every engine can do: be timed.

use super::shape::Shape;
use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

/// Tokens of a prefill.
pub const PROMPT: usize = 512;

/// Tokens decoded from an empty context.
pub const DECODED: usize = 128;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Test {
    /// 128 tokens, one after the other, from an empty context
    Decode,
    /// 512 tokens at once into an empty context
    Prefill,
}

impl Test {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Decode, Self::Prefill];

    /// Its name on command lines and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
        }
    }
}

/// A kind of model; a peer is compared with ours of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Attention and a gated FFN, matrix for matrix a llama.
    Llama,
    /// The seed's: `ttt-lite` mixers and an FFN of four times the width.
    Seed,
}

/// One figure to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Job {
    pub shape: Shape,
    pub threads: usize,
    pub test: Test,
    /// Time to measure for; an engine may need longer.
    pub seconds: f64,
}

/// An engine with models of every shape.
pub trait Engine {
    /// Its name in results.
    fn name(&self) -> String;

    /// The kind of its models.
    fn kind(&self) -> Kind {
        Kind::Llama
    }

    /// Why it is not timed at this shape, if it is not.
    fn refuses(&self, _shape: Shape) -> Option<&'static str> {
        None
    }

    /// Makes what the job needs and finds the engine's best settings for it; not timed.
    ///
    /// # Errors
    /// Where something cannot be built or written.
    fn prepare(&mut self, job: &Job) -> Result<()>;

    /// Tokens per second, the median of what one process measured.
    ///
    /// # Errors
    /// Where the engine fails or prints what is not understood.
    fn time(&self, job: &Job) -> Result<f64>;
}
