//! Llama checkpoints whose linear layers are ternary: of method `bitnet` (Falcon-E, Llama3-8B-1.58), or plain tensors
//! that hold ternary values (TriLM).

use super::decoder::{self, Family};
use super::{Foreign, ImportError, Options};
use std::path::Path;

/// Opens a checkpoint's directory.
///
/// # Errors
/// Files that are missing or damaged, and whatever cannot be represented.
pub fn open(directory: &Path, options: &Options) -> Result<Foreign<'static>, ImportError> {
    let family = Family {
        source: "hf-llama",
        model_type: "llama",
        activation: "silu",
        norm_eps: 1e-6,
        rope_theta: 10_000.0,
        sub_norms: false,
    };
    decoder::open(directory, options, &family)
}
