//! How much RAM the firmware has used: statics by the linker's symbols, the stack by its paint.

use core::ptr::addr_of;
use cortex_m_rt::STACK_PAINT_VALUE;

unsafe extern "C" {
    static __sdata: u32;
    static _stack_end: u32;
    static _stack_start: u32;
}

/// Bytes of statics, from the first initialised one to the end of the last.
pub fn statics() -> usize {
    addr_of!(_stack_end) as usize - addr_of!(__sdata) as usize
}

/// Bytes of stack that have been used at most so far. `cortex-m-rt` paints the stack before `main`.
pub fn stack() -> usize {
    let (mut lowest, top) = (addr_of!(_stack_end), addr_of!(_stack_start));
    // SAFETY: the linker script puts both ends of the stack region, aligned words of RAM, at these symbols.
    while lowest < top && unsafe { lowest.read_volatile() } == STACK_PAINT_VALUE {
        lowest = lowest.wrapping_add(1);
    }
    top as usize - lowest as usize
}
