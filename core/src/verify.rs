//! Reading every byte of a blob: checksums, code validity, finite floats, zero padding.

use crate::format::header::{HEADER_BYTES, SECTION_BYTES, field, section_field};
use crate::format::read::{slice_at, u32_at, u64_at};
use crate::format::{BlobError, DType, Entry, Role, Section};
use crate::model::Model;

impl Model<'_> {
    /// Reads the whole blob: every checksum, every ternary code, every float, all padding. O(bytes). Also tells whether the bytes
    /// are still those that the model was made of, where they are a map of a file that others may write to.
    ///
    /// # Errors
    /// The first fault, by name.
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn verify(&self) -> Result<(), BlobError> {
        self.layout().check(Section::Header)?;
        self.check_sections()?;
        if core::str::from_utf8(self.layout().section(Section::Metadata)).is_err() {
            return Err(BlobError::Section(Section::Metadata));
        }
        self.tensors()
            .try_for_each(|entry| self.check_values(&entry))
    }

    /// Sections, unknown ones too, match their checksums and bytes between them are zero, so that no byte of the file is
    /// free to change.
    fn check_sections(&self) -> Result<(), BlobError> {
        let bytes = self.layout().bytes();
        let count = u32_at(bytes, field::SECTION_COUNT) as usize;
        let mut end = (HEADER_BYTES + count * SECTION_BYTES) as u64;
        for entry in (0..count).map(|i| HEADER_BYTES + i * SECTION_BYTES) {
            let offset = u64_at(bytes, entry + section_field::OFFSET);
            let len = u64_at(bytes, entry + section_field::BYTES);
            let gap = slice_at(bytes, end, offset.saturating_sub(end)).unwrap_or(&[1]);
            let data = slice_at(bytes, offset, len).unwrap_or(&[]);
            if gap.iter().any(|&b| b != 0) {
                return Err(BlobError::Checksum(Section::Header));
            }
            if crate::crc32(data) != u32_at(bytes, entry + section_field::CRC) {
                let kind = u32_at(bytes, entry + section_field::KIND);
                let known = Section::ALL.into_iter().find(|&s| s as u32 == kind);
                return Err(BlobError::Checksum(known.unwrap_or(Section::Header)));
            }
            end = offset + len;
        }
        Ok(())
    }

    fn check_values(&self, entry: &Entry) -> Result<(), BlobError> {
        let data = self.data(entry);
        let valid = match entry.dtype {
            DType::T2 => all(data, |b| b & (b >> 1) & 0x55 == 0),
            DType::T5 => data.iter().all(|&b| is_t5_code(b)),
            DType::I8 => all(data, |b| b != 0x80),
            DType::F16 => data.chunks_exact(2).all(|b| b[1] & 0x7C != 0x7C),
            DType::F32 => data.chunks_exact(4).all(f32_is_finite),
        };
        if valid && self.scales(entry).iter().all(|s| s.is_finite()) {
            return Ok(());
        }
        let role = Role::GLOBAL
            .into_iter()
            .chain(Role::LAYER)
            .find(|&role| role as u8 == entry.role);
        Err(BlobError::Tensor {
            role: role.unwrap_or(Role::Embed),
            layer: entry.layer,
            field: "a value",
        })
    }
}

/// Whether all bytes are valid; stops between chunks only, so that the loop over one can be vectorised.
fn all(data: &[u8], valid: impl Fn(u8) -> bool) -> bool {
    let mut chunks = data.chunks(4096);
    chunks.all(|chunk| chunk.iter().fold(true, |all, &b| all & valid(b)))
}

fn f32_is_finite(bytes: &[u8]) -> bool {
    crate::format::read::f32_at(bytes, 0).is_finite()
}

/// Whether some five trits are stored as this byte: `ceil(v * 256 / 243)` for a `v` below 243.
fn is_t5_code(byte: u8) -> bool {
    let v = u32::from(byte) * 243 / 256;
    (v * 256).div_ceil(243) == u32::from(byte)
        || v < 242 && ((v + 1) * 256).div_ceil(243) == u32::from(byte)
}
