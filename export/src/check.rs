//! Whether stored elements are values that `Model::verify` accepts, and whether a written file is what was written.

use bitttt_core::format::DType;
use bitttt_core::format::header::{HEADER_BYTES, SECTION_BYTES, field, section_field};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes that are read back at once.
const RUN: usize = 1 << 20;

/// Whether the sections of a finished blob have the checksums of its section table, reading it back in small runs: a
/// memory map would do, but count as memory of the process. The header is for `Model::from_bytes` to check.
///
/// # Errors
/// A file that cannot be read.
pub fn checksums_are_right(mut file: &File) -> io::Result<bool> {
    let mut header = [0; HEADER_BYTES];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut header)?;
    let mut table =
        vec![0; number(&header, field::SECTION_COUNT, 4) as usize % 256 * SECTION_BYTES];
    file.read_exact(&mut table)?;
    let mut run = vec![0; RUN];
    for entry in table.chunks(SECTION_BYTES) {
        file.seek(SeekFrom::Start(number(entry, section_field::OFFSET, 8)))?;
        let mut left = number(entry, section_field::BYTES, 8);
        let mut digest = crc32fast::Hasher::new();
        while left > 0 {
            let part = &mut run[..left.min(RUN as u64) as usize];
            file.read_exact(part)?;
            digest.update(part);
            left -= part.len() as u64;
        }
        if u64::from(digest.finalize()) != number(entry, section_field::CRC, 4) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The little-endian number of `bytes` bytes at `at`.
fn number(of: &[u8], at: usize, bytes: usize) -> u64 {
    let digits = of[at..at + bytes].iter().rev();
    digits.fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Checks whole elements.
pub fn all_valid(bytes: &[u8], dtype: DType) -> bool {
    match dtype {
        DType::T2 => !bytes
            .iter()
            .fold(false, |bad, b| bad | (b & (b >> 1) & 0x55 != 0)),
        DType::T5 => {
            let mut valid = [false; 256];
            (0..243usize).for_each(|v| valid[(v * 256).div_ceil(243)] = true);
            bytes.iter().all(|&b| valid[usize::from(b)])
        }
        DType::I8 => !bytes.iter().fold(false, |bad, &b| bad | (b == 0x80)),
        DType::F16 => {
            let (halves, rest) = bytes.as_chunks::<2>();
            rest.is_empty()
                && halves
                    .iter()
                    .all(|b| half::f16::from_le_bytes(*b).is_finite())
        }
        DType::F32 => {
            let (floats, rest) = bytes.as_chunks::<4>();
            rest.is_empty() && floats.iter().all(|b| f32::from_le_bytes(*b).is_finite())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::random_codes;
    use crate::random::{FULL_LAYER, small_config};
    use crate::{BlobWriter, Outline, synth};
    use std::io::Write;

    #[test]
    fn a_bit_that_turned_in_any_section_is_found() {
        let config = small_config();
        let layers = vec![FULL_LAYER; config.n_layers as usize];
        let outline = Outline {
            config: &config,
            layers: &layers,
            tokenizer: None,
            metadata: "{}",
        };
        let out = io::Cursor::new(Vec::new());
        let mut writer = BlobWriter::new(out, "x".as_ref(), &outline).unwrap();
        synth::fill(&mut writer, DType::T2, 0, |_| {}).unwrap();
        let blob = writer.finish().unwrap().into_inner();
        let right = |blob: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(blob).unwrap();
            checksums_are_right(&file).unwrap()
        };
        assert!(right(&blob));
        for at in [192, blob.len() / 2, blob.len() - 1] {
            let mut damaged = blob.clone();
            damaged[at] ^= 1;
            assert!(!right(&damaged), "{at}");
        }
    }

    #[test]
    fn exactly_the_codes_of_three_values_are_valid() {
        for dtype in [DType::T2, DType::T5] {
            let codes = random_codes(dtype);
            for byte in 0..=255 {
                assert_eq!(
                    all_valid(&[byte], dtype),
                    codes.contains(&byte),
                    "{byte} {dtype:?}"
                );
            }
        }
        assert!(all_valid(&[0x81, 0x7F, 0], DType::I8) && !all_valid(&[0, 0x80], DType::I8));
    }

    #[test]
    fn floats_are_finite_and_whole() {
        let f16 = |x: f32| half::f16::from_f32(x).to_le_bytes();
        assert!(all_valid(&f16(-65504.0), DType::F16) && !all_valid(&f16(1e6), DType::F16));
        assert!(!all_valid(&[0], DType::F16) && !all_valid(&[0; 6], DType::F32));
        assert!(all_valid(&1e38f32.to_le_bytes(), DType::F32));
        assert!(!all_valid(&f32::NAN.to_le_bytes(), DType::F32));
    }
}
