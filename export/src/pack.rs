//! Ternary weights to bytes: the plane layouts of docs/FORMAT.md.

use bitttt_core::format::DType;

/// Packs one row of weights -1, 0, 1; `None` if a weight is something else.
pub fn pack_row(trits: &[i8], dtype: DType) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    pack_rows(trits, trits.len(), dtype, &mut out)?;
    Some(out)
}

/// Appends rows of `cols` weights -1, 0, 1 to `out`; `None` if a weight is something else.
pub fn pack_rows(trits: &[i8], cols: usize, dtype: DType, out: &mut Vec<u8>) -> Option<()> {
    let digits = trits.iter().map(|t| t.wrapping_add(1) as u8);
    if digits.fold(0, u8::max) > 2 {
        return None;
    }
    let planes = planes_of(dtype);
    for row in trits.chunks(cols.max(1)) {
        row.chunks(64 * planes)
            .for_each(|block| pack_block(block, dtype, out));
    }
    Some(())
}

fn planes_of(dtype: DType) -> usize {
    if dtype == DType::T5 { 5 } else { 4 }
}

/// Byte `j` of a block of `s` bytes holds the weights `j, j + s, j + 2 s, …`; weights past the end are 0.
fn pack_block(block: &[i8], dtype: DType, out: &mut Vec<u8>) {
    let stride = block.len().div_ceil(planes_of(dtype));
    let start = out.len();
    out.resize(start + stride, 0);
    let bytes = &mut out[start..];
    for plane in 0..planes_of(dtype) {
        let weights = block.get(plane * stride..).unwrap_or(&[]);
        match dtype {
            DType::T5 => add_plane(bytes, weights, |byte, digit| {
                byte.wrapping_mul(3).wrapping_add(digit)
            }),
            _ => add_plane(bytes, weights, |byte, digit| byte | digit << (2 * plane)),
        }
    }
    if dtype == DType::T5 {
        bytes.iter_mut().for_each(|byte| *byte = stretch(*byte));
    }
}

/// One plane over all bytes; where it has no more weights they are 0. Nothing in the loop can fail, in debug builds
/// either, so that compilers turn it into vector instructions.
#[inline(always)]
fn add_plane(bytes: &mut [u8], weights: &[i8], add: impl Fn(u8, u8) -> u8) {
    let (held, past) = bytes.split_at_mut(weights.len().min(bytes.len()));
    for (byte, &weight) in held.iter_mut().zip(weights) {
        *byte = add(*byte, weight.wrapping_add(1) as u8);
    }
    past.iter_mut().for_each(|byte| *byte = add(*byte, 1));
}

/// The byte of five digits in base 3: stretched from 243 to 256 values so that a multiplication gets a digit back.
fn stretch(v: u8) -> u8 {
    (u32::from(v) * 256).div_ceil(243) as u8
}

/// For each byte a valid code of five or four weights, about as often the one as the other: random bytes become random
/// weights by one look.
pub fn random_codes(dtype: DType) -> [u8; 256] {
    let (planes, values) = if dtype == DType::T5 {
        (5, 243)
    } else {
        (4, 81)
    };
    std::array::from_fn(|byte| {
        let v = byte * values / 256;
        let digit = |p: usize| (v / 3usize.pow(p as u32) % 3) as u8;
        if planes == 5 {
            return stretch(v as u8);
        }
        (0..planes).fold(0, |byte, p| byte | digit(planes - 1 - p) << (2 * p))
    })
}

/// Sets the places past the end of a packed row of `cols` weights to weight 0.
pub fn clear_tail(row: &mut [u8], cols: usize, dtype: DType) {
    let planes = planes_of(dtype);
    let tail = cols % (64 * planes);
    let stride = tail.div_ceil(planes);
    let start = row.len().saturating_sub(stride);
    let block = &mut row[start..];
    for place in tail..stride * planes {
        let (plane, byte) = (place / stride, &mut block[place % stride]);
        *byte = with_zero(*byte, plane as u32, dtype);
    }
}

/// A valid code with weight 0 in plane `plane`.
fn with_zero(code: u8, plane: u32, dtype: DType) -> u8 {
    if dtype != DType::T5 {
        return code & !(3 << (2 * plane)) | 1 << (2 * plane);
    }
    let (v, power) = (u32::from(code) * 243 / 256, 3u32.pow(4 - plane));
    stretch((v - v / power % 3 * power + power) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of a packed row, the format document's definition word for word; places past the end too.
    fn unpack(row: &[u8], cols: usize, dtype: DType) -> Vec<i8> {
        let planes = if dtype == DType::T5 { 5 } else { 4 };
        let digit = |byte: u8, p: usize| match dtype {
            DType::T5 => ((u32::from(byte) * 3u32.pow(p as u32) % 256) * 3) >> 8,
            _ => u32::from(byte >> (2 * p)) & 3,
        };
        let full = cols / (64 * planes) * 64;
        let blocks = row[..full].chunks(64).chain([&row[full..]]);
        let weights = blocks.flat_map(|block| {
            (0..planes).flat_map(move |p| block.iter().map(move |&b| digit(b, p) as i8 - 1))
        });
        weights.collect()
    }

    #[test]
    fn random_codes_are_valid_and_each_of_them_occurs() {
        for (dtype, values) in [(DType::T2, 81), (DType::T5, 243)] {
            let codes = random_codes(dtype);
            let distinct: std::collections::BTreeSet<u8> = codes.into_iter().collect();
            assert_eq!(distinct.len(), values);
            for code in codes {
                let weights = unpack(&[code], if values == 81 { 4 } else { 5 }, dtype);
                assert_eq!(pack_row(&weights, dtype), Some(vec![code]));
            }
        }
    }

    #[test]
    fn clearing_the_tail_changes_nothing_but_the_places_past_the_end() {
        for dtype in [DType::T2, DType::T5] {
            let codes = random_codes(dtype);
            for cols in 1..700 {
                let bytes = dtype.row_bytes(cols as u32) as usize;
                let row: Vec<u8> = (0..bytes).map(|i| codes[(i * 167 + cols) % 256]).collect();
                let mut cleared = row.clone();
                clear_tail(&mut cleared, cols, dtype);
                let (before, after) = (unpack(&row, cols, dtype), unpack(&cleared, cols, dtype));
                assert_eq!(before[..cols], after[..cols]);
                assert_eq!(
                    pack_row(&after[..cols], dtype),
                    Some(cleared),
                    "{cols} {dtype:?}"
                );
            }
        }
    }

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
