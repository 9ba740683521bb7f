//! Compares single products with their definition and counts their instructions.
#![no_std]
#![no_main]

use bitttt_cortex_m::Board;
use bitttt_firmware::{Room, finish, kernels};
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    static mut ROOM: Room = Room::NEW;
    let mut board = Board::start();
    let done = kernels(&mut board, ROOM);
    finish(&mut board, done)
}
