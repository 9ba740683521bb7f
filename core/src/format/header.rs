//! Header and section table.

use super::read::{slice_at, u16_at, u32_at, u64_at};
use super::{BlobError, MAJOR};

/// First bytes of every blob.
pub const MAGIC: [u8; 4] = *b"BTTT";
/// Size of the fixed header.
pub const HEADER_BYTES: usize = 32;
/// Size of one section table entry.
pub const SECTION_BYTES: usize = 24;
/// Sections start on this boundary.
pub const SECTION_ALIGN: u64 = 64;
/// At most this many sections.
pub const MAX_SECTIONS: u32 = 16;

/// Byte offsets of the header's fields.
pub mod field {
    #![allow(missing_docs)]
    pub const MAGIC: usize = 0;
    pub const MAJOR: usize = 4;
    pub const MINOR: usize = 6;
    pub const FILE_BYTES: usize = 8;
    pub const SECTION_COUNT: usize = 16;
    pub const CRC: usize = 20;
    pub const RESERVED: usize = 24;
}

/// Byte offsets within a section table entry.
pub mod section_field {
    #![allow(missing_docs)]
    pub const KIND: usize = 0;
    pub const CRC: usize = 4;
    pub const OFFSET: usize = 8;
    pub const BYTES: usize = 16;
}

/// The parts of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Section {
    /// Header and section table.
    Header = 0,
    /// Model config and layer records.
    Config = 1,
    /// Tensor table.
    Table = 2,
    /// Tensor data.
    Tensors = 3,
    /// Byte-level BPE tokenizer (optional).
    Tokenizer = 4,
    /// UTF-8 text that the core ignores (optional).
    Metadata = 5,
}

impl Section {
    /// All sections that stand in the section table.
    pub const ALL: [Self; 5] = [
        Self::Config,
        Self::Table,
        Self::Tensors,
        Self::Tokenizer,
        Self::Metadata,
    ];

    /// Name in errors and in `inspect`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Config => "config",
            Self::Table => "tensor table",
            Self::Tensors => "tensors",
            Self::Tokenizer => "tokenizer",
            Self::Metadata => "metadata",
        }
    }
}

/// The sections of a blob, located and bounds-checked. Sections that are absent are empty.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    bytes: &'a [u8],
    /// As it was when the blob was parsed: the bytes may be a map of a file that is written to.
    fingerprint: u32,
    /// First byte and length of each kind but the header; half of what slices would take on a device's stack.
    sections: [(usize, usize); 5],
}

impl<'a> Layout<'a> {
    /// Locates the sections. Reads the header and the section table only; no checksums.
    ///
    /// # Errors
    /// Whatever is inconsistent, by name.
    pub const fn parse(bytes: &'a [u8]) -> Result<Self, BlobError> {
        if let Err(error) = check_header(bytes) {
            return Err(error);
        }
        let mut layout = Self {
            bytes,
            fingerprint: u32_at(bytes, field::CRC),
            sections: [(0, 0); 5],
        };
        let count = u32_at(bytes, field::SECTION_COUNT);
        let mut end = (HEADER_BYTES + count as usize * SECTION_BYTES) as u64;
        let mut i = 0;
        while i < count {
            let entry = HEADER_BYTES + i as usize * SECTION_BYTES;
            end = match layout.take_section(entry, end) {
                Ok(end) => end,
                Err(error) => return Err(error),
            };
            i += 1;
        }
        if end != bytes.len() as u64 {
            return Err(BlobError::Section(Section::Header));
        }
        Ok(layout)
    }

    /// Checks one entry (sections ascend, are aligned, leave no gap of a whole alignment unit) and remembers
    /// it if its kind is known. Returns the section's end.
    const fn take_section(&mut self, entry: usize, previous_end: u64) -> Result<u64, BlobError> {
        let kind = u32_at(self.bytes, entry + section_field::KIND);
        let offset = u64_at(self.bytes, entry + section_field::OFFSET);
        let len = u64_at(self.bytes, entry + section_field::BYTES);
        let section = section_of(kind);
        let named = match section {
            Some(section) => section,
            None => Section::Header,
        };
        let misplaced = slice_at(self.bytes, offset, len).is_none()
            || !offset.is_multiple_of(SECTION_ALIGN)
            || offset < previous_end
            || offset - previous_end >= SECTION_ALIGN;
        if misplaced {
            return Err(BlobError::Section(named));
        }
        if let Some(section) = section {
            let place = section as usize - 1;
            if self.sections[place].1 != 0 {
                return Err(BlobError::Section(section));
            }
            self.sections[place] = (offset as usize, len as usize);
        }
        Ok(offset + len)
    }

    /// Bytes of a section; empty if absent.
    #[cfg_attr(bitttt_micro, inline(never))]
    pub const fn section(&self, section: Section) -> &'a [u8] {
        let (start, len) = match section {
            Section::Header => return &[],
            _ => self.sections[section as usize - 1],
        };
        match self.bytes.split_at_checked(start) {
            Some((_, rest)) => match rest.split_at_checked(len) {
                Some((data, _)) => data,
                None => &[],
            },
            None => &[],
        }
    }

    /// Checks a section's checksum by reading all of it.
    ///
    /// # Errors
    /// [`BlobError::Checksum`].
    pub fn check(&self, section: Section) -> Result<(), BlobError> {
        let matches = match section {
            Section::Header => self.header_sum() == self.fingerprint(),
            _ => crate::crc32(self.section(section)) == self.listed_sum(section),
        };
        if matches {
            Ok(())
        } else {
            Err(BlobError::Checksum(section))
        }
    }

    /// A section's checksum as the section table has it; that of nothing where the section is absent.
    fn listed_sum(&self, section: Section) -> u32 {
        let count = u32_at(self.bytes, field::SECTION_COUNT) as usize;
        (0..count)
            .map(|i| HEADER_BYTES + i * SECTION_BYTES)
            .find(|entry| u32_at(self.bytes, entry + section_field::KIND) == section as u32)
            .map_or(0, |entry| u32_at(self.bytes, entry + section_field::CRC))
    }

    /// The header's checksum covers header and section table, hence, through the section checksums, the whole
    /// file: it serves as the model's fingerprint. It stays what it was when the blob was parsed.
    pub const fn fingerprint(&self) -> u32 {
        self.fingerprint
    }

    /// All bytes of the blob.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// `(major, minor)` version of the file.
    pub const fn version(&self) -> (u16, u16) {
        (
            u16_at(self.bytes, field::MAJOR),
            u16_at(self.bytes, field::MINOR),
        )
    }

    fn header_sum(&self) -> u32 {
        let count = u32_at(self.bytes, field::SECTION_COUNT) as usize;
        let end = HEADER_BYTES + count * SECTION_BYTES;
        let mut digest = crate::Crc32::new();
        digest.update(self.bytes.get(..field::CRC).unwrap_or(&[]));
        digest.update(&[0; 4]);
        digest.update(self.bytes.get(field::RESERVED..end).unwrap_or(&[]));
        digest.finalize()
    }
}

/// The fixed header alone. Order matters: a foreign file is called foreign, not truncated.
const fn check_header(bytes: &[u8]) -> Result<(), BlobError> {
    if bytes.len() >= 4 && u32_at(bytes, field::MAGIC) != u32::from_le_bytes(MAGIC) {
        return Err(BlobError::NotABlob);
    }
    if bytes.len() < HEADER_BYTES {
        return Err(BlobError::Truncated);
    }
    let (major, minor) = (u16_at(bytes, field::MAJOR), u16_at(bytes, field::MINOR));
    if major != MAJOR {
        return Err(BlobError::Version { major, minor });
    }
    let (header, given) = (u64_at(bytes, field::FILE_BYTES), bytes.len() as u64);
    if header != given {
        return Err(BlobError::Length { header, given });
    }
    let count = u32_at(bytes, field::SECTION_COUNT);
    if count > MAX_SECTIONS {
        return Err(BlobError::Section(Section::Header));
    }
    if bytes.len() < HEADER_BYTES + count as usize * SECTION_BYTES {
        return Err(BlobError::Truncated);
    }
    Ok(())
}

const fn section_of(kind: u32) -> Option<Section> {
    match kind {
        1 => Some(Section::Config),
        2 => Some(Section::Table),
        3 => Some(Section::Tensors),
        4 => Some(Section::Tokenizer),
        5 => Some(Section::Metadata),
        _ => None,
    }
}
