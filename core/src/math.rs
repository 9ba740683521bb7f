//! Elementary functions, one software implementation on every target (docs/NUMERICS.md, rule 5).
//!
//! Everything here is `inline(always)` so that a kernel compiled for wider registers vectorises it; multiply and
//! add round separately, so the width does not change a bit.

/// `sqrt`, correctly rounded.
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    #[cfg(bitttt_fpu)]
    return crate::kernel::sqrt(x);
    #[cfg(not(bitttt_fpu))]
    libm::sqrtf(x)
}

/// `e^x` for any `x`, clamped to the range where the result is a normal number; relative error below 2e-7.
/// Range reduction and polynomial: S. L. Moshier, Cephes, `expf`.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, ties to even
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let x = clamp(x, -87.0, 88.0);
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let y = (p * (r * r) + r) + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127);
    y * f32::from_bits(exponent << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `x` held between `low` and `high`; NaN stays NaN. Plain comparisons, because `f32::clamp` may panic and
/// `min`/`max` are calls on targets without the instruction.
#[inline(always)]
pub(crate) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// `x` as the nearest finite number, NaN as the least: one whose bits are the same everywhere, those of a NaN are not. By
/// its exponent, because comparing floats is a call where there is no unit for them.
#[inline(always)]
pub(crate) fn finite(x: f32) -> f32 {
    let held = if x == f32::INFINITY {
        f32::MAX
    } else {
        f32::MIN
    };
    if is_finite(x) { x } else { held }
}

/// Whether `x` is neither infinite nor NaN.
#[inline(always)]
pub(crate) fn is_finite(x: f32) -> bool {
    x.to_bits() & 0x7F80_0000 != 0x7F80_0000
}

/// Rotary frequency `theta^(-2j / d)` of a head's pair `j` (Su et al. 2021, RoFormer, section 3.2); relative error below
/// 1e-7 for `theta` up to 1e9. `theta` is above 1 and finite, `2 j` below `d`.
///
/// As `2^(-2j / d * log2 theta)` in integers, which carry more digits than a f32 would, in a tenth of the code of a
/// general power.
#[cfg_attr(bitttt_micro, inline(never))]
pub(crate) fn rope_frequency(theta: f32, j: usize, d: usize) -> f32 {
    let power = (ratio(2 * j as u32, d as u32) * log2(theta)) >> 30; // in units of 2^-27
    let (whole, rest) = ((power >> 27) as u32, (power as u32 & 0x7FF_FFFF) << 5);
    let root = exp2(0u32.wrapping_sub(rest)); // of 1 - rest, so that the exponent is one less, unless rest is 0
    let exponent = 127u32.saturating_sub(whole + u32::from(rest != 0));
    (root as f32 * f32::from_bits((127 - 31) << 23)) * f32::from_bits(exponent << 23)
}

/// `n / d` for `n < d`, in units of 2^-30.
fn ratio(n: u32, d: u32) -> u64 {
    let (mut rest, mut ratio) = (u64::from(n), 0);
    for _ in 0..30 {
        rest <<= 1;
        ratio <<= 1;
        if let Some(less) = rest.checked_sub(u64::from(d)) {
            rest = less;
            ratio |= 1;
        }
    }
    ratio
}

/// `log2 x` of a normal `x >= 1`, in units of 2^-27: squaring the mantissa gives a binary digit at a time.
fn log2(x: f32) -> u64 {
    let exponent = (x.to_bits() >> 23).saturating_sub(127);
    let mut mantissa = u64::from(x.to_bits() & 0x7F_FFFF | 0x80_0000) << 8; // in units of 2^-31
    (0..27).fold(u64::from(exponent), |log, _| {
        mantissa = (mantissa * mantissa) >> 31;
        let digit = mantissa >> 32;
        mantissa >>= digit;
        log << 1 | digit
    })
}

/// `2^x` for `x` in units of 2^-32, in units of 2^-31: the series of `e^(x ln 2)`.
fn exp2(x: u32) -> u32 {
    const ONE: u32 = 1 << 31;
    const LN_2: u64 = 0xB172_17F8; // in units of 2^-32
    let x = (u64::from(x) * LN_2) >> 32;
    (1..14).rev().fold(ONE, |sum, k| {
        let term = (u64::from(sum) * x) >> 32;
        ONE + term as u32 / k
    })
}

/// Rotary angles of one head at `position`, as `[c_0, s_0, c_1, s_1, …]`: `angle_j = position * frequency(j)`.
pub(crate) fn rope_row(position: f32, row: &mut [f32], frequency: impl Fn(usize) -> f32) {
    for (j, pair) in row.chunks_exact_mut(2).enumerate() {
        let angle = position * frequency(j);
        if let [cos, sin] = pair {
            (*sin, *cos) = sin_cos(angle);
        }
    }
}

/// `(sin x, cos x)` of an angle that is not negative; absolute error below 2e-7 for `x` up to 2^17, beyond that what 40
/// bits of `2 / pi` give. What is not finite counts as 0.
///
/// In single precision and integers, because on a microcontroller the double precision that `libm` reduces its argument
/// with is more code than a mixer. Polynomials: S. L. Moshier, Cephes, `sinf`.
pub(crate) fn sin_cos(x: f32) -> (f32, f32) {
    let (quadrant, r) = reduce(x);
    let z = r * r;
    let sin = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * r + r;
    let cos =
        ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * (z * z) - 0.5 * z + 1.0;
    match quadrant & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// `x` as quadrants and an angle between -pi/4 and pi/4: the product of its mantissa with 40 bits of `2 / pi` is exact.
fn reduce(x: f32) -> (u32, f32) {
    const TWO_OVER_PI: u64 = 0xA2_F983_6E4E; // in units of 2^-40
    const QUADRANT: f32 = core::f32::consts::FRAC_PI_2 / (1 << 30) as f32;
    let (exponent, mantissa) = (
        (x.to_bits() >> 23) as i32,
        x.to_bits() & 0x7F_FFFF | 0x80_0000,
    );
    if x < core::f32::consts::FRAC_PI_4 {
        return (0, x);
    }
    if exponent > 0xFE {
        return (0, 0.0);
    }
    // x = mantissa * 2^(exponent - 150), so this many bits of the product are a fraction of a quadrant
    let fraction = 190 - exponent;
    let product = u64::from(mantissa) * TWO_OVER_PI;
    let turned = match 62 - fraction {
        left @ 0..64 => product << left,
        64.. => 0,
        right => product >> -right,
    };
    let angle = (turned >> 32) as u32; // 2 bits of quadrant, 30 of its fraction
    let quadrant = angle.wrapping_add(1 << 29) >> 30;
    (
        quadrant,
        angle.wrapping_sub(quadrant << 30) as i32 as f32 * QUADRANT,
    )
}

/// `n mod d` without the division of 64 bits, which is a kilobyte of code where there is no instruction for it.
pub(crate) fn modulo(n: u64, d: u32) -> u32 {
    let d = d.max(1);
    let (high, low) = ((n >> 32) as u32, n as u32);
    if high == 0 {
        return low % d;
    }
    (0..32).rev().fold(high % d, |rest, bit| {
        let twice = u64::from(rest) << 1 | u64::from(low >> bit & 1);
        twice.checked_sub(u64::from(d)).unwrap_or(twice) as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_stays_within_two_ulps_of_the_true_value() {
        let mut worst = 0.0f64;
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let truth = (x as f64).exp();
            worst = worst.max(((exp(x) as f64 - truth) / truth).abs());
        }
        assert!(worst < 2e-7, "{worst}");
    }

    #[test]
    fn sine_and_cosine_stay_close_to_the_true_values() {
        let angles = (0..200_000)
            .map(|i| i as f32 * 0.013)
            .chain((0..4000).map(|i| i as f32 * 1e-5));
        for x in angles.chain((0..17).map(|i| (1u32 << i) as f32)) {
            let ((sin, cos), truth) = (sin_cos(x), (x as f64).sin_cos());
            let error = (sin as f64 - truth.0)
                .abs()
                .max((cos as f64 - truth.1).abs());
            assert!(error < 2e-7, "{x}: {error}");
        }
        for x in [0.0, 1e7, 1e20, f32::MAX, f32::INFINITY, f32::NAN] {
            let (sin, cos) = sin_cos(x);
            assert!(
                (sin * sin + cos * cos - 1.0).abs() < 1e-6,
                "{x}: {sin} {cos}"
            );
        }
    }

    #[test]
    fn rotary_frequencies_stay_close_to_the_true_values() {
        for theta in [1.5, 10.0, 500.0, 10_000.0, 5e5, 1e6, 1e9] {
            for d in [2, 6, 32, 64, 80, 128, 256] {
                for j in 0..d / 2 {
                    let truth = (theta as f64).powf(-((2 * j) as f64) / d as f64);
                    let error = (rope_frequency(theta, j, d) as f64 - truth) / truth;
                    assert!(error.abs() < 1e-7, "{theta} {j} {d}: {error}");
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn modulo_is_the_rest_of_the_division(n: u64, small: u32, d: u32) {
            for n in [n, u64::from(small), n >> 20] {
                proptest::prop_assert_eq!(u64::from(modulo(n, d)), n % u64::from(d.max(1)));
            }
        }
    }

    #[test]
    fn exp_is_finite_at_the_ends_and_keeps_nan() {
        assert!(exp(f32::INFINITY).is_finite() && exp(f32::NEG_INFINITY) > 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }
}
