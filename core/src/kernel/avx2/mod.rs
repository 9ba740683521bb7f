//! AVX2: `vpmaddubsw` multiplies 32 codes with 32 activations and adds pairs in 16 bits.
//!
//! Decode is `simd`'s, prefill [`quads`]'s.
//!
//! Every function here requires AVX2; `kernel::Backend` hands out the AVX2 value only where it is present.

mod quads;

use super::simd::{self, Format, MAX_PLANES, Rows, Simd};
use super::{Product, attention, halves, lanes, lite, ttt, wide};
use core::arch::x86_64::*;
use core::ops::Range;

/// `out[t, r]` for `rows`, see [`super::Backend::matmul`].
#[target_feature(enable = "avx2")]
pub(crate) fn product(p: &Product<'_>, rows: Range<usize>) {
    // SAFETY: this function has the instructions.
    unsafe { simd::product::<Avx2>(p, rows) }
}

/// 256-bit registers.
struct Avx2;

// SAFETY of all functions below: see `Simd`.
impl Simd for Avx2 {
    const BYTES: usize = 32;
    const ROWS: usize = 4;
    const TOKENS: usize = 2;
    type Bytes = __m256i;
    type Sums = __m256i;
    type T2 = T2;
    type T5 = T5;
    type I8 = I8;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const u8, len: usize, available: usize) -> __m256i {
        const ONES_THEN_ZEROS: [u8; 64] = {
            let mut mask = [0; 64];
            let mut i = 0;
            while i < 32 {
                mask[i] = 0xFF;
                i += 1;
            }
            mask
        };
        // SAFETY: `len` is at most 32, so the mask's bytes are there; a whole register is read only where it is.
        unsafe {
            if available >= 32 {
                let mask = Self::load(ONES_THEN_ZEROS.as_ptr().add(32 - len));
                return _mm256_and_si256(Self::load(from), mask);
            }
            let mut padded = [0u8; 32];
            core::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::load(padded.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, bytes: __m256i) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_si256(to.cast(), bytes) }
    }

    #[inline(always)]
    unsafe fn prefetch<const SECOND: bool>(from: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe {
            if SECOND {
                _mm_prefetch::<_MM_HINT_T1>(from.cast());
            } else {
                _mm_prefetch::<_MM_HINT_T0>(from.cast());
            }
        }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn many<K: Format<Self>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
        // SAFETY: the caller's.
        unsafe { quads::product::<K>(p, w, rows) }
    }

    /// Four registers share their additions.
    #[inline(always)]
    unsafe fn totals<const R: usize>(sums: [__m256i; R]) -> [i32; R] {
        let mut totals = [0; R];
        // SAFETY: the caller's.
        unsafe {
            for (totals, sums) in totals.chunks_mut(4).zip(sums.chunks(4)) {
                let sum = |i: usize| sums.get(i).copied().unwrap_or(_mm256_setzero_si256());
                let low = _mm256_hadd_epi32(sum(0), sum(1));
                let pairs = _mm256_hadd_epi32(low, _mm256_hadd_epi32(sum(2), sum(3)));
                let four = _mm_add_epi32(
                    _mm256_castsi256_si128(pairs),
                    _mm256_extracti128_si256::<1>(pairs),
                );
                let four: [i32; 4] = bytemuck::cast(four);
                totals.iter_mut().zip(four).for_each(|(to, sum)| *to = sum);
            }
        }
        totals
    }
}

/// Adds pairs of 16-bit sums in 32 bits.
#[inline(always)]
unsafe fn widen_pairs(sums: __m256i, pairs: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
}

/// What `t2` and `t5` share: codes are at most 3, so 32 products of `2 * 3 * 127` fit in 16 bits.
macro_rules! packed {
    () => {
        const OFFSET: i32 = 1;
        const STEPS: usize = 32;
        type Tile = __m256i;

        #[inline(always)]
        unsafe fn tile_zero() -> __m256i {
            // SAFETY: the caller's.
            unsafe { _mm256_setzero_si256() }
        }

        #[inline(always)]
        unsafe fn tile(tile: __m256i, codes: __m256i, q: __m256i) -> __m256i {
            // SAFETY: the caller's.
            unsafe { _mm256_add_epi16(tile, _mm256_maddubs_epi16(codes, q)) }
        }

        #[inline(always)]
        unsafe fn widen(sums: __m256i, tile: __m256i) -> __m256i {
            // SAFETY: the caller's.
            unsafe { widen_pairs(sums, tile) }
        }
    };
}

/// Two bits a weight: mask and shift.
struct T2;

/// Sums of a row of `t2`: those of the even planes, four times those of the odd ones, in 16 bits; four times all, in 32.
#[derive(Clone, Copy)]
struct T2Sums {
    even: __m256i,
    odd: __m256i,
    wide: __m256i,
}

impl Format<Avx2> for T2 {
    const PLANES: usize = 4;
    /// A block adds 4 times `2 * 12 * 127` to `odd`.
    const RUN: usize = 2;
    type Acc = T2Sums;
    packed!();

    #[inline(always)]
    unsafe fn zero() -> T2Sums {
        // SAFETY: the caller's.
        let zero = unsafe { _mm256_setzero_si256() };
        T2Sums {
            even: zero,
            odd: zero,
            wide: zero,
        }
    }

    /// Odd planes stay where they are, two bits up: one shift for four planes.
    #[inline(always)]
    unsafe fn add(acc: T2Sums, bytes: __m256i, q: &[__m256i; MAX_PLANES]) -> T2Sums {
        // SAFETY: the caller's.
        unsafe {
            let (low, up) = (_mm256_set1_epi8(0b0011), _mm256_set1_epi8(0b1100));
            let high = _mm256_srli_epi16::<4>(bytes);
            let even = Self::tile(acc.even, _mm256_and_si256(bytes, low), q[0]);
            let odd = Self::tile(acc.odd, _mm256_and_si256(bytes, up), q[1]);
            T2Sums {
                even: Self::tile(even, _mm256_and_si256(high, low), q[2]),
                odd: Self::tile(odd, _mm256_and_si256(high, up), q[3]),
                wide: acc.wide,
            }
        }
    }

    #[inline(always)]
    unsafe fn carry(acc: T2Sums) -> T2Sums {
        // SAFETY: the caller's.
        unsafe {
            let even = _mm256_madd_epi16(acc.even, _mm256_set1_epi16(4));
            let wide = _mm256_add_epi32(widen_pairs(acc.wide, acc.odd), even);
            T2Sums {
                wide,
                ..Self::zero()
            }
        }
    }

    #[inline(always)]
    unsafe fn sums(acc: T2Sums) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_srai_epi32::<2>(Self::carry(acc).wide) }
    }

    #[inline(always)]
    unsafe fn next(bytes: __m256i) -> (__m256i, __m256i) {
        // SAFETY: the caller's.
        unsafe {
            (
                _mm256_and_si256(bytes, _mm256_set1_epi8(3)),
                _mm256_srli_epi16::<2>(bytes),
            )
        }
    }
}

/// Base 3: a byte's digit is `3 * byte / 256`, hence 2 less the thresholds 86 and 171 that lie above it; the next
/// digit is that of `3 * byte mod 256`. Comparisons are signed: bytes are moved by 128, which tripling keeps.
struct T5;

impl T5 {
    /// [`Format::next`] on moved bytes.
    #[inline(always)]
    unsafe fn next_moved(bytes: __m256i) -> (__m256i, __m256i) {
        // SAFETY: the caller's.
        unsafe {
            let below = |threshold: u8| {
                _mm256_cmpgt_epi8(_mm256_set1_epi8((threshold ^ 0x80) as i8), bytes)
            };
            let above = _mm256_add_epi8(below(86), below(171));
            (
                _mm256_add_epi8(_mm256_set1_epi8(2), above),
                opaque(_mm256_add_epi8(_mm256_add_epi8(bytes, bytes), bytes)),
            )
        }
    }
}

impl Format<Avx2> for T5 {
    const PLANES: usize = 5;
    type Acc = __m256i;
    packed!();

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn sums(acc: __m256i) -> __m256i {
        acc
    }

    #[inline(always)]
    unsafe fn add(acc: __m256i, bytes: __m256i, q: &[__m256i; MAX_PLANES]) -> __m256i {
        // SAFETY: the caller's.
        unsafe {
            let mut bytes = moved(bytes);
            let mut pairs = _mm256_setzero_si256();
            for &q in q {
                let (codes, rest) = Self::next_moved(bytes);
                pairs = Self::tile(pairs, codes, q);
                bytes = rest;
            }
            widen_pairs(acc, pairs)
        }
    }

    #[inline(always)]
    unsafe fn next(bytes: __m256i) -> (__m256i, __m256i) {
        // SAFETY: the caller's.
        unsafe {
            let (codes, rest) = Self::next_moved(moved(bytes));
            (codes, moved(rest))
        }
    }
}

/// Keeps the compiler from seeing through it: left alone it turns chains of tripling into multiplications by 9, 27, …,
/// for which there is no byte instruction.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(bytes: __m256i) -> __m256i {
    #[cfg_attr(miri, allow(unused_mut))]
    let mut bytes = bytes;
    #[cfg(not(miri))] // which has no assembly
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!("/* {0} */", inout(ymm_reg) bytes, options(pure, nomem, nostack, preserves_flags));
    }
    bytes
}

/// Unsigned bytes as signed ones in the same order.
#[inline(always)]
unsafe fn moved(bytes: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)) }
}

/// Signed bytes: `|w|` times `q` with `w`'s sign. `|w| <= 128` and `|q| <= 127`, so pairs do not saturate, but two
/// pairs would: they are widened one by one.
struct I8;

impl Format<Avx2> for I8 {
    const PLANES: usize = 1;
    const OFFSET: i32 = 0;
    const STEPS: usize = usize::MAX;
    type Acc = __m256i;
    type Tile = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn add(acc: __m256i, bytes: __m256i, q: &[__m256i; MAX_PLANES]) -> __m256i {
        // SAFETY: the caller's.
        unsafe { Self::tile(acc, bytes, q[0]) }
    }

    #[inline(always)]
    unsafe fn sums(acc: __m256i) -> __m256i {
        acc
    }

    #[inline(always)]
    unsafe fn next(bytes: __m256i) -> (__m256i, __m256i) {
        (bytes, bytes)
    }

    #[inline(always)]
    unsafe fn tile_zero() -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn tile(tile: __m256i, w: __m256i, q: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
            widen_pairs(tile, pairs)
        }
    }

    #[inline(always)]
    unsafe fn widen(sums: __m256i, tile: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_add_epi32(sums, tile) }
    }
}

float_kernels!(stamp, ["avx2"]);
