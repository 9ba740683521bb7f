//! A RISC-V board as the model's firmware sees it: a serial port for a console, the instruction counter for a clock, and
//! a stack that it paints itself.
#![no_std]

mod machine;
mod ram;

use bitttt_firmware::Chip;
use core::fmt::Write;
use machine::{Serial, exit};
use riscv::register::minstret;

/// The board, once it has been started.
pub struct Board {
    console: Serial,
}

impl Board {
    /// Paints the stack.
    pub fn start() -> Self {
        ram::paint();
        Self { console: Serial }
    }
}

impl Chip for Board {
    fn show(&mut self, bytes: &[u8]) {
        self.console.send(bytes);
    }

    fn instructions(&self) -> u64 {
        minstret::read64()
    }

    fn statics(&self) -> usize {
        ram::statics()
    }

    fn stack(&self) -> usize {
        ram::stack()
    }

    fn exit(&mut self, success: bool) -> ! {
        exit(success)
    }
}

/// Not linked as long as nothing can panic; the linked-symbol check of `cargo xtask firmware` relies on that.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial, "\n{info}");
    exit(false)
}
