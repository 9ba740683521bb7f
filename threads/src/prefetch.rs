//! Asking for memory ahead of time, which neither safe Rust nor the compiler does.

/// Asks the processor to bring the cache line at `bytes[at]` closer; nothing happens where there is none. A hint: it changes
/// no value and never fails. Does nothing on processors other than x86-64.
#[inline(always)]
pub fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(line) = bytes.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that could be seen, of an address that is valid besides.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
}
