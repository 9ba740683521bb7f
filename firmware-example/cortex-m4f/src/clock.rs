//! Counts instructions with the SysTick timer.
//!
//! Under `qemu-system-arm -icount shift=6` an instruction takes 64 ns of emulated time and the timer of this board
//! ticks at 25 MHz, so ticks times 5/8 are instructions. On hardware the same code counts cycles times 5/8: use
//! the ticks there.

use core::sync::atomic::{AtomicU32, Ordering};
use cortex_m::peripheral::{SCB, SYST, syst::SystClkSource};
use cortex_m_rt::exception;

/// The timer has 24 bits and counts down; these are the times that it started again.
static WRAPS: AtomicU32 = AtomicU32::new(0);
const PERIOD: u64 = 1 << 24;

/// A running timer.
pub struct Clock(());

impl Clock {
    /// Starts the timer.
    pub fn start(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload((PERIOD - 1) as u32);
        timer.clear_current();
        timer.enable_interrupt();
        timer.enable_counter();
        Self(())
    }

    /// Ticks since the start.
    pub fn ticks(&self) -> u64 {
        loop {
            let wraps = WRAPS.load(Ordering::Relaxed);
            let left = SYST::get_current();
            // Read again where the timer started over in between, or has and the exception is still to come.
            if !SCB::is_pendst_pending() && WRAPS.load(Ordering::Relaxed) == wraps {
                return u64::from(wraps) * PERIOD + (PERIOD - 1 - u64::from(left));
            }
        }
    }

    /// Instructions that took `ticks`.
    pub fn instructions(ticks: u64) -> u64 {
        ticks * 5 / 8
    }
}

#[exception]
fn SysTick() {
    WRAPS.store(
        WRAPS.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}
