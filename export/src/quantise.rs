//! Weights to ternary and int8 codes, exactly as the trainer's straight-through estimators see them.

/// BitNet b1.58's absmean quantisation (Ma et al. 2024, section 2): `s = mean|w|` (summed in f64),
/// `t = clamp(round(w / s), -1, 1)`. Zeros have scale 0.
pub fn ternary(weights: &[f32]) -> (Vec<i8>, f32) {
    let sum: f64 = weights.iter().map(|w| f64::from(w.abs())).sum();
    let scale = (sum / weights.len().max(1) as f64) as f32;
    let trit = |&w: &f32| {
        if scale > 0.0 {
            (w / scale).round().clamp(-1.0, 1.0) as i8
        } else {
            0
        }
    };
    (weights.iter().map(trit).collect(), scale)
}

/// Int8 rows: `s = max|w| / 127`, `q = clamp(round_half_even(w / s), -127, 127)`, a scale for each row of `cols`.
pub fn int8_rows(weights: &[f32], cols: usize) -> (Vec<i8>, Vec<f32>) {
    let mut codes = Vec::with_capacity(weights.len());
    let scales = weights.chunks(cols).map(|row| {
        let scale = row.iter().fold(0.0f32, |max, w| max.max(w.abs())) / 127.0;
        let code = |&w: &f32| {
            if scale > 0.0 {
                (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8
            } else {
                0
            }
        };
        codes.extend(row.iter().map(code));
        scale
    });
    let scales = scales.collect();
    (codes, scales)
}
