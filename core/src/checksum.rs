//! CRC-32 (ISO-HDLC, the one of zip and PNG): over sections, snapshots, and as the hash of tokens and states.

use crc::{CRC_32_ISO_HDLC, Crc, Digest, Table};

/// One 1 KiB table on a device, which checks kilobytes and whose flash is dearer than the time; 16 of them on hosts, which
/// check gigabytes: five times as fast.
#[cfg(not(target_pointer_width = "64"))]
type Tables = Table<1>;
#[cfg(target_pointer_width = "64")]
type Tables = Table<16>;

static CRC: Crc<u32, Tables> = Crc::<u32, Tables>::new(&CRC_32_ISO_HDLC);

/// CRC-32 of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// A CRC-32 over pieces.
pub(crate) fn digest() -> Digest<'static, u32, Tables> {
    CRC.digest()
}
