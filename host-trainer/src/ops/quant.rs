//! Quantisers of BitNet b1.58: ternary weights, int8 activations, int8 embedding rows.
//!
//! These functions decide what the exported model is: the exporter calls the same ones.

use super::math;

/// Absmean ternarisation of a whole matrix (BitNet b1.58, section 2):
/// `s = mean|W|`, `T = clamp(round(W / s), -1, 1)`. A matrix of zeros gives scale 0.
pub fn ternary(weights: &[f32]) -> (Vec<i8>, f32) {
    let scale = mean_abs(weights);
    let trits = weights.iter().map(|w| trit(*w, scale) as i8).collect();
    (trits, scale)
}

/// Absmax quantisation of each row of a `[rows, cols]` matrix to `-top..=top`, 127 for int8:
/// `s = max|E| / top`, `q = clamp(round_half_even(E / s), -top, top)`; a row of zeros has scale 0.
pub fn int_rows(values: &[f32], cols: usize, top: u8) -> (Vec<i8>, Vec<f32>) {
    let mut quantised = vec![0.0; values.len()];
    let scales = int_rows_into(values, cols, top, &mut quantised);
    (quantised.iter().map(|q| *q as i8).collect(), scales)
}

/// Mean of absolute values, summed in f64.
pub(super) fn mean_abs(weights: &[f32]) -> f32 {
    let sum: f64 = weights.iter().map(|w| f64::from(w.abs())).sum();
    (sum / weights.len().max(1) as f64) as f32
}

#[inline(always)]
fn trit(weight: f32, scale: f32) -> f32 {
    if scale == 0.0 {
        return 0.0;
    }
    (weight / scale).round().clamp(-1.0, 1.0)
}

/// Writes the trits of `weights` as f32 and returns the scale.
pub(super) fn ternary_into(weights: &[f32], out: &mut [f32]) -> f32 {
    let scale = mean_abs(weights);
    super::simd(
        #[inline(always)]
        || {
            for (o, w) in out.iter_mut().zip(weights) {
                *o = trit(*w, scale);
            }
        },
    );
    scale
}

/// Writes quantised rows as f32 and returns their scales.
pub(super) fn int_rows_into(values: &[f32], cols: usize, top: u8, out: &mut [f32]) -> Vec<f32> {
    let top = f32::from(top);
    let rows = values.chunks_exact(cols).zip(out.chunks_exact_mut(cols));
    super::simd(
        #[inline(always)]
        || rows.map(|(row, out)| int_row(row, top, out)).collect(),
    )
}

#[inline(always)]
fn int_row(row: &[f32], top: f32, out: &mut [f32]) -> f32 {
    let scale = math::max_abs(row) / top;
    for (o, v) in out.iter_mut().zip(row) {
        *o = if scale == 0.0 {
            0.0
        } else {
            (v / scale).round_ties_even().clamp(-top, top)
        };
    }
    scale
}

/// Quantises one activation row (`q = round_half_even(x * (127 / a))`) and returns `a / 127`.
#[inline(always)]
pub(super) fn activation_row(row: &[f32], out: &mut [f32]) -> f32 {
    let a = math::max_abs(row);
    let factor = if a == 0.0 { 0.0 } else { 127.0 / a };
    for (o, x) in out.iter_mut().zip(row) {
        *o = (x * factor).round_ties_even();
    }
    a / 127.0
}
