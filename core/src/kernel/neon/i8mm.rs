//! Prefill by `smmla`, which multiplies two rows of eight bytes with two tokens of eight: twice the products of `sdot`.
//!
//! The panel ([`panel`]) is unpacked as ever; then neighbouring rows are laced, eight bytes of one and eight of the other, in
//! place. A tile laces its tokens in registers and takes as many rows as it can, so that this is done seldom.

use super::super::Product;
use super::super::panel::{self, COLUMNS, PITCH, Part};
use super::super::simd::{BLOCK, Format, Rows};
use super::multiply::{Smmla, smmla};
use super::registers::Neon;
use core::arch::aarch64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Rows of a panel, all of which make a tile with four tokens: 16 registers of sums.
const ROWS: usize = 16;
/// Panels are filled up to a multiple of this many rows, a small tile.
const FEW: usize = 4;

/// `out[t, r]` for `rows` and all tokens.
///
/// # Safety
/// The machine has DotProd and I8MM; rows and padded activations are there (`simd::packed` checks).
#[inline(always)]
pub(super) unsafe fn product<K: Format<Neon<Smmla>>>(
    p: &Product<'_>,
    w: Rows<'_>,
    rows: Range<usize>,
) {
    let mut panel = [MaybeUninit::<u8>::uninit(); ROWS * PITCH];
    let panel = panel.as_mut_ptr().cast::<u8>();
    let bytes = COLUMNS / (BLOCK * K::PLANES) * BLOCK; // of a row at a time, whole blocks
    let mut first = rows.start;
    while first < rows.end {
        let mut from = 0;
        while from < w.width {
            let part = Part {
                p,
                w,
                rows: first..rows.end.min(first + ROWS),
                bytes: from..w.width.min(from + bytes),
                planes: K::PLANES,
                offset: K::OFFSET,
            };
            // SAFETY: the caller's; a panel has room for `ROWS` rows of `COLUMNS` columns and an overhang.
            unsafe {
                let columns = panel::unpack::<Neon<Smmla>, K>(panel, &part);
                lace_rows(panel, part.rows.len().next_multiple_of(FEW), columns);
                multiply(&part, panel, columns);
            }
            from += bytes;
        }
        first += ROWS;
    }
}

/// The first halves of two registers, and the second.
#[inline(always)]
unsafe fn lace(a: uint8x16_t, b: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
    // SAFETY: the caller's.
    unsafe {
        let (a, b) = (vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b));
        (
            vreinterpretq_u8_u64(vzip1q_u64(a, b)),
            vreinterpretq_u8_u64(vzip2q_u64(a, b)),
        )
    }
}

/// Laces rows 0 and 1, 2 and 3, and so on: where 16 columns of the first were are the first eight of both.
///
/// # Safety
/// `panel::unpack` has filled `rows` rows, an even number, with `columns` columns, whole registers.
#[inline(always)]
unsafe fn lace_rows(panel: *mut u8, rows: usize, columns: usize) {
    for r in (0..rows).step_by(2) {
        for at in (0..columns).step_by(16) {
            // SAFETY: inside the two rows.
            unsafe {
                let (a, b) = (panel.add(r * PITCH + at), panel.add((r + 1) * PITCH + at));
                let (low, high) = lace(vld1q_u8(a), vld1q_u8(b));
                vst1q_u8(a, low);
                vst1q_u8(b, high);
            }
        }
    }
}

/// The panel times all tokens.
///
/// # Safety
/// As [`product`]; the panel is laced.
#[inline(always)]
unsafe fn multiply(part: &Part<'_>, panel: *const u8, columns: usize) {
    let tokens = part.p.q.scales.len();
    let mut t = 0;
    // SAFETY: the caller's.
    unsafe {
        while t + 4 <= tokens {
            tiles::<4>(part, panel, t, columns);
            t += 4;
        }
        while t + 2 <= tokens {
            tiles::<2>(part, panel, t, columns);
            t += 2;
        }
        if t < tokens {
            tiles::<1>(part, panel, t, columns);
        }
    }
}

/// `N` tokens from `t` on times all rows of the panel.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn tiles<const N: usize>(part: &Part<'_>, panel: *const u8, t: usize, columns: usize) {
    let q = &part.p.q;
    // SAFETY: the caller's.
    unsafe {
        let first = t * q.stride + part.first_column();
        let first = q.codes.as_ptr().cast::<u8>().add(first);
        if part.rows.len() == ROWS {
            let sums = tile::<ROWS, N>(panel, first, q.stride, columns);
            for (n, sums) in sums.iter().enumerate() {
                part.settle(t + n, part.rows.clone(), sums);
            }
            return;
        }
        let mut r = part.rows.start;
        while r < part.rows.end {
            let rows = panel.add((r - part.rows.start) * PITCH);
            let sums = tile::<FEW, N>(rows, first, q.stride, columns);
            for (n, sums) in sums.iter().enumerate() {
                part.settle(t + n, r..part.rows.end.min(r + FEW), sums);
            }
            r += FEW;
        }
    }
}

/// `R` rows of the panel times `N` tokens, in registers. A single token is its own partner.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn tile<const R: usize, const N: usize>(
    panel: *const u8,
    q: *const u8,
    stride: usize,
    columns: usize,
) -> [[i32; R]; N] {
    let mut totals = [[0; R]; N];
    // SAFETY: the caller's. Plain loops over constant lengths: they unroll, and what is not used of the arrays goes.
    unsafe {
        // Of tokens `n`, `n + 1` and rows `r`, `r + 1` at `[n][r]`.
        let mut sums = [[vdupq_n_s32(0); R]; N];
        let mut at = 0;
        while at < columns {
            let mut tokens = [(vdupq_n_u8(0), vdupq_n_u8(0)); N];
            let mut n = 0;
            while n < N {
                let partner = if n + 1 < N { n + 1 } else { n };
                let (a, b) = (q.add(n * stride + at), q.add(partner * stride + at));
                tokens[n] = lace(vld1q_u8(a), vld1q_u8(b));
                n += 2;
            }
            let mut r = 0;
            while r < R {
                let low = vld1q_u8(panel.add(r * PITCH + at));
                let high = vld1q_u8(panel.add((r + 1) * PITCH + at));
                let mut n = 0;
                while n < N {
                    sums[n][r] = smmla(sums[n][r], low, tokens[n].0);
                    sums[n][r] = smmla(sums[n][r], high, tokens[n].1);
                    n += 2;
                }
                r += 2;
            }
            at += 16;
        }
        // One store each, so that the loops unroll and the sums never leave the registers before.
        let mut stored = [[[0; 4]; R]; N];
        let mut n = 0;
        while n < N {
            let mut r = 0;
            while r < R {
                vst1q_s32(stored[n][r].as_mut_ptr(), sums[n][r]);
                r += 2;
            }
            n += 2;
        }
        for (n, totals) in totals.iter_mut().enumerate() {
            for (r, total) in totals.iter_mut().enumerate() {
                *total = stored[n / 2 * 2][r / 2 * 2][r % 2 * 2 + n % 2];
            }
        }
    }
    totals
}
