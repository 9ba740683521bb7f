//! A Cortex-M board as the model's firmware sees it: the debugger for a console, SysTick for a clock, the painted stack.
#![no_std]

mod clock;
mod memory;
mod ram;

use bitttt_firmware::Chip;
use clock::Clock;
use core::fmt::Write;
use cortex_m_semihosting::debug::{self, EXIT_FAILURE, EXIT_SUCCESS};
use cortex_m_semihosting::hio::{self, HostStream};

/// The board, once it has been started.
pub struct Board {
    console: Option<HostStream>,
    clock: Option<Clock>,
}

impl Board {
    /// Opens the debugger's console and starts the clock. Where there is no debugger, text goes nowhere.
    pub fn start() -> Self {
        leave_floats_unsaved();
        Self {
            console: hio::hstdout().ok(),
            clock: cortex_m::Peripherals::take().map(|chip| Clock::start(chip.SYST)),
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
        self.clock.as_ref().map_or(0, Clock::instructions)
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

/// Lets interrupts find the floating-point registers as they are, which none of ours touches, instead of taking 72 bytes of
/// stack for them.
fn leave_floats_unsaved() {
    #[cfg(target_abi = "eabihf")]
    {
        const FPCCR: *mut u32 = 0xE000_EF34 as *mut u32;
        const ASPEN_LSPEN: u32 = 0b11 << 30;
        // SAFETY: a register of every core with a floating-point unit; no interrupt is enabled yet.
        unsafe { FPCCR.write_volatile(FPCCR.read_volatile() & !ASPEN_LSPEN) };
    }
}

fn exit(success: bool) -> ! {
    debug::exit(if success { EXIT_SUCCESS } else { EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi(); // a debugger may decline to stop us
    }
}

/// Not linked as long as nothing can panic; the linked-symbol check of `cargo xtask firmware` relies on that.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Ok(mut console) = hio::hstdout() {
        let _ = writeln!(console, "\n{info}");
    }
    exit(false)
}
