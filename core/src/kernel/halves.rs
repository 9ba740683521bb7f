//! Keys and values as a cache stores them: f32, or binary16 by integer arithmetic that vectorises and is the same on every
//! target.

use crate::model::Floats;

/// An element as stored.
pub(crate) trait Stored: Copy {
    /// Its value, exactly.
    fn widen(self) -> f32;
}

impl Stored for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

/// binary16 as bits. Exponent and fraction, moved into an f32's place, are the number times 2^-112; a multiplication
/// is exact, subnormals included, and needs no case distinction that would keep it from vectorising.
impl Stored for u16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = (i32::from(self as i16) << 13) as u32 & 0x8FFF_E000; // extending the sign put it in place
        f32::from_bits(bits) * f32::from_bits((127 + 112) << 23)
    }
}

/// Widens a tile's keys or values, exactly.
#[inline(always)]
pub(crate) fn widen_tile(from: Floats<'_>, to: &mut [f32]) {
    from.copy_to(to);
}

/// Narrows to binary16: rounded to even, held within the finite numbers, NaN as 0.
#[inline(always)]
pub(crate) fn narrow(from: &[f32], to: &mut [u16]) {
    to.iter_mut()
        .zip(from)
        .for_each(|(to, &x)| *to = half_bits(x));
}

/// Both roundings are computed and one is chosen, so that it vectorises.
#[inline(always)]
fn half_bits(x: f32) -> u16 {
    const MAX: u32 = 0x477F_E000; // 65,504
    const LEAST_NORMAL: u32 = 0x3880_0000; // 2^-14
    const HALF: u32 = 0x3F00_0000; // 0.5, whose last bit is worth 2^-24, that of a subnormal half
    let bits = if x.is_nan() { 0 } else { x.to_bits() };
    let magnitude = (bits & 0x7FFF_FFFF).min(MAX);
    let subnormal = (f32::from_bits(magnitude) + f32::from_bits(HALF)).to_bits() - HALF;
    let even = 0xFFF + (magnitude >> 13 & 1);
    let normal = (magnitude + even).wrapping_sub((127 - 15) << 23) >> 13;
    let half = if magnitude < LEAST_NORMAL {
        subnormal
    } else {
        normal
    };
    (bits >> 16 & 0x8000 | half) as u16
}

#[cfg(test)]
mod tests {
    use super::super::Backend;
    use super::*;
    use std::vec::Vec;

    /// All there are, but where Miri would take an hour.
    const STEP: usize = if cfg!(miri) { 997 } else { 1 };

    #[test]
    fn widening_is_exact_for_every_half() {
        for bits in (0..=u16::MAX).step_by(STEP) {
            let expected = half::f16::from_bits(bits).to_f32();
            if expected.is_finite() {
                assert_eq!(bits.widen().to_bits(), expected.to_bits());
            }
        }
    }

    #[test]
    fn narrowing_rounds_to_even_and_stays_finite() {
        let expected = |x: f32| match x.is_nan() {
            true => 0,
            false => half::f16::from_f32(x.clamp(-65_504.0, 65_504.0)).to_bits(),
        };
        // Every half, the middle between it and the next one, and the neighbours of both.
        let near = |bits: u32| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)];
        let halves = (0..=u16::MAX)
            .step_by(STEP)
            .map(|half| half::f16::from_bits(half).to_f32().to_bits());
        let subnormal = (0..1 << 11)
            .step_by(STEP)
            .map(|i| (i as f32 * 2f32.powi(-25)).to_bits());
        let x: Vec<f32> = halves
            .flat_map(|bits| [bits, bits.wrapping_add(0x1000)])
            .chain(subnormal)
            .flat_map(near)
            .map(f32::from_bits)
            .collect();
        for backend in Backend::all() {
            let mut found = std::vec![0; x.len()];
            backend.narrow(&x, &mut found);
            for (&x, found) in x.iter().zip(found) {
                assert_eq!(found, expected(x), "{x:e} on {}", backend.name());
            }
        }
    }
}
