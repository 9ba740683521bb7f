//! Prefill on AVX2: 16 rows of codes in *quads*, four columns of one row after the same four of the next, times tokens of
//! which four codes at a time go to all lanes. Each lane is a row, so no sum is ever taken across a register.

use super::super::Product;
use super::super::panel::{self, PITCH, Part};
use super::super::simd::{BLOCK, Format, Rows, Simd};
use super::Avx2;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Rows of a panel: two registers of lanes.
const ROWS: usize = 16;
/// Columns of a panel at most: half of the first cache, which tokens and results want too.
const COLUMNS: usize = 1024;
/// Bytes of a quad of every row.
const QUAD: usize = 4 * ROWS;
/// Columns that [`transpose`] takes: a register.
const WIDTH: usize = Avx2::BYTES;

/// `out[t, r]` for `rows` and all tokens.
///
/// # Safety
/// The machine has AVX2; rows and padded activations are there (`simd::packed` checks).
#[inline(always)]
pub(super) unsafe fn product<K: Format<Avx2>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
    let mut plain = [MaybeUninit::<u8>::uninit(); ROWS * PITCH];
    let mut quads = [MaybeUninit::<u8>::uninit(); ROWS * COLUMNS];
    let (plain, quads) = (plain.as_mut_ptr().cast(), quads.as_mut_ptr().cast());
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
            // SAFETY: the caller's; there is room for `ROWS` rows of `COLUMNS` columns, which whole registers fill.
            unsafe {
                let columns = panel::unpack::<Avx2, K>(plain, &part);
                arrange(plain, quads, columns, part.rows.len());
                multiply::<K>(&part, quads, columns);
            }
            from += bytes;
        }
        first += ROWS;
    }
}

/// Codes in column order to quads; rows from `rows` on become zeros.
///
/// # Safety
/// Both have `columns` columns, whole registers of them, of 16 rows; `rows` of `plain` are filled.
#[inline(always)]
unsafe fn arrange(plain: *const u8, quads: *mut u8, columns: usize, rows: usize) {
    for at in (0..columns).step_by(WIDTH) {
        for first in [0, 8] {
            // SAFETY: the caller's; rows that are not filled are not read.
            unsafe {
                let mut lines = [_mm256_setzero_si256(); 8];
                for (i, line) in lines.iter_mut().enumerate() {
                    if first + i < rows {
                        *line = Avx2::load(plain.add((first + i) * PITCH + at));
                    }
                }
                let lines = transpose(lines);
                for (i, line) in lines.into_iter().enumerate() {
                    Avx2::store(quads.add((at / 4 + i) * QUAD + 4 * first), line);
                }
            }
        }
    }
}

/// Transposes 8 x 8 quads.
#[inline(always)]
unsafe fn transpose(l: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: the caller's.
    unsafe {
        let [a0, a1, a2, a3] = transpose_halves(l[0], l[1], l[2], l[3]);
        let [b0, b1, b2, b3] = transpose_halves(l[4], l[5], l[6], l[7]);
        [
            _mm256_permute2x128_si256::<0x20>(a0, b0),
            _mm256_permute2x128_si256::<0x20>(a1, b1),
            _mm256_permute2x128_si256::<0x20>(a2, b2),
            _mm256_permute2x128_si256::<0x20>(a3, b3),
            _mm256_permute2x128_si256::<0x31>(a0, b0),
            _mm256_permute2x128_si256::<0x31>(a1, b1),
            _mm256_permute2x128_si256::<0x31>(a2, b2),
            _mm256_permute2x128_si256::<0x31>(a3, b3),
        ]
    }
}

/// Transposes 4 x 4 quads in each half: the results hold quads `i` and `4 + i` of four rows.
#[inline(always)]
unsafe fn transpose_halves(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> [__m256i; 4] {
    // SAFETY: the caller's.
    unsafe {
        let (x, y) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (z, w) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(x, z),
            _mm256_unpackhi_epi64(x, z),
            _mm256_unpacklo_epi64(y, w),
            _mm256_unpackhi_epi64(y, w),
        ]
    }
}

/// The panel times all tokens.
///
/// # Safety
/// As [`product`]; `arrange` has filled the panel.
#[inline(always)]
unsafe fn multiply<K: Format<Avx2>>(part: &Part<'_>, quads: *const u8, columns: usize) {
    let tokens = part.p.q.scales.len();
    let mut t = 0;
    // SAFETY: the caller's.
    unsafe {
        while t + 4 <= tokens {
            tokens_from::<K, 4>(part, quads, t, columns);
            t += 4;
        }
        while t < tokens {
            tokens_from::<K, 1>(part, quads, t, columns);
            t += 1;
        }
    }
}

/// The panel times tokens `t..t + N`.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn tokens_from<K: Format<Avx2>, const N: usize>(
    part: &Part<'_>,
    quads: *const u8,
    t: usize,
    columns: usize,
) {
    let q = &part.p.q;
    let first = t * q.stride + part.first_column();
    // SAFETY: the caller's.
    let sums = unsafe {
        let first = q.codes.as_ptr().cast::<u8>().add(first);
        tile::<K, N>(quads, first, q.stride, columns)
    };
    for (n, sums) in sums.into_iter().enumerate() {
        let sums: [i32; ROWS] = bytemuck::cast(sums);
        part.settle(t + n, part.rows.clone(), &sums);
    }
}

/// 16 rows times `N` tokens, in registers.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // loops over indices unroll; closures would become calls without the instructions
unsafe fn tile<K: Format<Avx2>, const N: usize>(
    quads: *const u8,
    q: *const u8,
    stride: usize,
    columns: usize,
) -> [[__m256i; 2]; N] {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[Avx2::zero(); 2]; N];
        let mut at = 0;
        while at < columns {
            let end = columns.min(at.saturating_add(K::STEPS.saturating_mul(4)));
            let mut narrow = [[K::tile_zero(); 2]; N];
            while at < end {
                let codes = quads.add(at / 4 * QUAD);
                let codes = [Avx2::load(codes), Avx2::load(codes.add(QUAD / 2))];
                for n in 0..N {
                    let q = q.add(n * stride + at).cast::<i32>().read_unaligned();
                    let q = _mm256_set1_epi32(q);
                    narrow[n][0] = K::tile(narrow[n][0], codes[0], q);
                    narrow[n][1] = K::tile(narrow[n][1], codes[1], q);
                }
                at += 4;
            }
            for n in 0..N {
                sums[n][0] = K::widen(sums[n][0], narrow[n][0]);
                sums[n][1] = K::widen(sums[n][1], narrow[n][1]);
            }
        }
        sums
    }
}
