//! Reads a prompt, learns from it, goes on in its manner and says what that cost.
#![no_std]
#![no_main]

use bitttt_cortex_m::Board;
use bitttt_firmware::{finish, generate, model::PLAN};
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    static mut MEMORY: [f32; PLAN.words()] = [0.0; PLAN.words()];
    let mut board = Board::start();
    let done = generate(&mut board, MEMORY);
    finish(&mut board, done)
}
