//! BitNet b1.58 as `transformers` has it (`BitNetForCausalLM`, of which 2B4T is one): norms before `o` and `down`,
//! squared ReLU, master weights or packed ones.

use super::decoder::{self, Family};
use super::{Foreign, ImportError, Options};
use std::path::Path;

/// Opens a checkpoint's directory.
///
/// # Errors
/// Files that are missing or damaged, and whatever cannot be represented.
pub fn open(directory: &Path, options: &Options) -> Result<Foreign<'static>, ImportError> {
    let family = Family {
        source: "hf-bitnet",
        model_type: "bitnet",
        activation: "relu2",
        norm_eps: 1e-5,
        rope_theta: 500_000.0,
        sub_norms: true,
    };
    decoder::open(directory, options, &family)
}
