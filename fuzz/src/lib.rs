//! What hostile bytes may do: each target takes any bytes and must return, without panicking, reading out of bounds, looping or
//! asking for absurd memory. Where there are two roads to a result the target takes both and compares.
//!
//! `cargo fuzz run TARGET --features libfuzzer` searches for such bytes; `tests/replay.rs` runs what is kept of them, with
//! `cargo test`, on the stable compiler. A found input belongs into `corpus/TARGET/`, with a name that says what it was.

pub mod blob;
pub mod c_api;
pub mod import;
pub mod models;
pub mod session;
pub mod snapshot;
pub mod tokenizer;

/// A target: its name, which is that of its corpus, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("blob", blob::run),
    ("snapshot", snapshot::run),
    ("session", session::run),
    ("tokenizer", tokenizer::run),
    ("c_api", c_api::run),
    ("gguf", import::gguf),
    ("safetensors", import::safetensors),
];
