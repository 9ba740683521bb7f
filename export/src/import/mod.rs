//! Models of other formats become blobs.
//!
//! A reader (one file a format) turns what a user has into a [`Foreign`] model: the config and layers that it is here,
//! its [`Metadata`], and its tensors as [`Rows`] behind [`Source`]. [`Foreign::save`] then streams them.
//!
//! Invariants: nothing is approximated without being asked for, what cannot be represented is refused by name; memory
//! does not grow with the model, since tensors are read in runs of rows.

pub mod bit_llama;
mod decoder;
mod directory;
mod error;
mod fields;
pub mod gguf;
pub mod hf_bitnet;
pub mod hf_llama;
mod linear;
mod metadata;
mod options;
mod rows;
pub mod safetensors;
mod save;
pub mod text;
pub mod ttt_lm;

pub use error::ImportError;
pub use fields::Fields;
pub use metadata::Metadata;
pub use options::{Activations, Embedding, I2sLayout, KvCache, Matrices, Options};
pub use rows::{Elements, HalfSplit, InMemory, Rows, Tensor, Ternarised, Width, absmean, in_runs};
pub use save::{Foreign, Loss, Source, Summary};
