//! AVX-512 with VNNI: `vpdpbusd` multiplies 64 codes with 64 activations and adds the products to 16 sums.
//!
//! Every function here requires these instructions; `kernel::Backend` hands out the value only where they are present.

use super::simd::{self, Format, MAX_PLANES, Rows, Simd};
use super::{Product, attention, halves, lanes, lite, panel, ttt, wide};
use core::arch::x86_64::*;
use core::marker::PhantomData;
use core::ops::Range;

/// `out[t, r]` for `rows`, see [`super::Backend::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) fn product(p: &Product<'_>, rows: Range<usize>) {
    // SAFETY: this function has the instructions.
    unsafe { simd::product::<Avx512<Panels>>(p, rows) }
}

/// 512-bit registers; `M` says who multiplies many tokens.
pub(super) struct Avx512<M>(PhantomData<M>);

/// Who multiplies many tokens.
pub(super) trait Many: Sized {
    /// See [`Simd::many`].
    unsafe fn product<K: Format<Avx512<Self>>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>);
}

/// [`panel`] does, as on every instruction set.
struct Panels;

impl Many for Panels {
    #[inline(always)]
    unsafe fn product<K: Format<Avx512<Self>>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
        // SAFETY: the caller's.
        unsafe { panel::product::<Avx512<Self>, K>(p, w, rows) }
    }
}

// SAFETY of all functions below: see `Simd`.
impl<M: Many> Simd for Avx512<M> {
    const BYTES: usize = 64;
    const ROWS: usize = 8;
    const TOKENS: usize = 4;
    type Bytes = __m512i;
    type Sums = __m512i;
    type T2 = T2;
    type T5 = T5;
    type I8 = I8;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const u8, len: usize, _available: usize) -> __m512i {
        // SAFETY: masked bytes are not read.
        unsafe { _mm512_maskz_loadu_epi8((1 << len) - 1, from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, bytes: __m512i) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_si512(to.cast(), bytes) }
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
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn many<K: Format<Self>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
        // SAFETY: the caller's.
        unsafe { M::product::<K>(p, w, rows) }
    }

    /// Eight registers share most of their additions, four nearly as many.
    #[inline(always)]
    unsafe fn totals<const R: usize>(sums: [__m512i; R]) -> [i32; R] {
        let mut totals = [0; R];
        // SAFETY: the caller's.
        unsafe {
            if let &[a, b, c, d, e, f, g, h] = &sums[..] {
                let halves = halves(quarters(a, b, c, d), quarters(e, f, g, h));
                let eight = _mm512_add_epi32(
                    halves,
                    _mm512_shuffle_i64x2::<0b10_11_00_01>(halves, halves),
                );
                let eight = _mm512_shuffle_i64x2::<0b00_00_10_00>(eight, eight);
                let eight: [i32; 8] = bytemuck::cast(_mm512_castsi512_si256(eight));
                totals.copy_from_slice(&eight);
            } else if let &[a, b, c, d] = &sums[..] {
                let lanes = quarters(a, b, c, d);
                let half = _mm256_add_epi32(
                    _mm512_castsi512_si256(lanes),
                    _mm512_extracti64x4_epi64::<1>(lanes),
                );
                let four = _mm_add_epi32(
                    _mm256_castsi256_si128(half),
                    _mm256_extracti128_si256::<1>(half),
                );
                totals.copy_from_slice(&bytemuck::cast::<_, [i32; 4]>(four));
            } else {
                for (total, sums) in totals.iter_mut().zip(sums) {
                    *total = _mm512_reduce_add_epi32(sums);
                }
            }
        }
        totals
    }

    #[inline(always)]
    unsafe fn tile_totals<const N: usize>(sums: [[__m512i; 4]; N]) -> [[i32; 4]; N] {
        let mut totals = [[0; 4]; N];
        // SAFETY: the caller's.
        unsafe {
            if let [x, y, z, w] = &sums[..] {
                let low = halves(
                    quarters(x[0], x[1], x[2], x[3]),
                    quarters(y[0], y[1], y[2], y[3]),
                );
                let high = halves(
                    quarters(z[0], z[1], z[2], z[3]),
                    quarters(w[0], w[1], w[2], w[3]),
                );
                let all = _mm512_add_epi32(
                    _mm512_shuffle_i64x2::<0b10_00_10_00>(low, high),
                    _mm512_shuffle_i64x2::<0b11_01_11_01>(low, high),
                );
                _mm512_storeu_si512(totals.as_mut_ptr().cast(), all);
            } else {
                for (totals, sums) in totals.iter_mut().zip(sums) {
                    *totals = Self::totals(sums);
                }
            }
        }
        totals
    }
}

/// Of two registers of quarters, halves of the sums: `[x, x, y, y]`.
#[inline(always)]
unsafe fn halves(x: __m512i, y: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        _mm512_add_epi32(
            _mm512_shuffle_i64x2::<0b01_00_01_00>(x, y),
            _mm512_shuffle_i64x2::<0b11_10_11_10>(x, y),
        )
    }
}

/// A quarter of each register's sum in each quarter of the result: `[a, b, c, d]` four times.
#[inline(always)]
unsafe fn quarters(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}

/// What the three types share: one instruction multiplies and adds.
macro_rules! vnni_tile {
    () => {
        const STEPS: usize = usize::MAX;
        type Tile = __m512i;

        #[inline(always)]
        unsafe fn tile_zero() -> __m512i {
            // SAFETY: the caller's.
            unsafe { _mm512_setzero_si512() }
        }

        #[inline(always)]
        unsafe fn tile(tile: __m512i, codes: __m512i, q: __m512i) -> __m512i {
            // SAFETY: the caller's.
            unsafe { _mm512_dpbusd_epi32(tile, codes, q) }
        }

        #[inline(always)]
        unsafe fn widen(sums: __m512i, tile: __m512i) -> __m512i {
            // SAFETY: the caller's.
            unsafe { _mm512_add_epi32(sums, tile) }
        }
    };
}

/// Two bits a weight: mask and shift.
pub(super) struct T2;

impl<M: Many> Format<Avx512<M>> for T2 {
    const PLANES: usize = 4;
    const OFFSET: i32 = 1;
    type Acc = __m512i;
    vnni_tile!();

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn add(acc: __m512i, bytes: __m512i, q: &[__m512i; MAX_PLANES]) -> __m512i {
        // SAFETY: the caller's.
        unsafe {
            let codes = |bytes| _mm512_and_si512(bytes, _mm512_set1_epi8(3));
            let acc = _mm512_dpbusd_epi32(acc, codes(bytes), q[0]);
            let acc = _mm512_dpbusd_epi32(acc, codes(_mm512_srli_epi16::<2>(bytes)), q[1]);
            let acc = _mm512_dpbusd_epi32(acc, codes(_mm512_srli_epi16::<4>(bytes)), q[2]);
            _mm512_dpbusd_epi32(acc, codes(_mm512_srli_epi16::<6>(bytes)), q[3])
        }
    }

    #[inline(always)]
    unsafe fn sums(acc: __m512i) -> __m512i {
        acc
    }

    #[inline(always)]
    unsafe fn next(bytes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: the caller's.
        unsafe {
            (
                _mm512_and_si512(bytes, _mm512_set1_epi8(3)),
                _mm512_srli_epi16::<2>(bytes),
            )
        }
    }
}

/// Base 3. Decode needs no digits: with `b_0` the byte and `b_(p+1) = 3 b_p mod 256`, digit `p` is
/// `(3 b_p - b_(p+1)) / 256`, hence `sum digit_p q_p = (3 sum b_p q_p - sum b_(p+1) q_p) / 256`, exact in every
/// lane. Two multiplications a plane and two additions, where digits cost four instructions more.
pub(super) struct T5;

impl<M: Many> Format<Avx512<M>> for T5 {
    const PLANES: usize = 5;
    const OFFSET: i32 = 1;
    type Acc = [__m512i; 2];
    vnni_tile!();

    #[inline(always)]
    unsafe fn zero() -> [__m512i; 2] {
        // SAFETY: the caller's.
        unsafe { [_mm512_setzero_si512(); 2] }
    }

    #[inline(always)]
    unsafe fn add(acc: [__m512i; 2], bytes: __m512i, q: &[__m512i; MAX_PLANES]) -> [__m512i; 2] {
        let ([mut these, mut next], mut bytes) = (acc, bytes);
        for &q in q {
            // SAFETY: the caller's.
            unsafe {
                these = _mm512_dpbusd_epi32(these, bytes, q);
                bytes = thrice(bytes);
                next = _mm512_dpbusd_epi32(next, bytes, q);
            }
        }
        [these, next]
    }

    #[inline(always)]
    unsafe fn sums([these, next]: [__m512i; 2]) -> __m512i {
        // SAFETY: the caller's. A lane holds below 131,072 / 16 * 255 * 127 * 3 in magnitude: no overflow.
        unsafe {
            let thrice = _mm512_add_epi32(_mm512_add_epi32(these, these), these);
            _mm512_srai_epi32::<8>(_mm512_sub_epi32(thrice, next))
        }
    }

    /// The digit is the number of thresholds 86 and 171 that the byte reaches.
    #[inline(always)]
    unsafe fn next(bytes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: the caller's.
        unsafe {
            let one = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(86));
            let two = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(171u8 as i8));
            let codes = _mm512_maskz_set1_epi8(one, 1);
            let codes = _mm512_mask_set1_epi8(codes, two, 2);
            (codes, thrice(bytes))
        }
    }
}

/// `3 b mod 256` in each byte.
#[inline(always)]
unsafe fn thrice(bytes: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe { opaque(_mm512_add_epi8(_mm512_add_epi8(bytes, bytes), bytes)) }
}

/// Keeps the compiler from seeing through it: left alone it turns chains of [`thrice`] into multiplications by 9, 27, …,
/// for which there is no byte instruction, at twice the time.
#[inline]
#[target_feature(enable = "avx512f")]
fn opaque(bytes: __m512i) -> __m512i {
    let mut bytes = bytes;
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!("/* {0} */", inout(zmm_reg) bytes, options(pure, nomem, nostack, preserves_flags));
    }
    bytes
}

/// Signed bytes, as unsigned ones that are 128 more. Zeros behind a row's end count as 128 and meet zero activations.
pub(super) struct I8;

impl<M: Many> Format<Avx512<M>> for I8 {
    const PLANES: usize = 1;
    const OFFSET: i32 = 128;
    type Acc = __m512i;
    vnni_tile!();

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn add(acc: __m512i, bytes: __m512i, q: &[__m512i; MAX_PLANES]) -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_dpbusd_epi32(acc, unsigned(bytes), q[0]) }
    }

    #[inline(always)]
    unsafe fn sums(acc: __m512i) -> __m512i {
        acc
    }

    #[inline(always)]
    unsafe fn next(bytes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: the caller's.
        unsafe { (unsigned(bytes), bytes) }
    }
}

/// Signed bytes plus 128.
#[inline(always)]
unsafe fn unsigned(bytes: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)) }
}

float_kernels!(stamp, ["avx512f,avx512bw,avx512vl,avx512vnni"]);
