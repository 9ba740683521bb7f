//! Registers of 16 bytes, and how the stored types are unpacked in them.

use super::super::Product;
use super::super::simd::{Format, MAX_PLANES, Rows, Simd};
use super::multiply::{Multiply, Smmla, usdot};
use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;
use core::ops::Range;

/// 128-bit registers that are multiplied by `M`.
pub(super) struct Neon<M>(PhantomData<M>);

// SAFETY of all functions below: see `Simd`.
impl<M: Multiply> Simd for Neon<M> {
    const BYTES: usize = 16;
    const ROWS: usize = 4;
    const TOKENS: usize = M::TOKENS;
    type Bytes = uint8x16_t;
    type Sums = int32x4_t;
    type T2 = T2;
    type T5 = M::T5;
    type I8 = I8;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> uint8x16_t {
        // SAFETY: the caller's.
        unsafe { vld1q_u8(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const u8, len: usize, available: usize) -> uint8x16_t {
        const PLACES: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        // SAFETY: a whole register is read only where it is.
        unsafe {
            if available >= 16 {
                let is_inside = vcltq_u8(vld1q_u8(PLACES.as_ptr()), vdupq_n_u8(len as u8));
                return vandq_u8(vld1q_u8(from), is_inside);
            }
            let mut padded = [0u8; 16];
            core::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            vld1q_u8(padded.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, bytes: uint8x16_t) {
        // SAFETY: the caller's.
        unsafe { vst1q_u8(to, bytes) }
    }

    #[inline(always)]
    unsafe fn prefetch<const SECOND: bool>(from: *const u8) {
        // Into the first cache in any case, which was not measured against the other.
        // SAFETY: a prefetch never faults.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) from, options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: the target has NEON.
        unsafe { vdupq_n_s32(0) }
    }

    /// Four registers share their additions.
    #[inline(always)]
    unsafe fn totals<const R: usize>(sums: [int32x4_t; R]) -> [i32; R] {
        let mut totals = [0; R];
        // SAFETY: the target has NEON.
        unsafe {
            if let &[a, b, c, d] = &sums[..] {
                let four = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
                vst1q_s32(totals.as_mut_ptr(), four);
            } else {
                for (total, sums) in totals.iter_mut().zip(sums) {
                    *total = vaddvq_s32(sums);
                }
            }
        }
        totals
    }

    #[inline(always)]
    unsafe fn many<K: Format<Self>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
        // SAFETY: the caller's.
        unsafe { M::many::<K>(p, w, rows) }
    }
}

/// What the stored types share: prefill's sums, and decode's unless they are told.
macro_rules! shared {
    ($m:ty, $steps:expr) => {
        const STEPS: usize = $steps;
        type Tile = <$m as Multiply>::Narrow;

        #[inline(always)]
        unsafe fn tile_zero() -> <$m as Multiply>::Narrow {
            // SAFETY: the caller's.
            unsafe { <$m>::zero() }
        }

        #[inline(always)]
        unsafe fn tile(
            tile: <$m as Multiply>::Narrow,
            codes: uint8x16_t,
            q: uint8x16_t,
        ) -> <$m as Multiply>::Narrow {
            // SAFETY: the caller's.
            unsafe { <$m>::add(tile, codes, q) }
        }

        #[inline(always)]
        unsafe fn widen(sums: int32x4_t, tile: <$m as Multiply>::Narrow) -> int32x4_t {
            // SAFETY: the caller's.
            unsafe { <$m>::widen(sums, tile) }
        }
    };
    ($m:ty, $steps:expr, int32x4_t) => {
        shared!($m, $steps);
        type Acc = int32x4_t;

        #[inline(always)]
        unsafe fn zero() -> int32x4_t {
            // SAFETY: the caller's.
            unsafe { vdupq_n_s32(0) }
        }
    };
}

/// Two bits a weight: mask and shift.
pub(super) struct T2;

impl<M: Multiply> Format<Neon<M>> for T2 {
    const PLANES: usize = 4;
    const OFFSET: i32 = 1;
    shared!(M, M::STEPS, int32x4_t);

    #[inline(always)]
    unsafe fn add(acc: int32x4_t, bytes: uint8x16_t, q: &[uint8x16_t; MAX_PLANES]) -> int32x4_t {
        // SAFETY: the caller's.
        unsafe {
            let codes = |bytes| vandq_u8(bytes, vdupq_n_u8(3));
            let sums = M::add(M::open(acc), codes(bytes), q[0]);
            let sums = M::add(sums, codes(vshrq_n_u8::<2>(bytes)), q[1]);
            let sums = M::add(sums, codes(vshrq_n_u8::<4>(bytes)), q[2]);
            let sums = M::add(sums, vshrq_n_u8::<6>(bytes), q[3]);
            M::close(acc, sums)
        }
    }

    #[inline(always)]
    unsafe fn sums(acc: int32x4_t) -> int32x4_t {
        acc
    }

    #[inline(always)]
    unsafe fn next(bytes: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
        // SAFETY: the caller's.
        unsafe { (vandq_u8(bytes, vdupq_n_u8(3)), vshrq_n_u8::<2>(bytes)) }
    }
}

/// Base 3: a byte's digit is the number of thresholds 86 and 171 that it reaches; the next digit is that of three times
/// the byte. Comparisons give -1 where they hold: decode adds up negative digits and turns the sum.
pub(super) struct T5;

impl<M: Multiply> Format<Neon<M>> for T5 {
    const PLANES: usize = 5;
    const OFFSET: i32 = 1;
    shared!(M, M::STEPS, int32x4_t);

    #[inline(always)]
    unsafe fn add(acc: int32x4_t, bytes: uint8x16_t, q: &[uint8x16_t; MAX_PLANES]) -> int32x4_t {
        // SAFETY: the caller's.
        unsafe {
            let (mut sums, mut bytes) = (M::open(acc), bytes);
            for &q in q {
                sums = M::add(sums, minus_digits(bytes), q);
                bytes = thrice(bytes);
            }
            M::close(acc, sums)
        }
    }

    #[inline(always)]
    unsafe fn sums(acc: int32x4_t) -> int32x4_t {
        // SAFETY: the caller's.
        unsafe { vnegq_s32(acc) }
    }

    #[inline(always)]
    unsafe fn next(bytes: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
        // SAFETY: the caller's.
        unsafe { (vsubq_u8(vdupq_n_u8(0), minus_digits(bytes)), thrice(bytes)) }
    }
}

#[inline(always)]
unsafe fn minus_digits(bytes: uint8x16_t) -> uint8x16_t {
    // SAFETY: the caller's.
    unsafe {
        vaddq_u8(
            vcgeq_u8(bytes, vdupq_n_u8(86)),
            vcgeq_u8(bytes, vdupq_n_u8(171)),
        )
    }
}

/// `3 b mod 256` in each byte.
#[inline(always)]
unsafe fn thrice(bytes: uint8x16_t) -> uint8x16_t {
    // SAFETY: the caller's.
    unsafe { vaddq_u8(vaddq_u8(bytes, bytes), bytes) }
}

/// The same where unsigned bytes can be multiplied. Decode needs no digits: with `b_0` the byte and `b_(p+1) = 3 b_p mod
/// 256`, digit `p` is `(3 b_p - b_(p+1)) / 256`, hence `sum digit_p q_p = (3 sum b_p q_p - sum b_(p+1) q_p) / 256`, exact in
/// every lane. 15 instructions a register instead of 24.
pub(super) struct T5Unsigned;

impl Format<Neon<Smmla>> for T5Unsigned {
    const PLANES: usize = 5;
    const OFFSET: i32 = 1;
    type Acc = [int32x4_t; 2];
    shared!(Smmla, usize::MAX);

    #[inline(always)]
    unsafe fn zero() -> [int32x4_t; 2] {
        // SAFETY: the caller's.
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    unsafe fn add(
        acc: [int32x4_t; 2],
        bytes: uint8x16_t,
        q: &[uint8x16_t; MAX_PLANES],
    ) -> [int32x4_t; 2] {
        let ([mut these, mut next], mut bytes) = (acc, bytes);
        for &q in q {
            // SAFETY: the caller's.
            unsafe {
                these = usdot(these, bytes, q);
                bytes = thrice(bytes);
                next = usdot(next, bytes, q);
            }
        }
        [these, next]
    }

    /// Sums may wrap; what they come to, at most `131,072 / 4 * 2 * 127 * 256` in magnitude, is below 2^31.
    #[inline(always)]
    unsafe fn sums([these, next]: [int32x4_t; 2]) -> int32x4_t {
        // SAFETY: the caller's.
        unsafe {
            let thrice = vaddq_s32(vaddq_s32(these, these), these);
            vshrq_n_s32::<8>(vsubq_s32(thrice, next))
        }
    }

    #[inline(always)]
    unsafe fn next(bytes: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
        // SAFETY: the caller's.
        unsafe { <T5 as Format<Neon<Smmla>>>::next(bytes) }
    }
}

/// Signed bytes as they are.
pub(super) struct I8;

impl<M: Multiply> Format<Neon<M>> for I8 {
    const PLANES: usize = 1;
    const OFFSET: i32 = 0;
    shared!(M, M::SIGNED_STEPS, int32x4_t);

    #[inline(always)]
    unsafe fn add(acc: int32x4_t, bytes: uint8x16_t, q: &[uint8x16_t; MAX_PLANES]) -> int32x4_t {
        // SAFETY: the caller's.
        unsafe { M::close(acc, M::add(M::open(acc), bytes, q[0])) }
    }

    #[inline(always)]
    unsafe fn sums(acc: int32x4_t) -> int32x4_t {
        acc
    }

    #[inline(always)]
    unsafe fn next(bytes: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
        (bytes, bytes)
    }
}
