//! Settings of the whole process, made before it has a second thread.

/// Prepares the process; call it first in `main`.
pub fn prepare() {
    keep_candle_on_one_thread();
    keep_freed_memory();
    bitttt_core::Backend::request_amx(); // refused or absent: the backend is not offered then
}

/// Most memory that this process ever had in use, in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// Candle's own pool waits by spinning: on two cores it costs a step a seventh of its time, and several times that where
/// another program wants a core. What is worth spreading over threads is ours and goes over rayon.
#[allow(unsafe_code)]
fn keep_candle_on_one_thread() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: no other thread exists yet that could read the environment meanwhile.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}

/// Tells glibc to keep freed memory. Every training step frees and asks for the same megabytes; by default each such
/// block comes fresh from the system and is cleared page by page, which took a sixth of the time of a step.
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes plain numbers, is thread-safe, and refuses values it does not know.
    unsafe {
        // 32 MiB is the largest threshold that glibc accepts.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
}
