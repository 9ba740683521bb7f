//! Watches a machine that the model, demo/sensor.bttt, never saw, and says when it raised the alarm.
#![no_std]
#![no_main]

use bitttt_firmware::{finish, model::PLAN, monitor};
use bitttt_riscv32::Board;
use riscv_rt::entry;

#[entry]
fn main() -> ! {
    static mut MEMORY: [f32; PLAN.words()] = [0.0; PLAN.words()];
    let mut board = Board::start();
    let memory = &raw mut MEMORY;
    // SAFETY: `main` runs once, and nothing else can name the static.
    let done = monitor(&mut board, unsafe { &mut *memory });
    finish(&mut board, done)
}
