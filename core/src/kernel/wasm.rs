//! WebAssembly's 128-bit registers, present if the whole module is compiled with `-C target-feature=+simd128`: a module
//! cannot ask. Products are made in 16 bits, which engines have one instruction for on every processor; the instructions
//! that widen bytes while they multiply are five of them on x86.

use super::Product;
use super::simd::{self, Format, MAX_PLANES, Simd};
use core::arch::wasm32::*;
use core::ops::Range;

/// `out[t, r]` for `rows`, see [`super::Backend::matmul`].
pub(crate) fn product(p: &Product<'_>, rows: Range<usize>) {
    // SAFETY: the module has the instructions, or it would not have been loaded.
    unsafe { simd::product::<Simd128>(p, rows) }
}

struct Simd128;

impl Simd for Simd128 {
    const BYTES: usize = 16;
    const ROWS: usize = 4;
    const TOKENS: usize = 2;
    type Bytes = v128;
    type Sums = v128;
    type T2 = T2;
    type T5 = T5;
    type I8 = I8;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> v128 {
        // SAFETY: the caller's.
        unsafe { v128_load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const u8, len: usize, available: usize) -> v128 {
        // SAFETY: a whole register is read only where it is.
        unsafe {
            if available >= 16 {
                let places = u8x16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                return v128_and(Self::load(from), u8x16_lt(places, u8x16_splat(len as u8)));
            }
            let mut padded = [0u8; 16];
            core::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::load(padded.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, bytes: v128) {
        // SAFETY: the caller's.
        unsafe { v128_store(to.cast(), bytes) }
    }

    /// There is no such instruction.
    #[inline(always)]
    unsafe fn prefetch<const SECOND: bool>(_: *const u8) {}

    #[inline(always)]
    unsafe fn zero() -> v128 {
        i32x4_splat(0)
    }

    #[inline(always)]
    unsafe fn totals<const R: usize>(sums: [v128; R]) -> [i32; R] {
        sums.map(|sums| {
            let halves = i32x4_add(sums, i32x4_shuffle::<2, 3, 0, 1>(sums, sums));
            i32x4_extract_lane::<0>(halves) + i32x4_extract_lane::<1>(halves)
        })
    }
}

/// Adds codes times activations, two products a sum of 16 bits.
#[inline(always)]
fn add(sums: v128, codes: v128, q: v128) -> v128 {
    let low = i16x8_mul(u16x8_extend_low_u8x16(codes), i16x8_extend_low_i8x16(q));
    let high = i16x8_mul(u16x8_extend_high_u8x16(codes), i16x8_extend_high_i8x16(q));
    i16x8_add(i16x8_add(sums, low), high)
}

/// Adds pairs of products of signed bytes.
#[inline(always)]
fn add_signed(sums: v128, w: v128, q: v128) -> v128 {
    let low = i32x4_dot_i16x8(i16x8_extend_low_i8x16(w), i16x8_extend_low_i8x16(q));
    let high = i32x4_dot_i16x8(i16x8_extend_high_i8x16(w), i16x8_extend_high_i8x16(q));
    i32x4_add(i32x4_add(sums, low), high)
}

/// Adds pairs of 16-bit sums in 32 bits.
#[inline(always)]
fn widen(sums: v128, pairs: v128) -> v128 {
    i32x4_add(sums, i32x4_extadd_pairwise_i16x8(pairs))
}

/// What the stored types share.
macro_rules! shared {
    () => {
        type Acc = v128;
        type Tile = v128;

        #[inline(always)]
        unsafe fn zero() -> v128 {
            i32x4_splat(0)
        }

        #[inline(always)]
        unsafe fn tile_zero() -> v128 {
            i16x8_splat(0)
        }

        #[inline(always)]
        unsafe fn tile(tile: v128, codes: v128, q: v128) -> v128 {
            add(tile, codes, q)
        }

        #[inline(always)]
        unsafe fn widen(sums: v128, tile: v128) -> v128 {
            widen(sums, tile)
        }
    };
}

/// Two bits a weight: mask and shift. Codes are at most 3: 32 times two products of `3 * 127` fit in 16 bits.
struct T2;

impl Format<Simd128> for T2 {
    const PLANES: usize = 4;
    const OFFSET: i32 = 1;
    const STEPS: usize = 32;
    shared!();

    #[inline(always)]
    unsafe fn add(acc: v128, bytes: v128, q: &[v128; MAX_PLANES]) -> v128 {
        let codes = |bytes| v128_and(bytes, u8x16_splat(3));
        let sums = add(i16x8_splat(0), codes(bytes), q[0]);
        let sums = add(sums, codes(u8x16_shr(bytes, 2)), q[1]);
        let sums = add(sums, codes(u8x16_shr(bytes, 4)), q[2]);
        let sums = add(sums, u8x16_shr(bytes, 6), q[3]);
        widen(acc, sums)
    }

    #[inline(always)]
    unsafe fn sums(acc: v128) -> v128 {
        acc
    }

    #[inline(always)]
    unsafe fn next(bytes: v128) -> (v128, v128) {
        (v128_and(bytes, u8x16_splat(3)), u8x16_shr(bytes, 2))
    }
}

/// Base 3. Decode needs no digits: `n_p = 3^p b / 256` are the first `p` digits of byte `b` as a number, digit `p` is
/// `n_(p+1) - 3 n_p`, hence `sum digit_p q_p = sum n_(p+1) (q_p - 3 q_(p+1))`, exact in 16 bits although terms may wrap.
/// The factors serve all rows. 2.7 times as fast as comparing bytes with thresholds, as prefill does once for all tokens.
struct T5;

impl Format<Simd128> for T5 {
    const PLANES: usize = 5;
    const OFFSET: i32 = 1;
    const STEPS: usize = 32;
    shared!();

    #[inline(always)]
    unsafe fn add(acc: v128, bytes: v128, q: &[v128; MAX_PLANES]) -> v128 {
        let low = u16x8_extend_low_u8x16(bytes);
        let high = u16x8_extend_high_u8x16(bytes);
        let sums = numbers(i16x8_splat(0), low, q.map(|q| i16x8_extend_low_i8x16(q)));
        let sums = numbers(sums, high, q.map(|q| i16x8_extend_high_i8x16(q)));
        widen(acc, sums)
    }

    #[inline(always)]
    unsafe fn sums(acc: v128) -> v128 {
        acc
    }

    #[inline(always)]
    unsafe fn next(bytes: v128) -> (v128, v128) {
        (digits(bytes), thrice(bytes))
    }
}

/// Adds `n_(p+1) (q_p - 3 q_(p+1))` of eight bytes in 16 bits each.
#[inline(always)]
fn numbers(sums: v128, bytes: v128, [q0, q1, q2, q3, q4]: [v128; MAX_PLANES]) -> v128 {
    let thrice = |q: v128| i16x8_add(i16x8_add(q, q), q);
    let add = |sums: v128, power: u16, factor: v128| {
        let number = u16x8_shr(i16x8_mul(bytes, u16x8_splat(power)), 8);
        i16x8_add(sums, i16x8_mul(number, factor))
    };
    let sums = add(sums, 3, i16x8_sub(q0, thrice(q1)));
    let sums = add(sums, 9, i16x8_sub(q1, thrice(q2)));
    let sums = add(sums, 27, i16x8_sub(q2, thrice(q3)));
    let sums = add(sums, 81, i16x8_sub(q3, thrice(q4)));
    add(sums, 243, q4)
}

/// A byte's first digit is the number of thresholds 86 and 171 that it reaches. Comparisons give -1 where they hold.
#[inline(always)]
fn digits(bytes: v128) -> v128 {
    let one = u8x16_ge(bytes, u8x16_splat(86));
    let two = u8x16_ge(bytes, u8x16_splat(171));
    i8x16_neg(i8x16_add(one, two))
}

/// `3 b mod 256` in each byte.
#[inline(always)]
fn thrice(bytes: v128) -> v128 {
    u8x16_add(u8x16_add(bytes, bytes), bytes)
}

/// Signed bytes: pairs of products are added in 32 bits.
struct I8;

impl Format<Simd128> for I8 {
    const PLANES: usize = 1;
    const OFFSET: i32 = 0;
    const STEPS: usize = usize::MAX;
    type Acc = v128;
    type Tile = v128;

    #[inline(always)]
    unsafe fn zero() -> v128 {
        i32x4_splat(0)
    }

    #[inline(always)]
    unsafe fn tile_zero() -> v128 {
        i32x4_splat(0)
    }

    #[inline(always)]
    unsafe fn tile(tile: v128, codes: v128, q: v128) -> v128 {
        add_signed(tile, codes, q)
    }

    #[inline(always)]
    unsafe fn widen(sums: v128, tile: v128) -> v128 {
        i32x4_add(sums, tile)
    }

    #[inline(always)]
    unsafe fn add(acc: v128, bytes: v128, q: &[v128; MAX_PLANES]) -> v128 {
        add_signed(acc, bytes, q[0])
    }

    #[inline(always)]
    unsafe fn sums(acc: v128) -> v128 {
        acc
    }

    #[inline(always)]
    unsafe fn next(bytes: v128) -> (v128, v128) {
        (bytes, bytes)
    }
}
