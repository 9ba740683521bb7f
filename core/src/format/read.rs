//! Little-endian reads that work in const context and never fail: past the end they read zeros.

/// Byte at `at`.
#[cfg_attr(bitttt_micro, inline(never))]
pub const fn u8_at(bytes: &[u8], at: usize) -> u8 {
    if at < bytes.len() { bytes[at] } else { 0 }
}

/// Little-endian u16 at `at`.
#[cfg_attr(bitttt_micro, inline(never))]
pub const fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([u8_at(bytes, at), u8_at(bytes, at.saturating_add(1))])
}

/// Little-endian u32 at `at`.
#[cfg_attr(bitttt_micro, inline(never))]
pub const fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u16_at(bytes, at) as u32 | (u16_at(bytes, at.saturating_add(2)) as u32) << 16
}

/// Little-endian u64 at `at`.
#[cfg_attr(bitttt_micro, inline(never))]
pub const fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) as u64 | (u32_at(bytes, at.saturating_add(4)) as u64) << 32
}

/// Little-endian f32 at `at`.
pub const fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_bits(u32_at(bytes, at))
}

/// `bytes[from..from + len]`, or nothing where that is outside.
#[cfg_attr(bitttt_micro, inline(never))]
pub const fn slice_at(bytes: &[u8], from: u64, len: u64) -> Option<&[u8]> {
    if from > bytes.len() as u64 || len > bytes.len() as u64 - from {
        return None;
    }
    match bytes.split_at_checked(from as usize) {
        Some((_, rest)) => match rest.split_at_checked(len as usize) {
            Some((piece, _)) => Some(piece),
            None => None,
        },
        None => None,
    }
}
