//! CRC-32 (ISO-HDLC, the one of zip and PNG): over sections, snapshots, and as the hash of tokens and states.

use crc::{CRC_32_ISO_HDLC, Crc, Digest};

/// No table on a device, which checks kilobytes and whose flash is dearer than the time: a kilobyte of it; 16 of them on
/// hosts, which check gigabytes.
#[cfg(not(target_pointer_width = "64"))]
type Tables = crc::NoTable;
#[cfg(target_pointer_width = "64")]
type Tables = crc::Table<16>;

static CRC: Crc<u32, Tables> = Crc::<u32, Tables>::new(&CRC_32_ISO_HDLC);

/// CRC-32 of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// [`crc32`] of bytes that come in pieces.
pub struct Crc32(Digest<'static, u32, Tables>);

impl Crc32 {
    /// Of no bytes yet.
    pub fn new() -> Self {
        Self(CRC.digest())
    }

    /// Takes the next piece in.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The checksum of all pieces.
    pub fn finalize(self) -> u32 {
        self.0.finalize()
    }
}

impl Default for Crc32 {
    fn default() -> Self {
        Self::new()
    }
}
