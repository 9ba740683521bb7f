//! Matrix times matrix, for prefill: weights are unpacked once into a panel of codes that stays in the first cache, and
//! multiplied with all tokens from there, in tiles of rows by tokens that live in registers.
//!
//! The panel is on the stack (34 KiB): machines with vector registers have the room.

use super::Product;
use super::simd::{BLOCK, Format, Rows, Simd, load_up_to};
use core::mem::MaybeUninit;
use core::ops::Range;

/// From this many tokens on unpacking once pays.
pub(crate) const MIN_TOKENS: usize = 3;

/// Rows of a panel.
const ROWS: usize = 16;
/// Columns of a panel at most.
pub(super) const COLUMNS: usize = 2048;
/// Bytes from row to row: a register's overhang, and no power of two, which would crowd a few sets of the cache.
pub(super) const PITCH: usize = COLUMNS + 128;
/// Rows of a tile.
const TILE: usize = 4;

type Panel = [MaybeUninit<u8>; ROWS * PITCH];

/// Some rows and columns of a product: what a panel holds.
pub(super) struct Part<'a> {
    pub p: &'a Product<'a>,
    pub w: Rows<'a>,
    pub rows: Range<usize>,
    /// Bytes of each row.
    pub bytes: Range<usize>,
    /// Weights in a byte.
    pub planes: usize,
    /// `Format::OFFSET`.
    pub offset: i32,
}

impl Part<'_> {
    /// First column.
    #[inline(always)]
    pub fn first_column(&self) -> usize {
        self.bytes.start * self.planes
    }

    /// Takes the sums of `rows` for token `t`. Between the parts of a row they wait in `out` as integers.
    #[inline(always)]
    pub fn settle(&self, t: usize, rows: Range<usize>, sums: &[i32]) {
        let (Some(&token), Some(&of_token)) = (self.p.q.scales.get(t), self.p.q.sums.get(t)) else {
            return;
        };
        let out = self.p.out(t, rows.clone());
        for ((out, &sum), r) in out.iter_mut().zip(sums).zip(rows) {
            let sum = if self.bytes.start == 0 {
                sum
            } else {
                (out.to_bits() as i32).wrapping_add(sum)
            };
            *out = if self.bytes.end == self.w.width {
                // As in `simd::groups`.
                sum.wrapping_sub(self.offset * of_token) as f32 * (token * self.w.scale.of(r))
            } else {
                f32::from_bits(sum as u32)
            };
        }
    }
}

/// `out[t, r]` for `rows` and all tokens.
///
/// # Safety
/// The machine has the instructions of `S`; rows and padded activations are there (`simd::packed` checks).
#[inline(always)]
pub(crate) unsafe fn product<S: Simd, K: Format<S>>(
    p: &Product<'_>,
    w: Rows<'_>,
    rows: Range<usize>,
) {
    let mut panel: Panel = [MaybeUninit::uninit(); ROWS * PITCH];
    let panel = panel.as_mut_ptr().cast::<u8>();
    let bytes = COLUMNS / (BLOCK * K::PLANES) * BLOCK; // whole blocks
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
                let columns = unpack::<S, K>(panel, &part);
                multiply::<S, K>(&part, panel, 0..p.q.scales.len(), columns);
            }
            from += bytes;
        }
        first += ROWS;
    }
}

/// The part as codes in column order. Returns the columns, rounded up to whole registers: what lies behind the row's end
/// meets activations of zero. Rows are filled up to a multiple of [`TILE`].
///
/// # Safety
/// As [`product`].
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, K: Format<S>>(panel: *mut u8, part: &Part<'_>) -> usize {
    let Range { start, end } = part.bytes;
    let columns = ((end - start) * K::PLANES).next_multiple_of(S::BYTES);
    let rows = part.rows.len();
    // SAFETY: reads stay inside the rows. A block's codes go to its own columns and less than a register behind them,
    // where later planes overwrite them or the pitch has room.
    unsafe {
        for i in 0..rows.next_multiple_of(TILE) {
            let to = panel.add(i * PITCH);
            to.add(columns - S::BYTES).write_bytes(0, S::BYTES);
            if i >= rows {
                to.write_bytes(0, columns);
                continue;
            }
            let (row, available) = part.w.row(part.rows.start + i);
            let mut block = start;
            while block < end {
                let stride = (end - block).min(BLOCK);
                let to = to.add((block - start) * K::PLANES);
                unpack_block::<S, K>(row.add(block), stride, available - block, to);
                block += BLOCK;
            }
        }
    }
    columns
}

/// The planes of a block of `stride` bytes, one behind the other.
///
/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn unpack_block<S: Simd, K: Format<S>>(
    block: *const u8,
    stride: usize,
    available: usize,
    to: *mut u8,
) {
    // SAFETY: the caller's.
    unsafe {
        if stride == BLOCK {
            for at in (0..BLOCK).step_by(S::BYTES) {
                let mut bytes = S::load(block.add(at));
                for plane in 0..K::PLANES {
                    let (codes, rest) = K::next(bytes);
                    S::store(to.add(plane * BLOCK + at), codes);
                    bytes = rest;
                }
            }
            return;
        }
        // Planes outside: each overwrites the overhang of the one before it.
        for plane in 0..K::PLANES {
            for at in (0..stride).step_by(S::BYTES) {
                let (mut codes, mut rest) = K::next(load_up_to::<S>(block, at, stride, available));
                for _ in 0..plane {
                    (codes, rest) = K::next(rest);
                }
                S::store(to.add(plane * stride + at), codes);
            }
        }
    }
}

/// The panel times `tokens`.
///
/// # Safety
/// As [`product`]; `unpack` has filled the panel.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, K: Format<S>>(
    part: &Part<'_>,
    panel: *const u8,
    tokens: Range<usize>,
    columns: usize,
) {
    let mut t = tokens.start;
    // SAFETY: the caller's.
    unsafe {
        if S::TOKENS == 4 {
            while t + 4 <= tokens.end {
                tiles::<S, K, 4>(part, panel, t, columns);
                t += 4;
            }
        }
        while t + 2 <= tokens.end {
            tiles::<S, K, 2>(part, panel, t, columns);
            t += 2;
        }
        if t < tokens.end {
            tiles::<S, K, 1>(part, panel, t, columns);
        }
    }
}

/// `N` tokens from `t` on times all rows of the panel.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn tiles<S: Simd, K: Format<S>, const N: usize>(
    part: &Part<'_>,
    panel: *const u8,
    t: usize,
    columns: usize,
) {
    let q = &part.p.q;
    let mut r = part.rows.start;
    while r < part.rows.end {
        // SAFETY: the caller's.
        let sums = unsafe {
            let first = t * q.stride + part.first_column();
            let first = q.codes.as_ptr().cast::<u8>().add(first);
            tile::<S, K, N>(
                panel.add((r - part.rows.start) * PITCH),
                first,
                q.stride,
                columns,
            )
        };
        for (n, sums) in sums.into_iter().enumerate() {
            part.settle(t + n, r..part.rows.end.min(r + TILE), &sums);
        }
        r += TILE;
    }
}

/// Four rows of the panel times `N` tokens, in registers.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // see inside
unsafe fn tile<S: Simd, K: Format<S>, const N: usize>(
    panel: *const u8,
    q: *const u8,
    stride: usize,
    columns: usize,
) -> [[i32; TILE]; N] {
    // SAFETY: the caller's.
    unsafe {
        // Plain loops over indices below the arrays' constant lengths: they unroll, where closures would become calls
        // that lack the target features.
        let mut sums = [[S::zero(); TILE]; N];
        let mut at = 0;
        while at < columns {
            let end = columns.min(at.saturating_add(K::STEPS.saturating_mul(S::BYTES)));
            let mut narrow = [[K::tile_zero(); TILE]; N];
            while at < end {
                let mut codes = [S::load(panel.add(at)); TILE];
                for r in 1..TILE {
                    codes[r] = S::load(panel.add(r * PITCH + at));
                }
                for n in 0..N {
                    let q = S::load(q.add(n * stride + at));
                    for r in 0..TILE {
                        narrow[n][r] = K::tile(narrow[n][r], codes[r], q);
                    }
                }
                at += S::BYTES;
            }
            for n in 0..N {
                for r in 0..TILE {
                    sums[n][r] = K::widen(sums[n][r], narrow[n][r]);
                }
            }
        }
        S::tile_totals(sums)
    }
}
