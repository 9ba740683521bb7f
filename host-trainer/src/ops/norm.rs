//! RMSNorm (Zhang and Sennrich 2019), plain and with the mixer's gate.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda::{self, device};
use super::{ROWS_PER_TASK, math, result, simd, sum_in_order, tensor, values, with_values};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(super) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (math::dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// Gradient of `y = x * r * g` for one row: writes `dx` and adds to `dg`.
/// `dx = r * (g dy) - x * r^3 / n * sum(x g dy)`.
#[inline(always)]
pub(super) fn rms_row_grad(
    x: &[f32],
    gain: &[f32],
    dy: &[f32],
    eps: f32,
    dx: &mut [f32],
    dg: &mut [f32],
) {
    let r = inverse_rms(x, eps);
    for i in 0..x.len() {
        dx[i] = gain[i] * dy[i];
        dg[i] += dy[i] * x[i] * r;
    }
    let c = math::dot(x, dx) * r * r / x.len() as f32;
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = r * (*dx - x * c);
    }
}

struct RmsNorm {
    eps: f32,
}

/// `x [.., D] * gain [D] / rms(x)`: `[.., D]`.
///
/// # Errors
/// When an operand is not a contiguous f32 tensor on the CPU.
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op2(gain, RmsNorm { eps })
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gain) = (values(s1, l1)?, values(s2, l2)?);
        let mut out = vec![0.0; x.len()];
        let step = ROWS_PER_TASK * gain.len();
        out.par_chunks_mut(step)
            .zip(x.par_chunks(step))
            .for_each(|(out, x)| {
                simd(
                    #[inline(always)]
                    || norm_rows(x, gain, self.eps, out),
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
        let operands = cuda::norm::Operands {
            x: device::span(s1, l1)?,
            gain: device::span(s2, l2)?,
            gate: None,
            eps: self.eps,
        };
        let out = cuda::norm::forward(&s1.device, operands)?;
        device::result(out, &s1.device, l1.shape())
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
            let [dx, dgain, _] = cuda_gradients([x, gain], None, grad, self.eps)?;
            return Ok((dx, dgain));
        }
        let mut dx = vec![0.0; x.elem_count()];
        let dg = with_values([x, gain, &grad.contiguous()?], |[x, gain, dy]| {
            let step = ROWS_PER_TASK * gain.len();
            let parts = dx
                .par_chunks_mut(step)
                .zip(x.par_chunks(step).zip(dy.par_chunks(step)))
                .map(|(dx, (x, dy))| {
                    simd(
                        #[inline(always)]
                        || norm_rows_grad(x, gain, dy, self.eps, dx),
                    )
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

#[inline(always)]
fn norm_rows(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let width = gain.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let r = inverse_rms(x, eps);
        for i in 0..width {
            out[i] = x[i] * r * gain[i];
        }
    }
}

#[inline(always)]
fn norm_rows_grad(x: &[f32], gain: &[f32], dy: &[f32], eps: f32, dx: &mut [f32]) -> Vec<f32> {
    let width = gain.len();
    let mut dg = vec![0.0; width];
    let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(width)) {
        rms_row_grad(x, gain, dy, eps, dx, &mut dg);
    }
    dg
}

/// Gradients for `x`, `gain` and the gate, where there is one.
#[cfg(feature = "cuda")]
fn cuda_gradients(
    [x, gain]: [&Tensor; 2],
    gate: Option<&Tensor>,
    grad: &Tensor,
    eps: f32,
) -> Result<[Option<Tensor>; 3]> {
    let operands = [x, gain, gate.unwrap_or(x), &grad.contiguous()?];
    device::with_spans(operands, |m, [x_span, gain_span, gate_span, dy]| {
        let operands = cuda::norm::Operands {
            x: x_span,
            gain: gain_span,
            gate: gate.map(|_| gate_span),
            eps,
        };
        let (dx, dgain, dgate) = cuda::norm::backward(m, operands, dy)?;
        Ok([
            Some(device::tensor(dx, m, x.shape())),
            Some(device::tensor(dgain, m, gain.shape())),
            dgate.map(|dgate| device::tensor(dgate, m, x.shape())),
        ])
    })
}

struct GatedNorm {
    eps: f32,
}

/// `rms_norm(x [.., D]) * silu(gate [.., D])`: `[.., D]`.
///
/// # Errors
/// As [`rms_norm`].
pub fn gated_norm(x: &Tensor, gain: &Tensor, gate: &Tensor, eps: f32) -> Result<Tensor> {
    x.contiguous()?
        .apply_op3(gain, &gate.contiguous()?, GatedNorm { eps })
}

impl CustomOp3 for GatedNorm {
    fn name(&self) -> &'static str {
        "gated-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gain, gate) = (values(s1, l1)?, values(s2, l2)?, values(s3, l3)?);
        let mut out = vec![0.0; x.len()];
        let step = ROWS_PER_TASK * gain.len();
        out.par_chunks_mut(step)
            .zip(x.par_chunks(step).zip(gate.par_chunks(step)))
            .for_each(|(out, (x, gate))| {
                simd(
                    #[inline(always)]
                    || {
                        norm_rows(x, gain, self.eps, out);
                        for (out, z) in out.iter_mut().zip(gate) {
                            *out *= math::silu(*z);
                        }
                    },
                );
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
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let operands = cuda::norm::Operands {
            x: device::span(s1, l1)?,
            gain: device::span(s2, l2)?,
            gate: Some(device::span(s3, l3)?),
            eps: self.eps,
        };
        let out = cuda::norm::forward(&s1.device, operands)?;
        device::result(out, &s1.device, l1.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        gate: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, dgain, dgate] = cuda_gradients([x, gain], Some(gate), grad, self.eps)?;
            return Ok((dx, dgain, dgate));
        }
        let mut dx = vec![0.0; x.elem_count()];
        let mut dz = vec![0.0; x.elem_count()];
        let dg = with_values([x, gain, gate, &grad.contiguous()?], |[x, gain, z, dy]| {
            let step = ROWS_PER_TASK * gain.len();
            let parts = (dx.par_chunks_mut(step).zip(dz.par_chunks_mut(step)))
                .zip(
                    x.par_chunks(step)
                        .zip(z.par_chunks(step))
                        .zip(dy.par_chunks(step)),
                )
                .map(|((dx, dz), ((x, z), dy))| {
                    simd(
                        #[inline(always)]
                        || gated_rows_grad([x, gain, z, dy], self.eps, dx, dz),
                    )
                })
                .collect();
            Ok(sum_in_order(parts))
        })?;
        Ok((
            Some(tensor(dx, x.shape())?),
            Some(tensor(dg, gain.shape())?),
            Some(tensor(dz, gate.shape())?),
        ))
    }
}

#[inline(always)]
fn gated_rows_grad(
    [x, gain, z, dy]: [&[f32]; 4],
    eps: f32,
    dx: &mut [f32],
    dz: &mut [f32],
) -> Vec<f32> {
    let width = gain.len();
    let mut dg = vec![0.0; width];
    let mut dn = vec![0.0; width];
    for row in 0..x.len() / width {
        let at = row * width..(row + 1) * width;
        let (x, z, dy) = (&x[at.clone()], &z[at.clone()], &dy[at.clone()]);
        let r = inverse_rms(x, eps);
        let dz = &mut dz[at.clone()];
        for i in 0..width {
            dz[i] = dy[i] * (x[i] * r * gain[i]) * math::silu_grad(z[i]);
            dn[i] = dy[i] * math::silu(z[i]);
        }
        rms_row_grad(x, gain, &dn, eps, &mut dx[at], &mut dg);
    }
    dg
}
