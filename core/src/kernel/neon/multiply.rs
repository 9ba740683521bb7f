//! Bytes times bytes, the three ways.

use super::super::simd::{Format, Rows};
use super::super::{Product, panel};
use super::i8mm;
use super::registers::{Neon, T5, T5Unsigned};
use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

/// How registers of bytes are multiplied. Every function needs the instructions.
pub(super) trait Multiply: Sized {
    /// Tokens of a prefill tile of four rows.
    const TOKENS: usize;
    /// How often a `Narrow` can be added to where codes are at most 3 in magnitude.
    const STEPS: usize;
    /// The same for any signed bytes.
    const SIGNED_STEPS: usize;
    /// Sums of products.
    type Narrow: Copy;
    type T5: Format<Neon<Self>>;

    unsafe fn zero() -> Self::Narrow;
    /// Adds signed codes times activations.
    unsafe fn add(sums: Self::Narrow, codes: uint8x16_t, q: uint8x16_t) -> Self::Narrow;
    /// Adds narrow sums to wide ones.
    unsafe fn widen(sums: int32x4_t, narrow: Self::Narrow) -> int32x4_t;
    /// Narrow sums to add to: zeros, or `sums` where narrow ones are as wide.
    unsafe fn open(sums: int32x4_t) -> Self::Narrow;
    /// The wide sums of [`Multiply::open`] with what has been added.
    unsafe fn close(sums: int32x4_t, narrow: Self::Narrow) -> int32x4_t;

    /// A product with many tokens.
    #[inline(always)]
    unsafe fn many<K: Format<Neon<Self>>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
        // SAFETY: the caller's.
        unsafe { panel::product::<Neon<Self>, K>(p, w, rows) }
    }
}

/// The baseline: products in 16 bits, two a step.
pub(super) struct Widening;

impl Multiply for Widening {
    const TOKENS: usize = 2; // sums of both widths for four would not fit in the registers
    const STEPS: usize = 32;
    const SIGNED_STEPS: usize = 1;
    type Narrow = int16x8_t;
    type T5 = T5;

    #[inline(always)]
    unsafe fn zero() -> int16x8_t {
        // SAFETY: the caller's.
        unsafe { vdupq_n_s16(0) }
    }

    #[inline(always)]
    unsafe fn add(sums: int16x8_t, codes: uint8x16_t, q: uint8x16_t) -> int16x8_t {
        // SAFETY: the caller's.
        unsafe { smlal2(smlal(sums, codes, q), codes, q) }
    }

    #[inline(always)]
    unsafe fn widen(sums: int32x4_t, narrow: int16x8_t) -> int32x4_t {
        // SAFETY: the caller's.
        unsafe { vpadalq_s16(sums, narrow) }
    }

    #[inline(always)]
    unsafe fn open(_: int32x4_t) -> int16x8_t {
        // SAFETY: the caller's.
        unsafe { Self::zero() }
    }

    #[inline(always)]
    unsafe fn close(sums: int32x4_t, narrow: int16x8_t) -> int32x4_t {
        // SAFETY: the caller's.
        unsafe { Self::widen(sums, narrow) }
    }
}

/// What the two backends with `sdot` share: nothing is narrow.
macro_rules! by_sdot {
    () => {
        const TOKENS: usize = 4;
        const STEPS: usize = usize::MAX;
        const SIGNED_STEPS: usize = usize::MAX;
        type Narrow = int32x4_t;

        #[inline(always)]
        unsafe fn zero() -> int32x4_t {
            // SAFETY: the caller's.
            unsafe { vdupq_n_s32(0) }
        }

        #[inline(always)]
        unsafe fn add(sums: int32x4_t, codes: uint8x16_t, q: uint8x16_t) -> int32x4_t {
            // SAFETY: the caller's.
            unsafe { sdot(sums, codes, q) }
        }

        #[inline(always)]
        unsafe fn widen(sums: int32x4_t, narrow: int32x4_t) -> int32x4_t {
            // SAFETY: the caller's.
            unsafe { vaddq_s32(sums, narrow) }
        }

        #[inline(always)]
        unsafe fn open(sums: int32x4_t) -> int32x4_t {
            sums
        }

        #[inline(always)]
        unsafe fn close(_: int32x4_t, narrow: int32x4_t) -> int32x4_t {
            narrow
        }
    };
}

/// Four products a sum, in one instruction.
pub(super) struct Sdot;

impl Multiply for Sdot {
    by_sdot!();
    type T5 = T5;
}

/// The same in decode; two rows times two tokens in prefill.
pub(super) struct Smmla;

impl Multiply for Smmla {
    by_sdot!();
    type T5 = T5Unsigned;

    #[inline(always)]
    unsafe fn many<K: Format<Neon<Self>>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
        // SAFETY: the caller's.
        unsafe { i8mm::product::<K>(p, w, rows) }
    }
}

/// One instruction on three registers: sums and two of bytes.
macro_rules! instruction {
    ($(#[$doc:meta])* $name:ident($sums:ty, $text:literal)) => {
        $(#[$doc])*
        #[inline(always)]
        pub(super) unsafe fn $name(sums: $sums, a: uint8x16_t, b: uint8x16_t) -> $sums {
            let mut sums = sums;
            // SAFETY: registers only; the caller has the instruction.
            unsafe {
                asm!(
                    $text,
                    sums = inout(vreg) sums,
                    a = in(vreg) a,
                    b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sums
        }
    };
}

instruction! {
    /// `sums[i] += a[i] * b[i]`, both signed. There is an intrinsic, but where the compiler knows that no code is negative it
    /// makes two or three other instructions of it.
    smlal(int16x8_t, "smlal {sums:v}.8h, {a:v}.8b, {b:v}.8b")
}

instruction! {
    /// The same with `a[8 + i] * b[8 + i]`.
    smlal2(int16x8_t, "smlal2 {sums:v}.8h, {a:v}.16b, {b:v}.16b")
}

instruction! {
    /// `sums[i] += a[4 i..4 i + 4] . b[4 i..4 i + 4]`, both signed. Needs DotProd.
    sdot(int32x4_t, "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b")
}

instruction! {
    /// The same with unsigned `a`. Needs I8MM.
    usdot(int32x4_t, "usdot {sums:v}.4s, {a:v}.16b, {b:v}.16b")
}

instruction! {
    /// `sums[2 i + j] += a[8 i..8 i + 8] . b[8 j..8 j + 8]`, both signed. Needs I8MM.
    smmla(int32x4_t, "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b")
}
