//! The model in flash and what to do with it; all of it known at compile time.

use crate::Fault;
use bitttt_core::{Batch, MemoryPlan, Model, Session};
use core::hint::black_box;

/// Sections of a blob are aligned to 64 bytes; so is the blob.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

#[cfg(not(feature = "signed"))]
static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/model.bttt")));

#[cfg(feature = "signed")]
static ALIGNED: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/model.signed")));

/// What lies in the flash: the model, and with the feature `signed` its signature behind it.
pub static FLASH: &[u8] = &ALIGNED.0;

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
    match Model::from_bytes(blob()?) {
        Ok(model) => {
            Session::new(model, Batch::ONE, memory).map_err(|_| "session memory is too short")
        }
        Err(_) => Err("the blob is damaged, or needs what this build does not have"),
    }
}

/// The model, taken as it is.
#[cfg(not(feature = "signed"))]
#[inline]
fn blob() -> Result<&'static [u8], Fault> {
    Ok(seen_at_run_time(&FLASH))
}

/// The model, if it is one that the owner of the key released.
#[cfg(feature = "signed")]
#[inline(never)]
fn blob() -> Result<&'static [u8], Fault> {
    const KEYS: &[bitttt_sign::PublicKey] = &[
        match bitttt_sign::public_key(include_str!(concat!(env!("OUT_DIR"), "/release.pub"))) {
            Ok(key) => key,
            Err(_) => panic!("BITTTT_PUBLIC_KEY is not a public key in PEM"),
        },
    ];
    bitttt_sign::signed(bitttt_sign::Kind::Blob, KEYS, seen_at_run_time(&FLASH))
        .map_err(|_| "the blob is not signed with our key, or was changed")
}
