//! TTT's arithmetic, one head at a time, over the same lanes as [`super::lanes`]: the fast weights of one affine layer,
//! and the head of TTT-Linear that is one such layer. [`super::ttt_mlp`] makes a head of two.
//!
//! What both kinds of heads share is one function where flash is short, and part of its caller where instructions are
//! chosen at run time.
//!
//! Invariant: whatever comes in, the state is finite and what an update leaves of the fast weights within [`FAST_LIMIT`].

use super::lanes::{WIDE, axpy, axpys, axpys_two, copy, dot, hold, sum};
use crate::format::Mixer;
use crate::math::{clamp, finite, sqrt};
use crate::model::Floats;
use crate::pieces::Cut;

/// Largest magnitude that a fast weight may take: trained states are of order one, so only a runaway meets it.
pub(crate) const FAST_LIMIT: f32 = 65_536.0;

/// Whether this build has TTT-MLP.
const MLP: bool = Mixer::TttMlp.is_built();

/// One head at one token; all slices belong to this head.
pub(crate) struct TttHead<'s, 'w> {
    /// From keys and queries `[d]` to predictions `[d]`, or to the hidden layer `[4d]`.
    pub first: FastLayer<'s, 'w>,
    /// TTT-MLP's layer from the hidden activations to predictions `[d]`.
    pub second: Option<FastLayer<'s, 'w>>,
    /// Inner learning rates of the open mini-batch `[b]`; 0 for a token read while frozen.
    pub rates: &'s mut [f32],
    /// The norm behind the predictions.
    pub norm: InnerNorm<'w>,
    /// Anchor decay, if the layer has one.
    pub decay: Option<f32>,
}

/// An affine layer `x W + u` of fast weights.
pub(crate) struct FastLayer<'s, 'w> {
    /// `W [inputs, width]`, input-major, followed by `u [width]`.
    pub fast: &'s mut [f32],
    /// Its inputs in the open mini-batch `[b, inputs]`.
    pub inputs: &'s mut [f32],
    /// Gradients of the inner loss with respect to its outputs in the open mini-batch `[b, width]`.
    pub grads: &'s mut [f32],
    /// Initial `W`, row by row, and initial `u`.
    pub start: Option<[Floats<'w>; 2]>,
    /// Outputs.
    pub width: usize,
}

/// Layer norm with scale `[d]` and bias `[d]`.
#[derive(Clone, Copy)]
pub(crate) struct InnerNorm<'w> {
    pub scale: &'w [f32],
    pub bias: &'w [f32],
    pub eps: f32,
}

/// A token's inputs to a head.
pub(crate) struct TttToken<'a> {
    /// Rotated query `[d]`.
    pub q: &'a [f32],
    /// Rotated key `[d]`.
    pub k: &'a [f32],
    /// Value `[d]`.
    pub v: &'a [f32],
    /// Place in the mini-batch.
    pub i: usize,
    /// Inner learning rate; `None` while frozen.
    pub rate: Option<f32>,
    /// `tau_i`.
    pub tau: f32,
}

impl TttHead<'_, '_> {
    /// The dual form of TTT-Linear (Sun et al. 2024, section 2.5), token by token:
    /// `o = q + LN(q W + u - sum_{j<=i} tau_i lr_j ((q . k_j) + 1) g_j)`, with `W, u` as at the start of the
    /// mini-batch. `temp` holds `2 d` words; `out` is `[d]`.
    #[inline(always)]
    fn step_linear(&mut self, token: &TttToken<'_>, temp: &mut [f32], out: &mut [f32]) {
        let Some((z, zq)) = temp.split_at_mut_checked(out.len()) else {
            return;
        };
        self.first.apply_two([token.k, token.q], z, zq);
        let (key, grad) = self.first.open(token.i);
        if token.rate.is_some() {
            copy(key, token.k);
            self.norm.gradient(token, z, grad);
            hold(key);
            hold(grad);
        } else {
            key.fill(0.0);
            grad.fill(0.0);
        }
        self.first.correct(self.rates, token, token.q, zq);
        self.norm.predict(token, zq, out);
    }

    /// Ends a mini-batch: `W <- W0 + (1 - lambda)(W - W0) - sum_i tau lr_i k_i^T g_i`, `u` likewise.
    /// A mini-batch without a learned token changes nothing. Returns false if the update was not finite (or beyond
    /// [`FAST_LIMIT`]) and was dropped. `temp` holds the words of the widest row.
    #[inline(always)]
    fn close(&mut self, tau: f32, temp: &mut [f32]) -> bool {
        if self.rates.iter().all(|&rate| rate == 0.0) {
            return true;
        }
        let bounded = |layer: &FastLayer<'_, '_>| layer.is_bounded(self.rates, tau);
        let mut second = self.second.as_mut().filter(|_| MLP);
        if !bounded(&self.first) || !second.as_deref().is_none_or(bounded) {
            return false;
        }
        self.first.update(self.rates, tau, self.decay, temp);
        if let Some(second) = &mut second {
            second.update(self.rates, tau, self.decay, temp);
        }
        true
    }
}

impl FastLayer<'_, '_> {
    fn weights(&self) -> (&[f32], &[f32]) {
        let w = self.fast.len().saturating_sub(self.width);
        self.fast.split_at_checked(w).unwrap_or_default()
    }

    /// `z = x W + u`.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn apply(&self, x: &[f32], z: &mut [f32]) {
        let (w, u) = self.weights();
        copy(z, u);
        axpys(z, w, |i| at(x, i));
    }

    /// The same of two inputs in one pass over `W`.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn apply_two(&self, [x, y]: [&[f32]; 2], zx: &mut [f32], zy: &mut [f32]) {
        let (w, u) = self.weights();
        copy(zx, u);
        copy(zy, u);
        axpys_two(zx, zy, w, |i| [at(x, i), at(y, i)]);
    }

    /// `W`'s row of an input.
    #[inline(always)]
    pub fn row(&self, input: usize) -> &[f32] {
        let range = input * self.width..(input + 1) * self.width;
        self.fast.get(range).unwrap_or(&[])
    }

    /// Where token `i` of the open mini-batch leaves its input and gradient.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn open(&mut self, i: usize) -> (&mut [f32], &mut [f32]) {
        let inputs = self.inputs_width();
        let row = |width: usize| i * width..(i + 1) * width;
        (
            self.inputs.get_mut(row(inputs)).unwrap_or_default(),
            self.grads.get_mut(row(self.width)).unwrap_or_default(),
        )
    }

    /// What token `i` has left there.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn opened(&self, i: usize) -> (&[f32], &[f32]) {
        let row = |width: usize| i * width..(i + 1) * width;
        (
            self.inputs.get(row(self.inputs_width())).unwrap_or(&[]),
            self.grads.get(row(self.width)).unwrap_or(&[]),
        )
    }

    /// Inputs.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn inputs_width(&self) -> usize {
        (self.fast.len() / self.width.max(1)).saturating_sub(1)
    }

    /// `z -= sum_{j<=i} tau_i lr_j ((x . x_j) + 1) g_j` over the open mini-batch's inputs `x_j`: what its gradient steps
    /// so far change about `x W + u`.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn correct(&self, rates: &[f32], token: &TttToken<'_>, x: &[f32], z: &mut [f32]) {
        const GROUP: usize = 16; // coefficients that are made before they are used, where there are registers
        let (width, inputs) = (z.len().max(1), x.len().max(1));
        let open = token.i + 1;
        let own = |all: usize| open.saturating_mul(all);
        let keys = self.inputs.get(..own(inputs)).unwrap_or_default();
        let grads = self.grads.get(..own(width)).unwrap_or_default();
        let coefficient = |key: &[f32], rate: f32| -((token.tau * rate) * (dot(x, key) + 1.0));
        if !WIDE {
            let steps = keys.pieces(inputs).zip(grads.pieces(width)).zip(rates);
            for ((key, grad), &rate) in steps {
                axpy(z, coefficient(key, rate), grad);
            }
            return;
        }
        let groups = keys
            .parts(inputs.saturating_mul(GROUP))
            .zip(grads.parts(width.saturating_mul(GROUP)));
        for ((keys, grads), rates) in groups.zip(rates.parts(GROUP)) {
            let mut coefficients = [0.0; GROUP];
            let each = coefficients.iter_mut().zip(keys.pieces(inputs)).zip(rates);
            for ((c, key), &rate) in each {
                *c = coefficient(key, rate);
            }
            axpys(z, grads, |j| at(&coefficients, j));
        }
    }

    /// Takes the gradient steps of a whole mini-batch.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn update(&mut self, rates: &[f32], tau: f32, decay: Option<f32>, temp: &mut [f32]) {
        let (width, inputs) = (self.width.max(1), self.inputs_width());
        let Some(anchor) = temp.get_mut(..width) else {
            return;
        };
        for (r, row) in self.fast.pieces_mut(width).enumerate() {
            if let Some(decay) = decay {
                start_row(self.start, r, inputs, anchor);
                let keep = 1.0 - decay;
                row.iter_mut()
                    .zip(anchor.iter())
                    .for_each(|(w, &a)| *w = a + keep * (*w - a));
            }
            axpys(row, self.grads, |j| {
                // behind W comes u, whose input is 1
                let x = if r < inputs {
                    at(self.inputs, j * inputs + r)
                } else {
                    1.0
                };
                -((tau * at(rates, j)) * x)
            });
            row.iter_mut()
                .for_each(|w| *w = clamp(*w, -FAST_LIMIT, FAST_LIMIT));
        }
    }

    /// Whether `sum_i |tau lr_i| max|x_i| max|g_i|`, which bounds every element of the update, is finite and
    /// below [`FAST_LIMIT`]. NaN anywhere makes it false.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn is_bounded(&self, rates: &[f32], tau: f32) -> bool {
        let (width, inputs) = (self.width.max(1), self.inputs_width().max(1));
        let mut bound = 0.0f32;
        let open = self
            .inputs
            .pieces(inputs)
            .zip(self.grads.pieces(width))
            .zip(rates);
        for ((x, grad), &rate) in open {
            let x = largest(x.iter().copied());
            let x = if x <= 1.0 { 1.0 } else { x }; // NaN stays
            bound += ((tau * rate).abs() * x) * largest(grad.iter().copied());
        }
        bound < FAST_LIMIT
    }
}

/// Puts fast weights `W` and, behind it, `u [width]` back to where they start.
pub(crate) fn start_over(fast: &mut [f32], start: Option<[Floats<'_>; 2]>, width: usize) {
    let width = width.max(1);
    let inputs = (fast.len() / width).saturating_sub(1);
    for (r, row) in fast.pieces_mut(width).enumerate() {
        start_row(start, r, inputs, row);
    }
}

/// Row `r` of where fast weights start, `u` behind the rows of `W`: what is stored, or the identity above zeros.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
fn start_row(start: Option<[Floats<'_>; 2]>, r: usize, inputs: usize, to: &mut [f32]) {
    match start {
        Some([w, _]) if r < inputs => w.row(r, to.len()).copy_to(to),
        Some([_, u]) => u.copy_to(to),
        None => {
            to.fill(0.0);
            if let Some(one) = to.get_mut(r).filter(|_| r < inputs) {
                *one = 1.0;
            }
        }
    }
}

impl InnerNorm<'_> {
    /// The gradient of `1/2 ||LN(z) - (v - k)||^2` with respect to `z`, which is normalised in place.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn gradient(&self, token: &TttToken<'_>, z: &mut [f32], grad: &mut [f32]) {
        let inverse = layer_norm(z, self.eps);
        let inputs = z
            .iter()
            .zip(token.v)
            .zip(token.k)
            .zip(self.scale)
            .zip(self.bias);
        for (g, ((((&n, &v), &k), &scale), &bias)) in grad.iter_mut().zip(inputs) {
            *g = ((n * scale + bias) - (v - k)) * scale;
        }
        let width = z.len() as f32;
        let mean = sum(grad) / width;
        let along = dot(grad, z) / width;
        for (g, &n) in grad.iter_mut().zip(z.iter()) {
            *g = ((*g - mean) - n * along) * inverse;
        }
    }

    /// `q + LN(z)`; normalises `z` in place.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn predict(&self, token: &TttToken<'_>, z: &mut [f32], out: &mut [f32]) {
        layer_norm(z, self.eps);
        let affine = z.iter().zip(self.scale).zip(self.bias);
        for ((out, &q), ((&n, &scale), &bias)) in out.iter_mut().zip(token.q).zip(affine) {
            *out = q + (n * scale + bias);
        }
    }
}

/// Element `i`, which is there.
#[inline(always)]
fn at(x: &[f32], i: usize) -> f32 {
    x.get(i).copied().unwrap_or(0.0)
}

/// `max|x_e|`; NaN if any element is NaN, since NaN's bits are above all others'.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn largest(x: impl Iterator<Item = f32>) -> f32 {
    f32::from_bits(x.fold(0, |max: u32, x| max.max(x.to_bits() & 0x7FFF_FFFF)))
}

/// `(x - mean) / sqrt(var + eps)` in place (biased variance); returns `1 / sqrt(var + eps)`.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
fn layer_norm(x: &mut [f32], eps: f32) -> f32 {
    let width = x.len() as f32;
    let mean = sum(x) / width;
    x.iter_mut().for_each(|x| *x -= mean);
    let variance = dot(x, x) / width;
    let inverse = 1.0 / sqrt(variance + eps);
    x.iter_mut().for_each(|x| *x *= inverse);
    inverse
}

/// A token through a head: learns from it unless it is frozen, and predicts `out [d]`. `temp` holds `2 d` words for
/// TTT-Linear, `10 d` for TTT-MLP.
#[inline(always)]
pub(crate) fn ttt_step(
    head: &mut TttHead<'_, '_>,
    token: &TttToken<'_>,
    temp: &mut [f32],
    out: &mut [f32],
) {
    if let Some(rate) = head.rates.get_mut(token.i) {
        *rate = finite(token.rate.unwrap_or(0.0));
    }
    if MLP && head.second.is_some() {
        head.step_mlp(token, temp, out);
    } else {
        head.step_linear(token, temp, out);
    }
}

/// [`TttHead::close`] as a kernel.
#[inline(always)]
pub(crate) fn ttt_close(head: &mut TttHead<'_, '_>, tau: f32, temp: &mut [f32]) -> bool {
    head.close(tau, temp)
}
