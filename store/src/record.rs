//! The header of a record. Written last, it is what makes the record valid.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | `BTTR` |
//! | 4 | 4 | sequence number, one more than that of the record before |
//! | 8 | 4 | length of the snapshot in bytes |
//! | 12 | 4 | CRC-32 of the snapshot |
//! | 16 | 4 | CRC-32 of the bytes before |
//!
//! Little-endian. The snapshot begins with the next word of the flash.

use bitttt_core::crc32;

const MAGIC: u32 = u32::from_le_bytes(*b"BTTR");

/// Size without what fills its last word.
pub(crate) const HEADER_BYTES: usize = 20;

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub sequence: u32,
    pub length: u32,
    pub crc: u32,
}

impl Header {
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: u32| {
            bytes
                .iter_mut()
                .skip(at)
                .zip(value.to_le_bytes())
                .for_each(|(to, from)| *to = from)
        };
        put(0, MAGIC);
        put(4, self.sequence);
        put(8, self.length);
        put(12, self.crc);
        let crc = checksum(&bytes);
        bytes
            .iter_mut()
            .skip(16)
            .zip(crc.to_le_bytes())
            .for_each(|(to, from)| *to = from);
        bytes
    }

    /// `None` unless the bytes are a whole header.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let header = Self {
            sequence: word(bytes, 4),
            length: word(bytes, 8),
            crc: word(bytes, 12),
        };
        (header.to_bytes() == *bytes).then_some(header)
    }

    /// Whether this record was written after the other: the numbers of two slots are never far apart, so they may wrap.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.sequence.wrapping_sub(other.sequence) as i32 > 0
    }
}

fn checksum(bytes: &[u8; HEADER_BYTES]) -> u32 {
    crc32(bytes.get(..16).unwrap_or_default())
}

fn word(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u32::from_le_bytes(*word))
}
