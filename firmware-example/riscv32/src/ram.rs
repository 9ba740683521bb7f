//! How much RAM the firmware has used: statics by the linker's symbols, the stack by paint.

use core::arch::asm;
use core::ptr::{addr_of, addr_of_mut};

unsafe extern "C" {
    static __sdata: u32;
    static mut __estack: u32;
    static __sstack: u32;
}

const PAINT: u32 = 0xcccc_cccc;

/// Bytes of statics, from the first initialised one to the end of the last.
pub fn statics() -> usize {
    addr_of!(__estack) as usize - addr_of!(__sdata) as usize
}

/// Paints the stack from its far end up to what is in use. Called first of all.
pub fn paint() {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mv {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    let mut word = addr_of_mut!(__estack);
    while (word as usize) < pointer {
        // SAFETY: an aligned word of the stack's region, by the linker script, below all that is in use.
        unsafe { word.write_volatile(PAINT) };
        word = word.wrapping_add(1);
    }
}

/// Bytes of stack that have been used at most so far.
pub fn stack() -> usize {
    let (mut lowest, top) = (addr_of!(__estack), addr_of!(__sstack));
    // SAFETY: the linker script puts both ends of the stack region, aligned words of RAM, at these symbols.
    while lowest < top && unsafe { lowest.read_volatile() } == PAINT {
        lowest = lowest.wrapping_add(1);
    }
    top as usize - lowest as usize
}
