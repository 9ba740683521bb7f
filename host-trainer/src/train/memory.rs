//! The allocator's settings for training.

/// Tells glibc to keep freed memory. Every step frees and asks for the same megabytes; by default
/// each such block comes fresh from the system and is cleared page by page, which took a sixth of the
/// time of a step. Elsewhere it does nothing.
#[allow(unsafe_code)]
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes plain numbers, is thread-safe, and refuses values it does not know.
    unsafe {
        // 32 MiB is the largest threshold that glibc accepts.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}
