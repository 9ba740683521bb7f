//! Integer weights times activations that are not quantised: for models that were trained without that.
//!
//! Weights become f32, exactly, a block at a time, and the sums are those of rule 3 (docs/NUMERICS.md): element `e` of a row
//! into lane `e mod 16`. Blocks are whole numbers of lanes.

use super::lanes::{LANES, tree};
use super::{Product, Range};
use crate::model::Weights;
use crate::pieces::Cut;

/// Bytes of a row that become floats together.
const BLOCK: usize = 64;
/// Their most weights: five planes.
const WIDEST: usize = 5 * BLOCK;
/// Tokens that share a block of floats.
const TOKENS: usize = 8;

/// The rows `rows` of a product with float activations.
#[inline(always)]
pub(crate) fn product_wide(p: &Product<'_>, rows: Range<usize>) {
    match p.m.weights {
        Weights::T2(data, scale) => each_row(data, p, rows, |r| scale.of(r), t2_block),
        Weights::T5(data, scale) => each_row(data, p, rows, |r| scale.of(r), t5_block),
        Weights::I8(data, scales) => each_row(data, p, rows, |r| super::at(scales, r), i8_block),
        Weights::Float(data) => super::float_rows(data, p, rows),
    }
}

/// `block` turns bytes into floats and returns how many weights a byte holds.
#[inline(always)]
fn each_row<W>(
    data: &[W],
    p: &Product<'_>,
    rows: Range<usize>,
    scale: impl Fn(usize) -> f32,
    block: impl Fn(&[W], &mut [f32; WIDEST]) -> usize,
) {
    let (width, cols) = (super::row_width(data, p.m), p.m.cols.max(1));
    for r in rows {
        let row = super::row(data, r, width);
        for (group, x) in p.x.parts(TOKENS * cols).enumerate() {
            let mut sums = [[0.0; LANES]; TOKENS];
            let mut at = 0;
            for bytes in row.parts(BLOCK) {
                let mut floats = [0.0; WIDEST];
                let planes = block(bytes, &mut floats);
                let end = (at + planes * bytes.len()).min(cols);
                for (x, sums) in x.pieces(cols).zip(&mut sums) {
                    add(sums, &floats, x.get(at..end).unwrap_or(&[]));
                }
                at = end;
            }
            for (t, sums) in sums.iter().take(x.len() / cols).enumerate() {
                let sum = tree(*sums, |a, b| a + b);
                let out = p.out(group * TOKENS + t, r..r + 1);
                out.iter_mut().for_each(|out| *out = sum * scale(r));
            }
        }
    }
}

/// `lane[e mod 16] += w_e x_e`.
#[inline(always)]
fn add(lanes: &mut [f32; LANES], w: &[f32; WIDEST], x: &[f32]) {
    let mut sums = *lanes;
    let (w, _) = w.as_chunks::<LANES>();
    let (x, rest) = x.as_chunks::<LANES>();
    for (w, x) in w.iter().zip(x) {
        for ((sum, w), x) in sums.iter_mut().zip(w).zip(x) {
            *sum += w * x;
        }
    }
    let last = w.get(x.len()).unwrap_or(&[0.0; LANES]);
    for ((sum, w), x) in sums.iter_mut().zip(last).zip(rest) {
        *sum += w * x;
    }
    *lanes = sums;
}

#[inline(always)]
fn t2_block(bytes: &[u8], floats: &mut [f32; WIDEST]) -> usize {
    for (plane, floats) in floats.pieces_mut(bytes.len()).take(4).enumerate() {
        for (to, byte) in floats.iter_mut().zip(bytes) {
            *to = f32::from((byte >> (2 * plane)) & 3) - 1.0;
        }
    }
    4
}

#[inline(always)]
fn t5_block(bytes: &[u8], floats: &mut [f32; WIDEST]) -> usize {
    let mut power = 1u8;
    for floats in floats.pieces_mut(bytes.len()).take(5) {
        for (to, &byte) in floats.iter_mut().zip(bytes) {
            let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
            *to = f32::from(digit) - 1.0;
        }
        power = power.wrapping_mul(3);
    }
    5
}

#[inline(always)]
fn i8_block(codes: &[i8], floats: &mut [f32; WIDEST]) -> usize {
    let pairs = floats.iter_mut().zip(codes);
    pairs.for_each(|(to, &code)| *to = f32::from(code));
    1
}
