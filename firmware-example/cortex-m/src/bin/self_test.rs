//! Shows on the device what the host's tests show: see `bitttt_firmware::self_test`.
#![no_std]
#![no_main]

use bitttt_cortex_m::Board;
use bitttt_firmware::{finish, model::PLAN, self_test};
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    static mut MEMORY: [f32; PLAN.words()] = [0.0; PLAN.words()];
    static mut SNAPSHOT: [u8; PLAN.snapshot_bytes()] = [0; PLAN.snapshot_bytes()];
    let mut board = Board::start();
    let done = self_test(&mut board, MEMORY, SNAPSHOT);
    finish(&mut board, done)
}
