//! Watches a machine that the model, demo/sensor.bttt, never saw, and says when it raised the alarm.
#![no_std]
#![no_main]

use bitttt_cortex_m::Board;
use bitttt_firmware::{finish, model::PLAN, monitor};
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    static mut MEMORY: [f32; PLAN.words()] = [0.0; PLAN.words()];
    let mut board = Board::start();
    let done = monitor(&mut board, MEMORY);
    finish(&mut board, done)
}
