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

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, cuda_backend::cudarc::driver::CudaSlice};
use half::f16;
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda::{self, device};
use super::{math, result, simd, sum_in_order, tensor, values, with_values};

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

struct Ttt {
    settings: Settings,
    rope: Rope,
    /// Where the rows go on from, if not from the learned start.
    carried: Option<FastState>,
    /// Where to leave the fast weights behind the last token, if someone asks.
    left: Option<Arc<Mutex<Vec<f32>>>>,
    /// `[B, H, mini-batches, state]`: the fast weights at each start, for the backward pass.
    states: Mutex<Vec<f32>>,
    /// The rope's table and the same states, where the operation ran on a card.
    #[cfg(feature = "cuda")]
    on_card: Mutex<Option<[CudaSlice<f32>; 2]>>,
}

impl Ttt {
    fn new(
        settings: &Settings,
        carried: Option<FastState>,
        left: Option<Arc<Mutex<Vec<f32>>>>,
    ) -> Self {
        Self {
            rope: Rope::new(settings),
            settings: settings.clone(),
            carried,
            left,
            states: Mutex::new(Vec::new()),
            #[cfg(feature = "cuda")]
            on_card: Mutex::new(None),
        }
    }

    /// Fast weights that row `b` of the batch goes on from.
    fn carried_of(&self, b: usize) -> Option<&[f32]> {
        let len = self.settings.heads * self.settings.state_len();
        self.carried
            .as_ref()
            .map(|state| &state.0[b * len..][..len])
    }

    fn dims(&self, qkv: &Shape, lr: &Shape) -> Result<(usize, usize)> {
        let s = &self.settings;
        let (b, t, width) = qkv.dims3()?;
        if width != 3 * s.heads * s.d_head || lr.dims() != [b, t, s.heads] {
            bail!("ttt: qkv {qkv:?} and lr {lr:?} do not fit {s:?}");
        }
        if let Some(carried) = &self.carried
            && carried.0.len() != b * s.heads * s.state_len()
        {
            bail!("ttt: the segment before had another number of rows than {b}");
        }
        Ok((b, t))
    }
}

impl CustomOp3 for Ttt {
    fn name(&self) -> &'static str {
        "ttt"
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
        let left_len = s.heads * s.state_len();
        let mut left = vec![0.0; if self.left.is_some() { b * left_len } else { 0 }];
        let mut lefts: Vec<_> = left.chunks_mut(left_len).map(Some).collect();
        lefts.resize_with(b, || None);
        (out.par_chunks_mut(t * width)
            .zip(states.par_chunks_mut(state_len)))
        .zip(
            qkv.par_chunks(t * 3 * width)
                .zip(lr.par_chunks(t * s.heads)),
        )
        .zip(lefts)
        .enumerate()
        .for_each(|(b, (((out, states), (qkv, lr)), left))| {
            let row = forward::Row {
                qkv,
                lr,
                carried: self.carried_of(b),
            };
            simd(
                #[inline(always)]
                || forward::row(s, &self.rope, &learned, row, out, states, left),
            );
        });
        if let Some(slot) = &self.left {
            *slot.lock().expect("not poisoned") = left;
        }
        *self.states.lock().expect("not poisoned") = states;
        result(out, (b, t, width))
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
        use cuda::Machine as _;
        let (s, m) = (&self.settings, &s1.device);
        let (b, t) = self.dims(l1.shape(), l2.shape())?;
        let rope = m.upload(&rope_table(s))?;
        let operands = cuda::ttt::Operands {
            qkv: device::span(s1, l1)?,
            lr: device::span(s2, l2)?,
            learned: device::span(s3, l3)?,
            rope: m.span(&rope),
            dims: (b, t),
        };
        let (out, states) = cuda::ttt::forward(m, s, operands)?;
        *self.on_card.lock().expect("not poisoned") = Some([rope, states]);
        device::result(out, m, (b, t, s.heads * s.d_head))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        lr: &Tensor,
        learned: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if qkv.device().is_cuda() {
            return self.cuda_gradients([qkv, lr, learned], grad);
        }
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
                        carried: self.carried.is_some(),
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

#[cfg(feature = "cuda")]
impl Ttt {
    fn cuda_gradients(
        &self,
        inputs: [&Tensor; 3],
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        use cuda::Machine as _;
        let [qkv, lr, learned] = inputs;
        let dims = self.dims(qkv.shape(), lr.shape())?;
        let on_card = self.on_card.lock().expect("not poisoned");
        let Some([rope, states]) = on_card.as_ref() else {
            bail!("ttt: backward without forward");
        };
        let operands = [qkv, lr, learned, &grad.contiguous()?];
        device::with_spans(operands, |m, [qkv, lr, learned, grad]| {
            let operands = cuda::ttt::Operands {
                qkv,
                lr,
                learned,
                rope: m.span(rope),
                dims,
            };
            let states = m.span(states);
            let got = cuda::ttt::backward(m, &self.settings, operands, states, grad)?;
            let [dqkv, dlr, dlearned] = got;
            Ok((
                Some(device::tensor(dqkv, m, inputs[0].shape())),
                Some(device::tensor(dlr, m, inputs[1].shape())),
                Some(device::tensor(dlearned, m, inputs[2].shape())),
            ))
        })
    }
}

#[cfg(test)]
mod segment_tests;
#[cfg(test)]
mod tests;
