//! The exported functions, called as C calls them: each refusal by its name, and the same results as from Rust.
//!
//! Where a `SAFETY:` line says "as C must", every pointer leads to as much as the call says, or is one that is refused
//! before it is followed: null, misaligned, too long, or over the session's memory.

mod blobs;
mod samplers;
mod sessions;
mod support;
mod texts;

use bitttt_c::status::{Status, bitttt_error_message};
use std::collections::HashSet;
use std::ffi::CStr;

#[test]
fn each_status_has_its_own_sentence_and_other_numbers_one_of_theirs() {
    let message = |status| {
        // SAFETY: a message is a C string for ever.
        unsafe { CStr::from_ptr(bitttt_error_message(status)) }
            .to_str()
            .unwrap()
    };
    let known: HashSet<_> = (0..=Status::Other as i32).map(message).collect();
    assert_eq!(known.len(), Status::Other as usize + 1);
    assert_eq!(message(0), "done");
    for unknown in [-1, Status::Other as i32 + 1, i32::MAX, i32::MIN] {
        assert_eq!(message(unknown), "not a bitttt_status");
    }
}
