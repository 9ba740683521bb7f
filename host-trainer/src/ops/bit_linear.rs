//! BitLinear (BitNet b1.58) and the int8 head: quantised input times quantised weights.
//!
//! The product runs in f32 on integer values. Below `127 * 127 * width < 2^24` (width 1040 for the
//! head, 132,000 for trits) every partial sum is exact, so the result has the core's very bits.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::gemm::{Mat, matmul};
use super::{ROWS_PER_TASK, quant, result, rows_of, simd, tensor, values, with_values};

/// How the weights are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    /// Ternary, one scale for each of this many equal groups of rows.
    Ternary { groups: usize },
    /// int8 with a scale a row.
    Int8Rows,
}

/// Dequantised operands of the forward pass, all that the straight-through gradient needs.
struct Saved {
    input: Vec<f32>,
    weight: Vec<f32>,
}

struct QuantLinear {
    weights: Weights,
    saved: Mutex<Option<Saved>>,
}

/// `x [.., K]` times ternarised `weight [M, K]`: `[.., M]`. The rows of `weight` are `groups` equal
/// matrices one below the other, each with its own scale.
///
/// # Errors
/// When shapes disagree or an operand is not a contiguous f32 tensor on the CPU.
pub fn bit_linear(x: &Tensor, weight: &Tensor, groups: usize) -> Result<Tensor> {
    apply(x, weight, Weights::Ternary { groups })
}

/// `x [.., K]` times int8 rows `weight [V, K]`: logits `[.., V]`.
///
/// # Errors
/// As [`bit_linear`].
pub fn int8_head(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    apply(x, weight, Weights::Int8Rows)
}

fn apply(x: &Tensor, weight: &Tensor, weights: Weights) -> Result<Tensor> {
    let saved = Mutex::new(None);
    x.contiguous()?
        .apply_op2(&weight.contiguous()?, QuantLinear { weights, saved })
}

impl CustomOp2 for QuantLinear {
    fn name(&self) -> &'static str {
        "quant-linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (values(s1, l1)?, values(s2, l2)?);
        let ((n, k), (m, wk)) = (rows_of(l1.shape()), rows_of(l2.shape()));
        if k != wk {
            bail!("input is {k} wide, weights {wk}");
        }
        let (mut weight, w_scales) = quantise_weights(w, m, k, self.weights);
        let (mut input, x_scales) = quantise_input(x, k);
        let mut y = matmul(Mat::new(&input, n, k), Mat::new(&weight, m, k).t());
        scale_rows(&mut y, &x_scales, Some(&w_scales));
        scale_rows(&mut input, &x_scales, None);
        scale_rows(&mut weight, &w_scales, None);
        *self.saved.lock().expect("not poisoned") = Some(Saved { input, weight });
        let mut dims = l1.dims().to_vec();
        *dims.last_mut().expect("at least one dimension") = m;
        result(y, dims)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let saved = self.saved.lock().expect("not poisoned");
        let Some(saved) = saved.as_ref() else {
            bail!("quant-linear: backward without forward");
        };
        let ((n, k), (m, _)) = (rows_of(x.shape()), rows_of(w.shape()));
        let (dx, dw) = with_values([&grad.contiguous()?], |[dy]| {
            let dy = Mat::new(dy, n, m);
            let dx = matmul(dy, Mat::new(&saved.weight, m, k));
            Ok((dx, matmul(dy.t(), Mat::new(&saved.input, n, k))))
        })?;
        Ok((Some(tensor(dx, x.shape())?), Some(tensor(dw, w.shape())?)))
    }
}

/// Integer-valued weights and the scale of every row.
fn quantise_weights(w: &[f32], m: usize, k: usize, kind: Weights) -> (Vec<f32>, Vec<f32>) {
    let mut out = vec![0.0; w.len()];
    let scales = match kind {
        Weights::Int8Rows => quant::int8_rows_into(w, k, &mut out),
        Weights::Ternary { groups } => {
            let rows = m / groups;
            w.chunks_exact(rows * k)
                .zip(out.chunks_exact_mut(rows * k))
                .flat_map(|(w, out)| std::iter::repeat_n(quant::ternary_into(w, out), rows))
                .collect()
        }
    };
    (out, scales)
}

/// Integer-valued activations and `a / 127` of every row.
fn quantise_input(x: &[f32], k: usize) -> (Vec<f32>, Vec<f32>) {
    let mut out = vec![0.0; x.len()];
    let mut scales = vec![0.0; x.len() / k];
    out.par_chunks_mut(ROWS_PER_TASK * k)
        .zip(x.par_chunks(ROWS_PER_TASK * k))
        .zip(scales.par_chunks_mut(ROWS_PER_TASK))
        .for_each(|((out, x), scales)| {
            simd(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(k).zip(x.chunks_exact(k));
                    for ((out, x), scale) in rows.zip(scales) {
                        *scale = quant::activation_row(x, out);
                    }
                },
            );
        });
    (out, scales)
}

/// Multiplies row `r` by `rows[r]`, or element `(r, c)` by `rows[r] * cols[c]`.
fn scale_rows(data: &mut [f32], rows: &[f32], cols: Option<&[f32]>) {
    let width = data.len() / rows.len().max(1);
    data.par_chunks_mut(ROWS_PER_TASK * width)
        .zip(rows.par_chunks(ROWS_PER_TASK))
        .for_each(|(data, rows)| {
            simd(
                #[inline(always)]
                || {
                    for (row, scale) in data.chunks_exact_mut(width).zip(rows) {
                        match cols {
                            Some(cols) => {
                                row.iter_mut().zip(cols).for_each(|(y, c)| *y *= scale * c)
                            }
                            None => row.iter_mut().for_each(|y| *y *= scale),
                        }
                    }
                },
            );
        });
}
