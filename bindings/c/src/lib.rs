//! The engine for C: what `bitttt.h` declares. No heap, no C library, no operating system.
//!
//! The data's way through: [`mod@pointer`] turns what C passes into references and slices, or refuses it; [`blob`] answers
//! what is asked before there is a session; [`session`], [`text`] and [`sampler`] are thin over the types of
//! `bitttt_core`; [`status`] names every refusal. The doc comments of exported items are those of the header, which a
//! test compares with this source.
//!
//! All `unsafe` blocks are in [`mod@pointer`], one of them in the macro that opens each function.
#![no_std]
// What a caller must promise is the same for all functions; the header's introduction says it once.
#![allow(clippy::missing_safety_doc)]

/// Panics are the standard library's matter where there is one.
#[cfg(not(target_os = "none"))]
extern crate std;

pub mod blob;
pub mod pointer;
pub mod sampler;
pub mod session;
pub mod status;
pub mod text;

/// Not linked as long as nothing can panic; the linked-symbol check of `cargo xtask test` relies on that.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
