//! Middle of the feed-forward network: `RMSNorm(act(gate) * up)`.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda::{self, device};
use super::norm::{inverse_rms, rms_row_grad};
use super::{ROWS_PER_TASK, math, result, simd, sum_in_order, tensor, values, with_values};
use crate::config::Activation;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

struct GluNorm {
    activation: Activation,
    eps: f32,
}

/// `act(gate) * up`, normalised with `gain [F]`, for `x = [gate, up]` of shape `[.., 2F]`: `[.., F]`.
///
/// # Errors
/// When an operand is not a contiguous f32 tensor on the CPU.
pub fn glu_norm(x: &Tensor, gain: &Tensor, activation: Activation, eps: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op2(gain, GluNorm { activation, eps })
}

impl Activation {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        match self {
            Self::Silu => math::silu(x),
            Self::Relu2 => x.max(0.0) * x.max(0.0),
        }
    }

    #[inline(always)]
    fn slope(self, x: f32) -> f32 {
        match self {
            Self::Silu => math::silu_grad(x),
            Self::Relu2 => 2.0 * x.max(0.0),
        }
    }
}

impl CustomOp2 for GluNorm {
    fn name(&self) -> &'static str {
        "glu-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gain) = (values(s1, l1)?, values(s2, l2)?);
        let mut out = vec![0.0; x.len() / 2];
        let step = ROWS_PER_TASK * gain.len();
        out.par_chunks_mut(step)
            .zip(x.par_chunks(2 * step))
            .for_each(|(out, x)| match self.activation {
                // Matched outside the loops, so that each is compiled with its own activation.
                Activation::Silu => simd(
                    #[inline(always)]
                    || rows(x, gain, Activation::Silu, self.eps, out),
                ),
                Activation::Relu2 => simd(
                    #[inline(always)]
                    || rows(x, gain, Activation::Relu2, self.eps, out),
                ),
            });
        let mut dims = l1.dims().to_vec();
        *dims.last_mut().expect("at least one dimension") = gain.len();
        result(out, dims)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let operands = cuda::ffn::Operands {
            x: device::span(s1, l1)?,
            gain: device::span(s2, l2)?,
            activation: self.activation,
            eps: self.eps,
        };
        let out = cuda::ffn::forward(&s1.device, operands)?;
        let mut dims = l1.dims().to_vec();
        *dims.last_mut().expect("at least one dimension") = operands.gain.len();
        device::result(out, &s1.device, dims)
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return self.cuda_gradients(x, gain, grad);
        }
        let mut dx = vec![0.0; x.elem_count()];
        let dg = with_values([x, gain, &grad.contiguous()?], |[x, gain, dy]| {
            let step = ROWS_PER_TASK * gain.len();
            let parts = dx
                .par_chunks_mut(2 * step)
                .zip(x.par_chunks(2 * step).zip(dy.par_chunks(step)))
                .map(|(dx, (x, dy))| match self.activation {
                    Activation::Silu => simd(
                        #[inline(always)]
                        || rows_grad([x, gain, dy], Activation::Silu, self.eps, dx),
                    ),
                    Activation::Relu2 => simd(
                        #[inline(always)]
                        || rows_grad([x, gain, dy], Activation::Relu2, self.eps, dx),
                    ),
                })
                .collect();
            Ok(sum_in_order(parts))
        })?;
        Ok((
            Some(tensor(dx, x.shape())?),
            Some(tensor(dg, gain.shape())?),
        ))
    }
}

#[cfg(feature = "cuda")]
impl GluNorm {
    fn cuda_gradients(
        &self,
        x: &Tensor,
        gain: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        device::with_spans([x, gain, &grad.contiguous()?], |m, [x_span, g, dy]| {
            let operands = cuda::ffn::Operands {
                x: x_span,
                gain: g,
                activation: self.activation,
                eps: self.eps,
            };
            let (dx, dgain) = cuda::ffn::backward(m, operands, dy)?;
            Ok((
                Some(device::tensor(dx, m, x.shape())),
                Some(device::tensor(dgain, m, gain.shape())),
            ))
        })
    }
}

#[inline(always)]
fn rows(x: &[f32], gain: &[f32], act: Activation, eps: f32, out: &mut [f32]) {
    let f = gain.len();
    for (x, out) in x.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
        let (gate, up) = x.split_at(f);
        for i in 0..f {
            out[i] = act.value(gate[i]) * up[i];
        }
        let r = inverse_rms(out, eps);
        for i in 0..f {
            out[i] = out[i] * r * gain[i];
        }
    }
}

#[inline(always)]
fn rows_grad([x, gain, dy]: [&[f32]; 3], act: Activation, eps: f32, dx: &mut [f32]) -> Vec<f32> {
    let f = gain.len();
    let (mut dg, mut m, mut dm) = (vec![0.0; f], vec![0.0; f], vec![0.0; f]);
    let pairs = x.chunks_exact(2 * f).zip(dx.chunks_exact_mut(2 * f));
    for ((x, dx), dy) in pairs.zip(dy.chunks_exact(f)) {
        let (gate, up) = x.split_at(f);
        for i in 0..f {
            m[i] = act.value(gate[i]) * up[i];
        }
        rms_row_grad(&m, gain, dy, eps, &mut dm, &mut dg);
        let (d_gate, d_up) = dx.split_at_mut(f);
        for i in 0..f {
            d_gate[i] = dm[i] * up[i] * act.slope(gate[i]);
            d_up[i] = dm[i] * act.value(gate[i]);
        }
    }
    dg
}
