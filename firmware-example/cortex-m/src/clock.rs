//! Counts instructions with the SysTick timer.
//!
//! Under `qemu-system-arm -icount shift=6` an instruction takes 64 ns of emulated time, so the timer's ticks say how many
//! there were. On hardware it counts cycles: drop the conversion there.

use bitttt_firmware::divided;
use core::sync::atomic::{AtomicU32, Ordering};
use cortex_m::peripheral::{SCB, SYST, syst::SystClkSource};
use cortex_m_rt::exception;

/// The timer has 24 bits and counts down; these are the times that it started again.
static WRAPS: AtomicU32 = AtomicU32::new(0);
const PERIOD: u64 = 1 << 24;

/// Ticks in a microsecond.
const MHZ: u32 = match u32::from_str_radix(env!("CLOCK_MHZ"), 10) {
    Ok(mhz) => mhz,
    Err(_) => panic!("build.rs sets CLOCK_MHZ to a number"),
};

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

    /// Instructions since the start.
    pub fn instructions(&self) -> u64 {
        divided(self.ticks() * 1000, 64 * MHZ).0
    }

    fn ticks(&self) -> u64 {
        loop {
            let wraps = WRAPS.load(Ordering::Relaxed);
            let left = SYST::get_current();
            // Read again where the timer started over in between, or has and the exception is still to come.
            if !SCB::is_pendst_pending() && WRAPS.load(Ordering::Relaxed) == wraps {
                return u64::from(wraps) * PERIOD + (PERIOD - 1 - u64::from(left));
            }
        }
    }
}

#[exception]
fn SysTick() {
    // Load and store: the smallest cores cannot add in one go, and nobody else writes.
    WRAPS.store(
        WRAPS.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}
