//! Writes `.bttt` blobs: what a model is made of ([`Blueprint`]) becomes bytes that `bitttt-core` reads in place, and
//! so do models of other formats ([`import`]).
//!
//! Invariant: whatever this crate writes, `Model::from_bytes` and `Model::verify` accept; the writer checks it before
//! a file gets its name.

#![forbid(unsafe_code)]

pub mod blueprint;
mod check;
pub mod device;
mod error;
pub mod import;
pub mod pack;
pub mod random;
pub mod save;
pub mod stream;
pub mod synth;
pub mod tokenizer;
mod write;

pub use blueprint::{Blueprint, TensorData};
pub use check::checksums_are_right;
pub use error::ExportError;
pub use save::save_atomically;
pub use stream::{BlobWriter, Outline};
pub use tokenizer::Vocabulary;
pub use write::AlignedCopy;
