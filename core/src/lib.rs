//! The engine for ternary models that keep learning: reads a `.bttt` blob in place, runs it in the caller's
//! memory, and trains its fast weights while it runs. No std, no heap, no panics.
//!
//! The data's way through: [`format`] turns bytes into a checked [`Model`]; [`memory`] says how much memory a
//! [`Session`] on it needs; the session runs tokens through mixers and feed-forward networks, whose arithmetic
//! is in `kernel`; [`tokenizer`] and [`sampler`] stand at the two ends.
//!
//! ```
//! use bitttt_core::{Batch, Model, Sampler, Session};
//! # fn demo(blob: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::from_bytes(blob)?;
//! let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
//! let mut session = Session::new(model, Batch::ONE, &mut memory)?;
//! let mut sampler = Sampler::greedy();
//! let mut token = sampler.sample(session.prefill(&[0, 1, 2])?); // learns as it reads
//! for _ in 0..16 {
//!     token = sampler.sample(session.step(token)?);
//! }
//! # Ok(())
//! # }
//! ```
#![no_std]
// what only a part uses that is left out
#![cfg_attr(
    not(all(
        feature = "attention",
        feature = "bpe",
        feature = "floats",
        feature = "imported",
        feature = "t2",
        feature = "ttt-lite",
        feature = "ttt-mlp"
    )),
    allow(dead_code)
)]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

/// The examples of the README are compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(not(target_endian = "little"))]
compile_error!(
    "bitttt-core reads little-endian blobs in place and supports little-endian targets only"
);

mod block;
mod checksum;
mod ffn;
pub mod format;
#[allow(unsafe_code)]
mod kernel;
mod math;
pub mod memory;
mod mixer;
mod model;
mod pieces;
pub mod sampler;
mod session;
pub mod snapshot;
pub mod tokenizer;
mod verify;
mod workspace;

pub use checksum::{Crc32, crc32};
pub use format::BlobError;
#[cfg(feature = "probe")]
#[doc(hidden)]
pub use kernel::probe;
pub use kernel::{Alone, Backend, Parallel};
pub use memory::{Batch, MemoryPlan};
pub use model::Model;
pub use sampler::Sampler;
pub use session::{Learning, Session, SessionError};
pub use snapshot::{RestoreError, SnapshotError};
pub use tokenizer::Tokenizer;
