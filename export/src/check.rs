//! Whether stored elements are values that `Model::verify` accepts.

use bitttt_core::format::DType;

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
