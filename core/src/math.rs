//! Elementary functions, one software implementation on every target (docs/NUMERICS.md, rule 5).
//!
//! Everything here is `inline(always)` so that a kernel compiled for wider registers vectorises it; multiply and
//! add round separately, so the width does not change a bit.

/// `sqrt`, correctly rounded.
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// `e^x` for any `x`, clamped to the range where the result is a normal number; relative error below 2e-7.
/// Range reduction and polynomial: S. L. Moshier, Cephes, `expf`.
#[inline(always)]
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

/// Rotary frequency `theta^(-2j / d)` of a head's pair `j` (Su et al. 2021, RoFormer, section 3.2).
pub(crate) fn rope_frequency(theta: f32, j: usize, d: usize) -> f32 {
    libm::powf(theta, -((2 * j) as f32) / d as f32)
}

/// Rotary angles of one head at `position`, as `[c_0, s_0, c_1, s_1, …]`: `angle_j = position * frequency(j)`.
pub(crate) fn rope_row(position: f32, row: &mut [f32], frequency: impl Fn(usize) -> f32) {
    for (j, pair) in row.chunks_exact_mut(2).enumerate() {
        let angle = position * frequency(j);
        if let [cos, sin] = pair {
            *cos = libm::cosf(angle);
            *sin = libm::sinf(angle);
        }
    }
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
    fn exp_is_finite_at_the_ends_and_keeps_nan() {
        assert!(exp(f32::INFINITY).is_finite() && exp(f32::NEG_INFINITY) > 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }
}
