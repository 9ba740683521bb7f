//! The model in flash and what to do with it; all of it known at compile time.

use crate::Fault;
use bitttt_core::{Batch, MemoryPlan, Model, Session};
use core::hint::black_box;

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

/// A value that the compiler may not compute with: code that is the same whatever the model, so that its size can be planned.
pub(crate) fn seen_at_run_time<T: Copy>(of: &'static T) -> T {
    *black_box(of)
}

/// Starts a session on the model. Not inlined: what it holds on the stack is gone when the model runs.
///
/// # Errors
/// What about the model or the memory, of [`PLAN`]`.words()` words, is not as it should be.
#[inline(never)]
pub(crate) fn open(memory: &mut [f32]) -> Result<Session<'static, '_>, Fault> {
    match Model::from_bytes(seen_at_run_time(&BLOB)) {
        Ok(model) => {
            Session::new(model, Batch::ONE, memory).map_err(|_| "session memory is too short")
        }
        Err(_) => Err("the blob is damaged, or needs what this build does not have"),
    }
}
