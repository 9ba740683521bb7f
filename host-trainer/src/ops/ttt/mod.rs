//! Test-time training (Sun et al. 2024, arXiv 2407.04620, sections 2.3 to 2.7) as one operation: TTT-Linear and
//! TTT-MLP.
//!
//! For each row of the batch and each head, with the inner model `f` as at the start of a mini-batch of `b` tokens:
//! `g_i` are the gradients of `1/2 |LN(f(k_i)) - (v_i - k_i)|^2` for what every layer of `f` puts out, and
//! `o_t = q_t + LN(f_t(q_t))`, where `f_t` has each layer's `x W + u` replaced by
//! `x W + u - sum_{i<=t} tau_t lr_i (x.x_i + 1) g_i`, `x_i` being what came into that layer from `k_i`.
//! A full mini-batch ends with `W <- W0 + (1 - lambda)(W - W0) - sum_i tau_{b-1} lr_i x_i^T g_i`, and so for `u`.
//! `f(x) = x W + u` in TTT-Linear, `gelu(x W0 + u0) W1 + u1` in TTT-MLP: both are lists of `FastLayer`.
//! The outer gradient flows through all of it: the inner gradients, and the chain of mini-batches.

mod backward;
mod forward;
mod inner_loss;
pub(super) mod kernels;
mod layer;
mod layer_grads;
mod op;

use std::sync::{Arc, Mutex};

use candle_core::{Result, Tensor, bail};
use half::f16;

use super::{math, simd, with_values};
use op::Ttt;

pub use inner_loss::inner_loss;

/// Epsilon of the inner layer norm.
const LN_EPS: f32 = 1e-6;

/// The model that learns inside a TTT layer, one a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// `x W + u`.
    Linear,
    /// `gelu(x W0 + u0) W1 + u1`, four times as wide inside.
    Mlp,
}

/// Fixed numbers of a TTT layer.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What learns.
    pub inner: Inner,
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
    /// Start of the fast layers, first layer first: weights `[H, in, out]` and bias `[H, out]` of each.
    pub start: &'a [[Tensor; 2]],
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
pub fn ttt(
    qkv: &Tensor,
    lr: &Tensor,
    learned: &Learned<'_>,
    settings: &Settings,
) -> Result<Tensor> {
    let op = Ttt::new(settings, None, None);
    qkv.contiguous()?
        .apply_op3(&lr.contiguous()?, &flat(learned)?, op)
}

/// Fast weights of every row and head as a segment leaves them, `[B, H, state]`: constants to the next one.
#[derive(Clone, Debug)]
pub struct FastState(Arc<Vec<f32>>);

/// The same for a segment of longer rows: from the fast weights that the segment before has left, or from their start, to
/// the output and the fast weights that this one leaves. The segment before had whole mini-batches. No gradient flows from
/// one to the other.
///
/// # Errors
/// As [`ttt`]; on a GPU.
pub fn ttt_segment(
    qkv: &Tensor,
    lr: &Tensor,
    learned: &Learned<'_>,
    settings: &Settings,
    carried: Option<&FastState>,
) -> Result<(Tensor, FastState)> {
    if !qkv.device().is_cpu() {
        bail!("ttt: segments have no CUDA kernels; use --device cpu, or no segments");
    }
    let left = Arc::new(Mutex::new(Vec::new()));
    let op = Ttt::new(settings, carried.cloned(), Some(left.clone()));
    let out = qkv
        .contiguous()?
        .apply_op3(&lr.contiguous()?, &flat(learned)?, op)?;
    let left = std::mem::take(&mut *left.lock().expect("not poisoned"));
    Ok((out, FastState(Arc::new(left))))
}

/// The learned tensors as one, in the order of [`Values`].
fn flat(l: &Learned<'_>) -> Result<Tensor> {
    let start = l.start.iter().flatten();
    let all = start.chain([l.ln_weight, l.ln_bias, l.decay, l.tau]);
    let flat: Vec<Tensor> = all.map(|p| p.flatten_all()).collect::<Result<_>>()?;
    Tensor::cat(&flat, 0)
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

/// Cosines, then sines, of the positions of a mini-batch.
#[cfg(any(feature = "cuda", test))]
pub(super) fn rope_table(s: &Settings) -> Vec<f32> {
    let rope = Rope::new(s);
    [rope.cos, rope.sin].concat()
}

/// Learned values as the arithmetic uses them. Flat, as the operation gets them, they are the fast layers' starts
/// (`W [H, in, out]`, `u [H, out]` each), then `ln_weight`, `ln_bias`, `decay` and `tau`.
struct Values {
    flat: Vec<f32>,
    /// First fast state of each head, `[H, state]`.
    starts: Vec<f32>,
    /// `sigmoid(decay)`, or 0 without anchor decay, `[H]`.
    lambda: Vec<f32>,
    /// `max(0, 1/(i+1) + c_i)`, `[b]`.
    tau: Vec<f32>,
}

/// One head's part of [`Values`].
struct Head<'a> {
    /// `W` and `u` of each layer.
    start: &'a [f32],
    ln_weight: &'a [f32],
    ln_bias: &'a [f32],
    lambda: f32,
    tau: &'a [f32],
}

/// The same `len` values in the flat parameters and in a head's state.
struct Place {
    flat: usize,
    state: usize,
    len: usize,
}

impl Settings {
    /// Width of what comes into and leaves each fast layer.
    fn layers(&self) -> Vec<(usize, usize)> {
        let d = self.d_head;
        match self.inner {
            Inner::Linear => vec![(d, d)],
            Inner::Mlp => vec![(d, 4 * d), (4 * d, d)],
        }
    }

    /// Floats of the fast state of one head.
    fn state_len(&self) -> usize {
        let floats = |(input, output)| (input + 1) * output;
        self.layers().into_iter().map(floats).sum()
    }

    /// Offsets of `ln_weight`, `ln_bias`, `decay`, `tau` and the end in the flat parameters.
    fn offsets(&self) -> [usize; 5] {
        let (h, d) = (self.heads, self.d_head);
        let ln = h * self.state_len();
        let decay = ln + 2 * h * d;
        [
            ln,
            ln + h * d,
            decay,
            decay + h,
            decay + h + self.mini_batch,
        ]
    }

    /// Where the flat parameters hold the first state of head `h`.
    fn places(&self, h: usize) -> Vec<Place> {
        let (mut flat, mut state) = (0, 0);
        let mut place = |len: usize| {
            let place = Place {
                flat: flat + h * len,
                state,
                len,
            };
            flat += self.heads * len;
            state += len;
            place
        };
        let layers = self.layers().into_iter();
        layers
            .flat_map(|(input, output)| [place(input * output), place(output)])
            .collect()
    }
}

impl Values {
    /// Rounds the start of the fast weights through f16, as the blob stores it.
    fn new(flat: &[f32], s: &Settings) -> Result<Self> {
        let [ln, _, decay, tau, end] = s.offsets();
        if flat.len() != end {
            bail!("{} learned values, the settings need {end}", flat.len());
        }
        let mut starts = vec![0.0; ln];
        for (h, start) in starts.chunks_exact_mut(s.state_len()).enumerate() {
            for place in s.places(h) {
                let to = start[place.state..].iter_mut();
                for (to, from) in to.zip(&flat[place.flat..][..place.len]) {
                    *to = f16::from_f32(*from).to_f32();
                }
            }
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
            starts,
            lambda: flat[decay..tau].iter().map(lambda).collect(),
            tau: flat[tau..].iter().enumerate().map(step).collect(),
            flat: flat.to_vec(),
        })
    }

    fn head(&self, h: usize, s: &Settings) -> Head<'_> {
        let (d, len) = (s.d_head, s.state_len());
        let [weight, bias, ..] = s.offsets();
        Head {
            start: &self.starts[h * len..][..len],
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

#[cfg(test)]
mod segment_tests;
#[cfg(test)]
mod tests;
