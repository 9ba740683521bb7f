//! The model in flash and what to do with it; all of it known at compile time.

use bitttt_core::{Batch, MemoryPlan};

/// Sections of a blob are aligned to 64 bytes; so is the blob.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/model.bttt")));

/// The model.
pub static BLOB: &[u8] = &ALIGNED.0;

/// Memory of a session on it; the build fails where the blob is not one.
pub const PLAN: MemoryPlan = match MemoryPlan::of_blob(
    include_bytes!(concat!(env!("OUT_DIR"), "/model.bttt")),
    Batch::ONE,
) {
    Ok(plan) => plan,
    Err(_) => panic!("BITTTT_BLOB is not a model that this version reads"),
};

/// Text to start from.
pub static PROMPT: &str = include_str!(concat!(env!("OUT_DIR"), "/prompt"));

/// Longest tokenised prompt: the document token and one token a byte.
pub const PROMPT_TOKENS: usize = include_bytes!(concat!(env!("OUT_DIR"), "/prompt")).len() + 1;

/// Number of tokens to generate.
pub const TOKENS: usize = include!(concat!(env!("OUT_DIR"), "/tokens"));
