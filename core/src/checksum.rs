//! CRC-32 (ISO-HDLC, the one of zip and PNG): over sections, snapshots, and as the hash of tokens and states.

use crc::{CRC_32_ISO_HDLC, Crc, Digest, Table};

/// One 1 KiB table: a device checks kilobytes, and flash is dearer than the time.
static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);

/// CRC-32 of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// A CRC-32 over pieces.
pub(crate) fn digest() -> Digest<'static, u32, Table<1>> {
    CRC.digest()
}
