//! Ternary weights to bytes: the plane layouts of docs/FORMAT.md.

use bitttt_core::format::DType;

/// Packs one row of weights -1, 0, 1; `None` if a weight is something else.
pub fn pack_row(trits: &[i8], dtype: DType) -> Option<Vec<u8>> {
    if trits.iter().any(|t| !(-1..=1).contains(t)) {
        return None;
    }
    let planes = if dtype == DType::T5 { 5 } else { 4 };
    let blocks = trits.chunks(64 * planes);
    Some(blocks.flat_map(|block| pack_block(block, planes)).collect())
}

/// Byte `j` of a block of `s` bytes holds the weights `j, j + s, j + 2 s, …`; weights past the end are 0.
fn pack_block(block: &[i8], planes: usize) -> impl Iterator<Item = u8> {
    let stride = block.len().div_ceil(planes);
    (0..stride).map(move |j| {
        let digits = (0..planes).map(|p| block.get(p * stride + j).copied().unwrap_or(0) + 1);
        if planes == 5 {
            pack_t5(digits)
        } else {
            pack_t2(digits)
        }
    })
}

/// Bits `2p..2p+2` hold digit `p`.
fn pack_t2(digits: impl Iterator<Item = i8>) -> u8 {
    digits.zip(0..).fold(0, |byte, (digit, plane)| {
        byte | (digit as u8) << (2 * plane)
    })
}

/// Base 3, digit 0 the most significant, stretched from 243 to 256 values so that a multiplication gets a digit back.
fn pack_t5(digits: impl Iterator<Item = i8>) -> u8 {
    let v = digits.fold(0u32, |v, digit| v * 3 + digit as u32);
    (v * 256).div_ceil(243) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t2_follows_the_table_of_the_format_document() {
        assert_eq!(
            pack_row(&[-1, 0, 1, 0], DType::T2).unwrap(),
            [0b01_10_01_00]
        );
        assert_eq!(
            pack_row(&[1, 1, 0, -1, 0, -1, 1], DType::T2).unwrap(),
            [0b10_01_01_10, 0b01_00_00_10]
        );
    }

    #[test]
    fn t5_follows_the_table_of_the_format_document() {
        assert_eq!(pack_row(&[-1; 5], DType::T5).unwrap(), [0]);
        assert_eq!(pack_row(&[1; 5], DType::T5).unwrap(), [255]);
        assert_eq!(pack_row(&[0; 5], DType::T5).unwrap(), [128]);
        assert_eq!(pack_row(&[1, 0, -1, 0, 1], DType::T5).unwrap(), [205]);
    }

    #[test]
    fn other_weights_are_refused() {
        assert_eq!(pack_row(&[0, 2], DType::T2), None);
    }
}
