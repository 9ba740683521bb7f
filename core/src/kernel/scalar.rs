//! Integer dot products in plain Rust: the reference for every other backend, and what small targets run.
//!
//! All take one packed row and one quantised activation vector and return the exact i32 sum.

use super::Product;
use crate::format::DType;
use crate::model::Weights;
use core::ops::Range;

/// `out[t, r] = row_r . activations_t`, see [`super::Backend::matmul`].
pub(crate) fn product(p: &Product<'_>, rows: Range<usize>) {
    match p.m.weights {
        Weights::T2(data, scale) if DType::T2.is_built(true) => {
            each_row(data, p, rows, |r| scale.of(r), t2_dot)
        }
        Weights::T5(data, scale) => each_row(data, p, rows, |r| scale.of(r), t5_dot),
        Weights::I8(data, scales) => each_row(
            data,
            p,
            rows,
            |r| super::at(scales, r),
            |row, q, _| i8_dot(row, q),
        ),
        Weights::Float(data) if DType::F32.is_built(true) => super::float_rows(data, p, rows),
        _ => {} // refused when the model was read
    }
}

#[inline(always)]
fn each_row<W>(
    data: &[W],
    p: &Product<'_>,
    rows: Range<usize>,
    scale: impl Fn(usize) -> f32,
    dot: impl Fn(&[W], &[i8], i32) -> i32,
) {
    let width = super::row_width(data, p.m);
    let dot = |r, q: &[i8], sum| [dot(super::row(data, r, width), q, sum)];
    super::rows(rows, p, scale, dot);
}

/// `sum_i T_i q_i` over one `t2` row, as `sum_i (T_i + 1) q_i - sum_i q_i`: bits `2p..2p+2` of a byte hold weight + 1
/// of plane `p`; code 3, which the exporter never writes, counts as +2. A block has `s` bytes (64, the last one
/// fewer); byte `j` holds the weights of columns `j, j + s, j + 2 s, j + 3 s` of the block.
///
/// All planes of a byte at once and one subtraction a row: half the instructions of plane by plane on a Cortex-M4.
#[inline(always)]
fn t2_dot(row: &[u8], q: &[i8], total: i32) -> i32 {
    let mut sum = 0;
    let mut q = q;
    for block in row.chunks(64) {
        let mut plane = || {
            let (plane, rest) = q.split_at_checked(block.len()).unwrap_or_default();
            q = rest;
            plane
        };
        let codes = plane().iter().zip(plane()).zip(plane()).zip(plane());
        for (&byte, (((&q0, &q1), &q2), &q3)) in block.iter().zip(codes) {
            let code = |plane: usize| i32::from((byte >> (2 * plane)) & 3);
            sum += code(0) * i32::from(q0) + code(1) * i32::from(q1);
            sum += code(2) * i32::from(q2) + code(3) * i32::from(q3);
        }
    }
    sum - total
}

/// The same over one `t5` row, whose blocks have five planes.
#[inline(always)]
fn t5_dot(row: &[u8], q: &[i8], total: i32) -> i32 {
    let mut sum = 0;
    let mut q = q;
    for block in row.chunks(64) {
        let mut plane = || {
            let (plane, rest) = q.split_at_checked(block.len()).unwrap_or_default();
            q = rest;
            plane
        };
        let codes = plane().iter().zip(plane()).zip(plane()).zip(plane());
        for (&byte, ((((&q0, &q1), &q2), &q3), &q4)) in block.iter().zip(codes.zip(plane())) {
            let codes = T5_CODES[usize::from(byte)];
            let code = |plane: usize| i32::from((codes >> (2 * plane)) & 3);
            sum += code(0) * i32::from(q0) + code(1) * i32::from(q1);
            sum += code(2) * i32::from(q2) + code(3) * i32::from(q3);
            sum += code(4) * i32::from(q4);
        }
    }
    sum - total
}

/// Codes of every `t5` byte, laid out as in a `t2` byte. Half a KiB of flash for a third of the instructions.
static T5_CODES: [u16; 256] = {
    let mut all = [0; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = t5_codes(byte as u8);
        byte += 1;
    }
    all
};

/// A `t5` byte holds `ceil(v * 256 / 243)` with `v` five base-3 digits, plane 0 the most significant; digit `p`, which is
/// weight + 1, is `(byte * 3^p mod 256) * 3 / 256`, defined for every byte.
const fn t5_codes(byte: u8) -> u16 {
    let (mut codes, mut left, mut plane) = (0, byte as u16, 0);
    while plane < 5 {
        codes |= (left * 3) >> 8 << (2 * plane);
        left = (left * 3) & 0xFF;
        plane += 1;
    }
    codes
}

/// `sum_i W_i q_i` over one row of signed bytes.
#[inline(always)]
pub(crate) fn i8_dot(row: &[i8], q: &[i8]) -> i32 {
    row.iter()
        .zip(q)
        .map(|(&w, &q)| i32::from(w) * i32::from(q))
        .sum()
}
