//! What the binaries of this board share: the model in flash, a console, a clock and a look at the RAM.
//!
//! Nothing here allocates or panics, and `cargo xtask firmware` proves the latter on the linked firmware.
#![no_std]

pub mod clock;
pub mod console;
pub mod model;
pub mod ram;

use console::Console;
use core::fmt::Write;

/// Says what went wrong and ends the emulation with a failure.
pub fn fail(what: &str) -> ! {
    Console::open().line(&["failed: ", what]);
    exit(false)
}

/// Ends the emulation.
pub fn exit(success: bool) -> ! {
    use cortex_m_semihosting::debug::{EXIT_FAILURE, EXIT_SUCCESS, exit};
    exit(if success { EXIT_SUCCESS } else { EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi(); // a debugger may decline to stop us
    }
}

/// Not linked as long as nothing can panic; the linked-symbol check of `cargo xtask firmware` relies on that.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Console::open(), "\n{info}");
    exit(false)
}
