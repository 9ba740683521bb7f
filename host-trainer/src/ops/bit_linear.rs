//! BitLinear (BitNet b1.58) and the int8 head: quantised input times quantised weights.
//!
//! The product runs in f32 on integer values. Below `127 * 127 * width < 2^24` (width 1040 for the
//! head, 132,000 for trits) every partial sum is exact, so the result has the core's very bits.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaDevice, CudaStorage};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda::{self, device};
use super::gemm::{Mat, matmul};
use super::{ROWS_PER_TASK, quant, result, rows_of, simd, tensor, values, with_values};

/// How the weights are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Ternary, one scale for each of this many equal groups of rows.
    Ternary {
        /// Number of matrices one below the other.
        groups: usize,
    },
    /// `-top..=top` with a scale a row; 127 is int8.
    IntRows {
        /// Largest code.
        top: u8,
    },
}

/// Operands of the forward pass as it saw them, all that the straight-through gradient needs.
enum Saved {
    /// Dequantised.
    Cpu { input: Vec<f32>, weight: Vec<f32> },
    /// Codes and scales.
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::bit_linear::Saved<CudaDevice>>),
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
    int_linear(x, weight, 127)
}

/// `x [.., K]` times `weight [M, K]`, its rows quantised to `-top..=top`: `[.., M]`.
///
/// # Errors
/// As [`bit_linear`].
pub fn int_linear(x: &Tensor, weight: &Tensor, top: u8) -> Result<Tensor> {
    apply(x, weight, Weights::IntRows { top })
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
        let (n, k, m) = dims(l1, l2)?;
        let (mut weight, w_scales) = quantise_weights(w, m, k, self.weights);
        let (mut input, x_scales) = quantise_input(x, k);
        let mut y = matmul(Mat::new(&input, n, k), Mat::new(&weight, m, k).t());
        scale_rows(&mut y, &x_scales, Some(&w_scales));
        scale_rows(&mut input, &x_scales, None);
        scale_rows(&mut weight, &w_scales, None);
        *self.saved.lock().expect("not poisoned") = Some(Saved::Cpu { input, weight });
        result(y, with_last(l1, m))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (x, w) = (device::span(s1, l1)?, device::span(s2, l2)?);
        let sizes @ (_, _, m) = dims(l1, l2)?;
        let (y, saved) = cuda::bit_linear::forward(&s1.device, x, w, sizes, self.weights)?;
        *self.saved.lock().expect("not poisoned") = Some(Saved::Cuda(saved.into()));
        device::result(y, &s1.device, with_last(l1, m))
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
        match saved {
            Saved::Cpu { input, weight } => {
                let (dx, dw) = with_values([&grad.contiguous()?], |[dy]| {
                    let dy = Mat::new(dy, n, m);
                    let dx = matmul(dy, Mat::new(weight, m, k));
                    Ok((dx, matmul(dy.t(), Mat::new(input, n, k))))
                })?;
                Ok((Some(tensor(dx, x.shape())?), Some(tensor(dw, w.shape())?)))
            }
            #[cfg(feature = "cuda")]
            Saved::Cuda(saved) => device::with_spans([&grad.contiguous()?], |machine, [dy]| {
                let (dx, dw) = cuda::bit_linear::backward(machine, saved, dy)?;
                Ok((
                    Some(device::tensor(dx, machine, x.shape())),
                    Some(device::tensor(dw, machine, w.shape())),
                ))
            }),
        }
    }
}

/// Rows and width of the input, and rows of the weights.
fn dims(x: &Layout, w: &Layout) -> Result<(usize, usize, usize)> {
    let ((n, k), (m, wk)) = (rows_of(x.shape()), rows_of(w.shape()));
    if k != wk {
        bail!("input is {k} wide, weights {wk}");
    }
    Ok((n, k, m))
}

/// The dimensions of `x`, but for the last.
fn with_last(x: &Layout, last: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
    *dims.last_mut().expect("at least one dimension") = last;
    dims
}

/// Integer-valued weights and the scale of every row.
fn quantise_weights(w: &[f32], m: usize, k: usize, kind: Weights) -> (Vec<f32>, Vec<f32>) {
    let mut out = vec![0.0; w.len()];
    let scales = match kind {
        Weights::IntRows { top } => quant::int_rows_into(w, k, top, &mut out),
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
