//! Shows on the device what the host's tests show: see `bitttt_firmware::self_test`.
#![no_std]
#![no_main]

use bitttt_firmware::{finish, model::PLAN, self_test};
use bitttt_riscv32::Board;
use riscv_rt::entry;

#[entry]
fn main() -> ! {
    static mut MEMORY: [f32; PLAN.words()] = [0.0; PLAN.words()];
    static mut SNAPSHOT: [u8; PLAN.snapshot_bytes()] = [0; PLAN.snapshot_bytes()];
    let mut board = Board::start();
    let (memory, snapshot) = (&raw mut MEMORY, &raw mut SNAPSHOT);
    // SAFETY: `main` runs once, and nothing else can name the statics.
    let (memory, snapshot) = unsafe { (&mut *memory, &mut *snapshot) };
    let done = self_test(&mut board, memory, snapshot);
    finish(&mut board, done)
}
