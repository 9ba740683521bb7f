//! What firmware does with a model in flash, whatever the chip: [`generate`] and [`self_test`], and the [`Chip`] that
//! they ask for text out, a clock and a look at the RAM.
//!
//! Nothing here allocates or panics, and `cargo xtask firmware` proves the latter on the linked firmware.
#![no_std]

mod chip;
mod generate;
mod kernels;
pub mod model;
mod monitor;
mod self_test;

pub use chip::{Chip, divided};
pub use generate::generate;
pub use kernels::{Room, kernels};
pub use monitor::monitor;
pub use self_test::self_test;

/// What went wrong, for people.
pub type Fault = &'static str;

/// Prints the last line, `ok` or what went wrong, and ends the program.
pub fn finish(chip: &mut impl Chip, done: Result<(), Fault>) -> ! {
    match done {
        Ok(()) => chip.line(&["ok"]),
        Err(fault) => chip.line(&["failed: ", fault]),
    }
    chip.exit(done.is_ok())
}

/// Shows how much RAM has been used.
fn report_ram(chip: &mut impl Chip) {
    let (statics, stack) = (chip.statics(), chip.stack());
    static SESSION: usize = model::PLAN.bytes();
    chip.count("session_bytes", model::seen_at_run_time(&SESSION) as u64);
    chip.count("stack_bytes", stack as u64);
    chip.count("ram_bytes", (statics + stack) as u64);
}
