//! Integer products for machines with vector registers, written once: an instruction set ([`Simd`]) says how bytes are
//! loaded, unpacked and multiplied; here they become matrix times vector (decode), in [`panel`] matrix times matrix
//! (prefill).
//!
//! Sums are exact in i32, so no grouping of rows or columns changes a bit. Everything is `inline(always)`, to be compiled
//! inside a function that has the target features.

use super::{Product, panel};
use crate::memory::padded;
use crate::model::{Scale, Weights};
use core::ops::Range;

/// An instruction set. Every function needs the set's instructions, and pointers to as many bytes as it says.
pub(crate) trait Simd: Sized {
    /// Bytes in a register: 16, 32 or 64.
    const BYTES: usize;
    /// Rows that share the loads of activations in decode: 4 or 8.
    const ROWS: usize;
    /// Tokens of a prefill tile of four rows, as the registers allow: 2 or 4.
    const TOKENS: usize;
    /// A register of bytes.
    type Bytes: Copy;
    /// A register of i32 sums.
    type Sums: Copy;
    /// The stored types as this set reads them.
    type T2: Format<Self>;
    type T5: Format<Self>;
    type I8: Format<Self>;

    /// `BYTES` bytes.
    unsafe fn load(from: *const u8) -> Self::Bytes;
    /// `len` bytes, fewer than `BYTES`, then zeros; `available >= len` bytes can be read.
    unsafe fn load_part(from: *const u8, len: usize, available: usize) -> Self::Bytes;
    /// Writes `BYTES` bytes.
    unsafe fn store(to: *mut u8, bytes: Self::Bytes);
    /// Asks for a line that is loaded later, into the second cache or into the first too; any address will do.
    unsafe fn prefetch<const SECOND: bool>(from: *const u8);
    unsafe fn zero() -> Self::Sums;
    /// The sum of each register's elements.
    unsafe fn totals<const R: usize>(sums: [Self::Sums; R]) -> [i32; R];

    /// The totals of a prefill tile.
    #[inline(always)]
    unsafe fn tile_totals<const N: usize>(sums: [[Self::Sums; 4]; N]) -> [[i32; 4]; N] {
        let mut totals = [[0; 4]; N];
        for (totals, sums) in totals.iter_mut().zip(sums) {
            // SAFETY: the caller's.
            *totals = unsafe { Self::totals(sums) };
        }
        totals
    }

    /// A product with many tokens.
    #[inline(always)]
    unsafe fn many<K: Format<Self>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
        // SAFETY: the caller's.
        unsafe { panel::product::<Self, K>(p, w, rows) }
    }
}

/// A stored type: blocks of 64 bytes that hold planes of consecutive weights (docs/FORMAT.md; `i8` is one plane).
/// Unpacked weights are *codes*: the weight plus `OFFSET`. A zero byte has zero codes or meets zero activations.
pub(crate) trait Format<S: Simd> {
    /// Weights in a byte.
    const PLANES: usize;
    /// `OFFSET * sum q` has to come off a sum.
    const OFFSET: i32;
    /// How many [`Format::tile`] a `Tile` holds, invalid codes included.
    const STEPS: usize;
    /// Blocks that an `Acc` takes before [`Format::carry`], a broken one at the end of the row not counted.
    const RUN: usize = usize::MAX;
    /// Sums of a row in decode.
    type Acc: Copy;
    /// Sums of a row in prefill, perhaps narrow ones.
    type Tile: Copy;

    unsafe fn zero() -> Self::Acc;
    /// Adds a register of bytes times the activations of its planes, the first `PLANES` of `q`.
    unsafe fn add(acc: Self::Acc, bytes: S::Bytes, q: &[S::Bytes; MAX_PLANES]) -> Self::Acc;
    /// Makes room in sums that are narrow.
    #[inline(always)]
    unsafe fn carry(acc: Self::Acc) -> Self::Acc {
        acc
    }
    unsafe fn sums(acc: Self::Acc) -> S::Sums;
    /// Codes of the first plane, and the bytes with the planes after it.
    unsafe fn next(bytes: S::Bytes) -> (S::Bytes, S::Bytes);
    unsafe fn tile_zero() -> Self::Tile;
    /// Adds codes times activations.
    unsafe fn tile(tile: Self::Tile, codes: S::Bytes, q: S::Bytes) -> Self::Tile;
    /// Adds the tile to wide sums.
    unsafe fn widen(sums: S::Sums, tile: Self::Tile) -> S::Sums;
}

/// Planes of `t5`.
pub(crate) const MAX_PLANES: usize = 5;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 64;

/// Asks for a line of weights well ahead of its load. What takes few instructions a byte fills the first cache's misses in
/// flight, of which there are too few for DRAM, so it goes to the second only and further ahead; `t5` computes longer than the
/// way from there takes. Measured on Zen 4 (docs/PERFORMANCE.md).
#[inline(always)]
unsafe fn fetch<S: Simd, K: Format<S>>(from: *const u8) {
    // SAFETY: any address will do.
    unsafe {
        if K::PLANES == MAX_PLANES {
            S::prefetch::<false>(from.wrapping_add(16 * 1024));
        } else {
            S::prefetch::<true>(from.wrapping_add(32 * 1024));
        }
    }
}

/// A packed matrix whose rows follow each other.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub data: &'a [u8],
    pub width: usize,
    pub scale: Scale<'a>,
}

impl Rows<'_> {
    /// Row `r` and the bytes that can be read from there.
    ///
    /// # Safety
    /// Row `r` is there.
    #[inline(always)]
    pub unsafe fn row(&self, r: usize) -> (*const u8, usize) {
        let start = r * self.width;
        // SAFETY: inside `data`, as the caller says.
        (
            unsafe { self.data.as_ptr().add(start) },
            self.data.len() - start,
        )
    }

    /// Scales of rows `first..first + R`; zeros where the matrix ends before.
    #[inline(always)]
    fn scales<const R: usize>(&self, first: usize) -> [f32; R] {
        match self.scale {
            Scale::Tensor(scale) => [scale; R],
            Scale::Rows(scales) => {
                let rows = scales.get(first..).and_then(|rows| rows.first_chunk());
                rows.copied().unwrap_or([0.0; R])
            }
        }
    }
}

/// `out[t, r]` for `rows`, see [`super::Backend::matmul`].
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn product<S: Simd>(p: &Product<'_>, rows: Range<usize>) {
    let all = |data, scale| Rows {
        data,
        width: super::row_width(data, p.m),
        scale,
    };
    // SAFETY: the caller's.
    unsafe {
        match p.m.weights {
            Weights::T2(data, scale) => packed::<S, S::T2>(p, all(data, scale), rows),
            Weights::T5(data, scale) => packed::<S, S::T5>(p, all(data, scale), rows),
            Weights::I8(data, scales) => {
                let data = all(bytemuck::cast_slice(data), Scale::Rows(scales));
                packed::<S, S::I8>(p, data, rows);
            }
            Weights::Float(data) => super::float_rows(data, p, rows),
        }
    }
}

#[inline(always)]
unsafe fn packed<S: Simd, K: Format<S>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
    let tokens = p.q.scales.len().min(p.q.sums.len());
    let has_rows = w.width.saturating_mul(rows.end) <= w.data.len();
    let has_codes = tokens.saturating_mul(p.q.stride) <= p.q.codes.len();
    if !has_rows || !has_codes || p.q.stride < padded(p.m.cols) {
        return; // never: the model's checks and the session's plan see to it, and the loads below rely on it
    }
    // SAFETY: the instructions are the caller's; the rows and the padded activations have just been seen.
    unsafe {
        if tokens >= panel::MIN_TOKENS {
            return S::many::<K>(p, w, rows);
        }
        if w.width.is_multiple_of(BLOCK) {
            few::<S, K, false>(p, w, rows);
        } else {
            few::<S, K, true>(p, w, rows);
        }
    }
}

/// A product with few tokens. `TAIL` says that rows end in a broken block: those that do not, the most, are spared its
/// preparations, which on rows of one block cost as much as the products.
///
/// # Safety
/// As checked in [`packed`].
#[inline(always)]
unsafe fn few<S: Simd, K: Format<S>, const TAIL: bool>(
    p: &Product<'_>,
    w: Rows<'_>,
    rows: Range<usize>,
) {
    let mut first = rows.start;
    // SAFETY: the caller's.
    unsafe {
        if S::ROWS == 8 {
            first = groups::<S, K, 8, TAIL>(p, w, first..rows.end);
        }
        first = groups::<S, K, 4, TAIL>(p, w, first..rows.end);
        groups::<S, K, 1, TAIL>(p, w, first..rows.end);
    }
}

/// Whole groups of `R` rows; returns the first row behind them.
///
/// # Safety
/// As checked in [`packed`].
#[inline(always)]
unsafe fn groups<S: Simd, K: Format<S>, const R: usize, const TAIL: bool>(
    p: &Product<'_>,
    w: Rows<'_>,
    rows: Range<usize>,
) -> usize {
    let mut r = rows.start;
    while r + R <= rows.end {
        let scales = w.scales::<R>(r);
        for (t, (&token, &sum)) in p.q.scales.iter().zip(p.q.sums).enumerate() {
            // SAFETY: the caller's.
            let sums = unsafe {
                let codes = p.q.codes.as_ptr().add(t * p.q.stride);
                dot_rows::<S, K, R, TAIL>(w, r, codes.cast())
            };
            // Of known length, so that they are made in one register.
            if let Some(out) = p.out(t, r..r + R).first_chunk_mut::<R>() {
                for ((out, dot), scale) in out.iter_mut().zip(sums).zip(scales) {
                    // What comes out fits; codes that are 128 more than the weights may have wrapped before.
                    *out = dot.wrapping_sub(K::OFFSET * sum) as f32 * (token * scale);
                }
            }
        }
        r += R;
    }
    r
}

/// The body for each `$i` below `$rows`, which is at most 8, written out: the compiler leaves a loop with a long body as it
/// is, and then the sums wait in memory.
macro_rules! each_row {
    ($i:ident in $rows:expr, $body:block) => { each_row!($i in $rows, $body, 0 1 2 3 4 5 6 7) };
    ($i:ident in $rows:expr, $body:block, $($row:literal)*) => {
        $(if $row < $rows {
            let $i = $row;
            $body
        })*
    };
}

/// Codes times activations of rows `first..first + R`.
///
/// # Safety
/// The rows are there, and `q` has the codes of [`padded`] columns; without a `TAIL` rows are whole blocks.
#[inline(always)]
unsafe fn dot_rows<S: Simd, K: Format<S>, const R: usize, const TAIL: bool>(
    w: Rows<'_>,
    first: usize,
    q: *const u8,
) -> [i32; R] {
    let whole = w.width - w.width % BLOCK;
    // SAFETY: whole blocks and the part behind them lie inside the rows; a plane's activations begin before `PLANES`
    // times the bytes of the row, and `padded` leaves a register to read there.
    unsafe {
        let mut acc = [K::zero(); R];
        let mut at = 0;
        while at < whole {
            let end = whole.min(at.saturating_add(BLOCK.saturating_mul(K::RUN)));
            while at < end {
                // Line after line, as they lie, and not as they are loaded: then the cache's own prefetcher goes along.
                each_row!(i in R, {
                    fetch::<S, K>(w.row(first).0.wrapping_add(at * R + i * BLOCK));
                });
                let mut inside = 0;
                while inside < BLOCK {
                    let planes = load_planes::<S, K>(q.add(at * K::PLANES + inside), BLOCK);
                    each_row!(i in R, {
                        let bytes = S::load(w.row(first + i).0.add(at + inside));
                        acc[i] = K::add(acc[i], bytes, &planes);
                    });
                    inside += S::BYTES;
                }
                at += BLOCK;
            }
            if TAIL || at < whole {
                each_row!(i in R, {
                    acc[i] = K::carry(acc[i]);
                });
            }
        }
        if TAIL {
            acc = add_tail::<S, K, R>(acc, w, first, q.add(whole * K::PLANES), whole);
        }
        let mut sums = [S::zero(); R];
        for (sums, acc) in sums.iter_mut().zip(acc) {
            *sums = K::sums(acc);
        }
        S::totals(sums)
    }
}

/// Adds the broken block behind `whole` bytes of each row, whose activations begin at `q`.
///
/// # Safety
/// As [`dot_rows`].
#[inline(always)]
unsafe fn add_tail<S: Simd, K: Format<S>, const R: usize>(
    mut acc: [K::Acc; R],
    w: Rows<'_>,
    first: usize,
    q: *const u8,
    whole: usize,
) -> [K::Acc; R] {
    let stride = w.width - whole;
    let mut inside = 0;
    // SAFETY: the caller's.
    unsafe {
        while inside < stride {
            let planes = load_planes::<S, K>(q.add(inside), stride);
            for (i, acc) in acc.iter_mut().enumerate() {
                let (row, available) = w.row(first + i);
                let bytes = load_up_to::<S>(row, whole + inside, w.width, available);
                *acc = K::add(*acc, bytes, &planes);
            }
            inside += S::BYTES;
        }
    }
    acc
}

/// The activations of a register's planes, `stride` apart.
#[inline(always)]
unsafe fn load_planes<S: Simd, K: Format<S>>(
    q: *const u8,
    stride: usize,
) -> [S::Bytes; MAX_PLANES] {
    // SAFETY: the caller's.
    unsafe {
        let mut planes = [S::load(q); MAX_PLANES];
        let mut p = 1;
        while p < K::PLANES {
            planes[p] = S::load(q.add(p * stride));
            p += 1;
        }
        planes
    }
}

/// Bytes from `at` up to `end` of a row.
#[inline(always)]
pub(crate) unsafe fn load_up_to<S: Simd>(
    row: *const u8,
    at: usize,
    end: usize,
    available: usize,
) -> S::Bytes {
    // SAFETY: the caller's.
    unsafe {
        if at + S::BYTES <= end {
            S::load(row.add(at))
        } else {
            S::load_part(row.add(at), end - at, available - at)
        }
    }
}
