//! Reads a prompt, learns from it, goes on in its manner and says what that cost.
#![no_std]
#![no_main]

use bitttt_firmware::{finish, generate, model::PLAN};
use bitttt_riscv32::Board;
use riscv_rt::entry;

#[entry]
fn main() -> ! {
    static mut MEMORY: [f32; PLAN.words()] = [0.0; PLAN.words()];
    let mut board = Board::start();
    let memory = &raw mut MEMORY;
    // SAFETY: `main` runs once, and nothing else can name the static.
    let done = generate(&mut board, unsafe { &mut *memory });
    finish(&mut board, done)
}
