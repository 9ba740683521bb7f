//! A RISC-V board as the model's firmware sees it: the debugger for a console, the instruction counter for a clock, and a
//! stack that it paints itself.
#![no_std]

mod ram;

use bitttt_firmware::Chip;
use riscv::register::minstret;
use semihosting::io::{self, Stdout, Write};
use semihosting::process::ExitCode;

/// The board, once it has been started.
pub struct Board {
    console: Option<Stdout>,
}

impl Board {
    /// Opens the debugger's console and paints the stack. Where there is no debugger, text goes nowhere.
    pub fn start() -> Self {
        ram::paint();
        Self {
            console: io::stdout().ok(),
        }
    }
}

impl Chip for Board {
    fn show(&mut self, bytes: &[u8]) {
        if let Some(console) = &mut self.console {
            let _ = console.write_all(bytes);
        }
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

fn exit(success: bool) -> ! {
    let code = if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    code.exit_process();
}

/// Not linked as long as nothing can panic; the linked-symbol check of `cargo xtask firmware` relies on that.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Ok(mut console) = io::stdout() {
        let _ = writeln!(console, "\n{info}");
    }
    exit(false)
}
