//! Causal depthwise convolution over the current token and the three before it.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda::{self, device};
use super::{result, simd, sum_in_order, tensor, values, with_values};

/// Tokens that one output sees.
pub const WIDTH: usize = 4;

struct CausalConv;

/// `y_t[c] = sum_j w[j][c] x_{t-3+j}[c]` for `x [B, T, D]`, `w [4, D]`, zeros before the row:
/// `[B, T, D]`.
///
/// # Errors
/// When an operand is not a contiguous f32 tensor on the CPU.
pub fn causal_conv(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(weight, CausalConv)
}

impl CustomOp2 for CausalConv {
    fn name(&self) -> &'static str {
        "causal-conv"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (values(s1, l1)?, values(s2, l2)?);
        let (_, t, d) = l1.shape().dims3()?;
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(t * d)
            .zip(x.par_chunks(t * d))
            .for_each(|(out, x)| {
                simd(
                    #[inline(always)]
                    || forward(x, w, d, out),
                )
            });
        result(out, l1.shape())
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
        let out = cuda::conv::forward(&s1.device, x, w, l1.shape().dims3()?)?;
        device::result(out, &s1.device, l1.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let operands = [x, weight, &grad.contiguous()?];
            return device::with_spans(operands, |m, [x_span, w, dy]| {
                let (dx, dw) = cuda::conv::backward(m, x_span, w, dy, x.dims3()?)?;
                Ok((
                    Some(device::tensor(dx, m, x.shape())),
                    Some(device::tensor(dw, m, weight.shape())),
                ))
            });
        }
        let (_, t, d) = x.dims3()?;
        let mut dx = vec![0.0; x.elem_count()];
        let dw = with_values([x, weight, &grad.contiguous()?], |[x, w, dy]| {
            let parts = dx
                .par_chunks_mut(t * d)
                .zip(x.par_chunks(t * d).zip(dy.par_chunks(t * d)))
                .map(|(dx, (x, dy))| {
                    simd(
                        #[inline(always)]
                        || backward(x, w, dy, d, dx),
                    )
                })
                .collect();
            Ok(sum_in_order(parts))
        })?;
        Ok((
            Some(tensor(dx, x.shape())?),
            Some(tensor(dw, weight.shape())?),
        ))
    }
}

/// Taps `(j, first output row)`: tap `j` looks `3 - j` tokens back.
fn taps() -> impl Iterator<Item = (usize, usize)> {
    (0..WIDTH).map(|j| (j, WIDTH - 1 - j))
}

#[inline(always)]
fn forward(x: &[f32], w: &[f32], d: usize, out: &mut [f32]) {
    for (j, back) in taps() {
        let w = &w[j * d..][..d];
        let rows = out.chunks_exact_mut(d).skip(back);
        for (out, x) in rows.zip(x.chunks_exact(d)) {
            for c in 0..d {
                out[c] += w[c] * x[c];
            }
        }
    }
}

#[inline(always)]
fn backward(x: &[f32], w: &[f32], dy: &[f32], d: usize, dx: &mut [f32]) -> Vec<f32> {
    let mut dw = vec![0.0; WIDTH * d];
    for (j, back) in taps() {
        let (w, dw) = (&w[j * d..][..d], &mut dw[j * d..][..d]);
        let rows = dx.chunks_exact_mut(d).zip(x.chunks_exact(d));
        for ((dx, x), dy) in rows.zip(dy.chunks_exact(d).skip(back)) {
            for c in 0..d {
                dx[c] += w[c] * dy[c];
                dw[c] += x[c] * dy[c];
            }
        }
    }
    dw
}
