//! TTT-Linear (Sun et al. 2024, arXiv 2407.04620, sections 2.3 to 2.7) as one operation.
//!
//! For each row of the batch and each head, with `(W, u)` as at the start of a mini-batch of `b`
//! tokens: `z_i = k_i W + u`, `g_i` the gradient of `1/2 |LN(z_i) - (v_i - k_i)|^2` for `z_i`, and
//! `o_t = q_t + LN(q_t W + u - sum_{i<=t} tau_t lr_i (q_t.k_i + 1) g_i)`. A full mini-batch ends with
//! `W <- W0 + (1 - lambda)(W - W0) - sum_i tau_{b-1} lr_i k_i^T g_i`, and so for `u`.
//! The outer gradient flows through all of it: the inner gradients, and the chain of mini-batches.

mod backward;
mod forward;
mod kernels;

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use half::f16;
use rayon::prelude::*;

use super::{math, result, simd, sum_in_order, tensor, values, with_values};

/// Epsilon of the inner layer norm.
const LN_EPS: f32 = 1e-6;

/// Fixed numbers of a TTT layer.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Heads, H.
    pub heads: usize,
    /// Width of a head, d.
    pub d_head: usize,
    /// Tokens of a mini-batch, b.
    pub mini_batch: usize,
    /// Inner learning rate before the learned gate; 0 freezes the fast weights.
    pub base_lr: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Whether the fast weights decay towards their start.
    pub anchor_decay: bool,
}

/// Learned tensors of a TTT layer.
pub struct Learned<'a> {
    /// Start of the fast weights, `[H, d, d]` (in, out).
    pub w0: &'a Tensor,
    /// Start of the fast bias, `[H, d]`.
    pub u0: &'a Tensor,
    /// Scale of the inner layer norm, `[H, d]`.
    pub ln_weight: &'a Tensor,
    /// Shift of the inner layer norm, `[H, d]`.
    pub ln_bias: &'a Tensor,
    /// Anchor decay before the sigmoid, `[H]`.
    pub decay: &'a Tensor,
    /// Offsets of `1 / (i + 1)`, `[b]`.
    pub tau: &'a Tensor,
}

/// Output `[B, T, D]` for `qkv [B, T, 3D]` (before RoPE) and the logits of the inner learning rates
/// `lr [B, T, H]`.
///
/// # Errors
/// When shapes disagree or an operand is not f32 on the CPU.
pub fn ttt_linear(
    qkv: &Tensor,
    lr: &Tensor,
    learned: &Learned<'_>,
    settings: &Settings,
) -> Result<Tensor> {
    let l = learned;
    let parts = [l.w0, l.u0, l.ln_weight, l.ln_bias, l.decay, l.tau];
    let flat: Vec<Tensor> = parts
        .iter()
        .map(|p| p.flatten_all())
        .collect::<Result<_>>()?;
    let op = TttLinear {
        rope: Rope::new(settings),
        settings: settings.clone(),
        states: Mutex::new(Vec::new()),
    };
    qkv.contiguous()?
        .apply_op3(&lr.contiguous()?, &Tensor::cat(&flat, 0)?, op)
}

/// Cosines and sines for every position of a mini-batch, `[b, d / 2]` each.
struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    fn new(s: &Settings) -> Self {
        let theta = f64::from(s.rope_theta);
        let angles = (0..s.mini_batch).flat_map(|i| {
            let step = move |j| i as f64 * theta.powf(-2.0 * j as f64 / s.d_head as f64);
            (0..s.d_head / 2).map(step)
        });
        let (cos, sin) = angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        Self { cos, sin }
    }
}

/// Learned values as the arithmetic uses them, flat: `[w0, u0, ln_weight, ln_bias, decay, tau]`.
struct Values {
    flat: Vec<f32>,
    /// `sigmoid(decay)`, or 0 without anchor decay, `[H]`.
    lambda: Vec<f32>,
    /// `max(0, 1/(i+1) + c_i)`, `[b]`.
    tau: Vec<f32>,
}

/// One head's part of [`Values`] (or of their gradient).
struct Head<'a> {
    w0: &'a [f32],
    u0: &'a [f32],
    ln_weight: &'a [f32],
    ln_bias: &'a [f32],
    lambda: f32,
    tau: &'a [f32],
}

impl Settings {
    /// Offsets of `u0`, `ln_weight`, `ln_bias`, `decay`, `tau` and the end in the flat parameters.
    fn offsets(&self) -> [usize; 6] {
        let (h, d) = (self.heads, self.d_head);
        let u0 = h * d * d;
        let decay = u0 + 3 * h * d;
        [
            u0,
            u0 + h * d,
            u0 + 2 * h * d,
            decay,
            decay + h,
            decay + h + self.mini_batch,
        ]
    }

    /// Floats of the fast state of one head.
    fn state_len(&self) -> usize {
        self.d_head * (self.d_head + 1)
    }
}

impl Values {
    /// Rounds the start of the fast weights through f16, as the blob stores it.
    fn new(flat: &[f32], s: &Settings) -> Result<Self> {
        let [_, ln, _, decay, tau, end] = s.offsets();
        if flat.len() != end {
            bail!("{} learned values, the settings need {end}", flat.len());
        }
        let mut flat = flat.to_vec();
        for v in &mut flat[..ln] {
            *v = f16::from_f32(*v).to_f32();
        }
        let lambda = |d: &f32| {
            if s.anchor_decay {
                math::sigmoid(*d)
            } else {
                0.0
            }
        };
        let step = |(i, c): (usize, &f32)| (1.0 / (i + 1) as f32 + c).max(0.0);
        Ok(Self {
            lambda: flat[decay..tau].iter().map(lambda).collect(),
            tau: flat[tau..].iter().enumerate().map(step).collect(),
            flat,
        })
    }

    fn head(&self, h: usize, s: &Settings) -> Head<'_> {
        let d = s.d_head;
        let [u0, weight, bias, ..] = s.offsets();
        Head {
            w0: &self.flat[h * d * d..][..d * d],
            u0: &self.flat[u0 + h * d..][..d],
            ln_weight: &self.flat[weight + h * d..][..d],
            ln_bias: &self.flat[bias + h * d..][..d],
            lambda: self.lambda[h],
            tau: &self.tau,
        }
    }
}

/// Where one head of one row of the batch finds its tokens.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    /// `[T, 3D]`.
    qkv: &'a [f32],
    /// `[T, H]`.
    lr: &'a [f32],
    head: usize,
}

struct TttLinear {
    settings: Settings,
    rope: Rope,
    /// `[B, H, mini-batches, d * (d + 1)]`: `(W, u)` at each start, for the backward pass.
    states: Mutex<Vec<f32>>,
}

impl TttLinear {
    fn dims(&self, qkv: &Shape, lr: &Shape) -> Result<(usize, usize)> {
        let s = &self.settings;
        let (b, t, width) = qkv.dims3()?;
        if width != 3 * s.heads * s.d_head || lr.dims() != [b, t, s.heads] {
            bail!("ttt-linear: qkv {qkv:?} and lr {lr:?} do not fit {s:?}");
        }
        Ok((b, t))
    }
}

impl CustomOp3 for TttLinear {
    fn name(&self) -> &'static str {
        "ttt-linear"
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
        let s = &self.settings;
        let (b, t) = self.dims(l1.shape(), l2.shape())?;
        let (qkv, lr) = (values(s1, l1)?, values(s2, l2)?);
        let learned = Values::new(values(s3, l3)?, s)?;
        let width = s.heads * s.d_head;
        let state_len = s.heads * t.div_ceil(s.mini_batch) * s.state_len();
        let mut out = vec![0.0; b * t * width];
        let mut states = vec![0.0; b * state_len];
        (out.par_chunks_mut(t * width)
            .zip(states.par_chunks_mut(state_len)))
        .zip(
            qkv.par_chunks(t * 3 * width)
                .zip(lr.par_chunks(t * s.heads)),
        )
        .for_each(|((out, states), (qkv, lr))| {
            simd(
                #[inline(always)]
                || forward::row(s, &self.rope, &learned, qkv, lr, out, states),
            );
        });
        *self.states.lock().expect("not poisoned") = states;
        result(out, (b, t, width))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        lr: &Tensor,
        learned: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let s = &self.settings;
        let (b, t) = self.dims(qkv.shape(), lr.shape())?;
        let states = self.states.lock().expect("not poisoned");
        let width = s.heads * s.d_head;
        let mut dqkv = vec![0.0; b * t * 3 * width];
        let mut dlr = vec![0.0; b * t * s.heads];
        let operands = [qkv, lr, learned, &grad.contiguous()?];
        let d_learned = with_values(operands, |[qkv, lr, learned, grad]| {
            let learned = Values::new(learned, s)?;
            let inputs = qkv
                .par_chunks(t * 3 * width)
                .zip(lr.par_chunks(t * s.heads));
            let grads = dqkv
                .par_chunks_mut(t * 3 * width)
                .zip(dlr.par_chunks_mut(t * s.heads));
            let parts = (inputs.zip(grads))
                .zip(
                    grad.par_chunks(t * width)
                        .zip(states.par_chunks(states.len() / b)),
                )
                .map(|(((qkv, lr), (dqkv, dlr)), (grad, states))| {
                    let inputs = backward::Inputs {
                        qkv,
                        lr,
                        grad,
                        states,
                    };
                    simd(
                        #[inline(always)]
                        || backward::row(s, &self.rope, &learned, &inputs, dqkv, dlr),
                    )
                })
                .collect();
            Ok(sum_in_order(parts))
        })?;
        Ok((
            Some(tensor(dqkv, qkv.shape())?),
            Some(tensor(dlr, lr.shape())?),
            Some(tensor(d_learned, learned.shape())?),
        ))
    }
}

#[cfg(test)]
mod tests;
