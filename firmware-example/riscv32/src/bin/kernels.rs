//! Compares single products with their definition and counts their instructions.
#![no_std]
#![no_main]

use bitttt_firmware::{Room, finish, kernels};
use bitttt_riscv32::Board;
use riscv_rt::entry;

#[entry]
fn main() -> ! {
    static mut ROOM: Room = Room::NEW;
    let mut board = Board::start();
    let room = &raw mut ROOM;
    // SAFETY: `main` runs once, and nothing else can name the static.
    let done = kernels(&mut board, unsafe { &mut *room });
    finish(&mut board, done)
}
