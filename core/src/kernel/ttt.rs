//! TTT-Linear's arithmetic, one head at a time, over the same lanes as [`super::lanes`].
//!
//! Invariant: whatever comes in, the fast weights stay finite and within [`FAST_LIMIT`].

use super::lanes::{axpy, copy, dot, reduce};
use crate::math::sqrt;
use crate::model::Floats;

/// One TTT-Linear head at one token; all slices belong to this head.
pub(crate) struct TttHead<'s, 'w> {
    /// Fast weights `W [d, d]`, input-major, followed by `u [d]`.
    pub fast: &'s mut [f32],
    /// Keys of the open mini-batch `[b, d]`.
    pub keys: &'s mut [f32],
    /// Inner gradients of the open mini-batch `[b, d]`.
    pub grads: &'s mut [f32],
    /// Inner learning rates of the open mini-batch `[b]`; 0 for a token read while frozen.
    pub rates: &'s mut [f32],
    /// Layer norm scale `[d]`.
    pub ln_scale: &'w [f32],
    /// Layer norm bias `[d]`.
    pub ln_bias: &'w [f32],
    /// Layer norm epsilon.
    pub ln_eps: f32,
    /// Initial fast weights `[d, d]`.
    pub w0: Floats<'w>,
    /// Initial bias `[d]`.
    pub u0: Floats<'w>,
    /// Anchor decay, if the layer has one.
    pub decay: Option<f32>,
}

/// Largest magnitude that a fast weight may take: trained states are of order one, so only a runaway meets it.
pub(crate) const FAST_LIMIT: f32 = 65_536.0;

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
    /// The dual form (Sun et al. 2024, section 2.5), token by token:
    /// `o = q + LN(q W + u - sum_{j<=i} tau_i lr_j ((q . k_j) + 1) g_j)`, with `W, u` as at the start of the
    /// mini-batch. `temp` holds `2 d` words; `out` is `[d]`.
    #[inline(always)]
    pub(crate) fn step(&mut self, token: &TttToken<'_>, temp: &mut [f32], out: &mut [f32]) {
        let d = out.len().max(1);
        let Some((z, zq)) = temp.split_at_mut_checked(d) else {
            return;
        };
        self.predict(token, z, zq);
        self.remember(token, z);
        let open = self
            .keys
            .chunks_exact(d)
            .zip(self.grads.chunks_exact(d))
            .zip(self.rates.iter());
        for ((key, grad), &rate) in open.take(token.i + 1) {
            let coefficient = (token.tau * rate) * (dot(token.q, key) + 1.0);
            axpy(zq, -coefficient, grad);
        }
        layer_norm(zq, self.ln_eps);
        let affine = zq.iter().zip(self.ln_scale).zip(self.ln_bias);
        for ((out, &q), ((&n, &scale), &bias)) in out.iter_mut().zip(token.q).zip(affine) {
            *out = q + (n * scale + bias);
        }
    }

    /// `z = k W + u` and `zq = q W + u` in one pass over `W`.
    #[inline(always)]
    fn predict(&self, token: &TttToken<'_>, z: &mut [f32], zq: &mut [f32]) {
        let d = z.len();
        let u = self.fast.get(d * d..).unwrap_or(&[]);
        copy(z, u);
        copy(zq, u);
        for ((row, &k), &q) in self.fast.chunks_exact(d).zip(token.k).zip(token.q) {
            for ((z, zq), &w) in z.iter_mut().zip(zq.iter_mut()).zip(row) {
                *z += k * w;
                *zq += q * w;
            }
        }
    }

    /// Stores key, learning rate and inner gradient of a token: the gradient of `1/2 ||LN(z) - (v - k)||^2` with
    /// respect to `z`. A frozen token stores zeros.
    #[inline(always)]
    fn remember(&mut self, token: &TttToken<'_>, z: &mut [f32]) {
        let d = z.len();
        let at = token.i * d..(token.i + 1) * d;
        let (Some(key), Some(grad)) = (self.keys.get_mut(at.clone()), self.grads.get_mut(at))
        else {
            return;
        };
        if let Some(rate) = self.rates.get_mut(token.i) {
            *rate = token.rate.unwrap_or(0.0);
        }
        if token.rate.is_none() {
            key.fill(0.0);
            grad.fill(0.0);
            return;
        }
        copy(key, token.k);
        let inverse = layer_norm(z, self.ln_eps);
        let inputs = z
            .iter()
            .zip(token.v)
            .zip(token.k)
            .zip(self.ln_scale)
            .zip(self.ln_bias);
        for (g, ((((&n, &v), &k), &scale), &bias)) in grad.iter_mut().zip(inputs) {
            *g = ((n * scale + bias) - (v - k)) * scale;
        }
        let width = d as f32;
        let mean = reduce(grad, grad, |g, _| g) / width;
        let along = dot(grad, z) / width;
        for (g, &n) in grad.iter_mut().zip(z.iter()) {
            *g = ((*g - mean) - n * along) * inverse;
        }
    }

    /// Ends a mini-batch: `W <- W0 + (1 - lambda)(W - W0) - sum_i tau lr_i k_i^T g_i`, `u` likewise.
    /// A mini-batch without a learned token changes nothing. Returns false if the update was not finite (or beyond
    /// [`FAST_LIMIT`]) and was dropped. `temp` holds `d` words.
    #[inline(always)]
    pub(crate) fn close(&mut self, tau: f32, temp: &mut [f32]) -> bool {
        let d = self.ln_scale.len().max(1);
        if self.rates.iter().all(|&rate| rate == 0.0) {
            return true;
        }
        if !self.update_is_bounded(tau, d) {
            return false;
        }
        let Some(anchor) = temp.get_mut(..d) else {
            return true;
        };
        for (r, row) in self.fast.chunks_exact_mut(d).enumerate() {
            if let Some(decay) = self.decay {
                let stored = if r < d { self.w0.row(r, d) } else { self.u0 };
                stored.copy_to(anchor);
                let keep = 1.0 - decay;
                row.iter_mut()
                    .zip(anchor.iter())
                    .for_each(|(w, &a)| *w = a + keep * (*w - a));
            }
            let open = self
                .keys
                .chunks_exact(d)
                .zip(self.grads.chunks_exact(d))
                .zip(self.rates.iter());
            for ((key, grad), &rate) in open {
                let k = key.get(r).copied().unwrap_or(1.0); // past the last row of W comes u, whose key is 1
                axpy(row, -((tau * rate) * k), grad);
            }
            row.iter_mut()
                .for_each(|w| *w = crate::math::clamp(*w, -FAST_LIMIT, FAST_LIMIT));
        }
        true
    }

    /// Whether `sum_i |tau lr_i| max|k_i| max|g_i|`, which bounds every element of the update, is finite and
    /// below [`FAST_LIMIT`]. NaN anywhere makes it false.
    #[inline(always)]
    fn update_is_bounded(&self, tau: f32, d: usize) -> bool {
        let mut bound = 0.0f32;
        let open = self
            .keys
            .chunks_exact(d)
            .zip(self.grads.chunks_exact(d))
            .zip(self.rates.iter());
        for ((key, grad), &rate) in open {
            let k = largest(key);
            let k = if k <= 1.0 { 1.0 } else { k }; // NaN stays
            bound += ((tau * rate).abs() * k) * largest(grad);
        }
        bound < FAST_LIMIT
    }
}

/// `max|x_e|`; NaN if any element is NaN, since NaN's bits are above all others'.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    f32::from_bits(
        x.iter()
            .fold(0, |max: u32, x| max.max(x.to_bits() & 0x7FFF_FFFF)),
    )
}

/// `(x - mean) / sqrt(var + eps)` in place (biased variance); returns `1 / sqrt(var + eps)`.
#[inline(always)]
fn layer_norm(x: &mut [f32], eps: f32) -> f32 {
    let width = x.len() as f32;
    let mean = reduce(x, x, |a, _| a) / width;
    x.iter_mut().for_each(|x| *x -= mean);
    let variance = reduce(x, x, |a, _| a * a) / width;
    let inverse = 1.0 / sqrt(variance + eps);
    x.iter_mut().for_each(|x| *x *= inverse);
    inverse
}

/// [`TttHead::step`] as a kernel.
#[inline(always)]
pub(crate) fn ttt_step(
    head: &mut TttHead<'_, '_>,
    token: &TttToken<'_>,
    temp: &mut [f32],
    out: &mut [f32],
) {
    head.step(token, temp, out);
}

/// [`TttHead::close`] as a kernel.
#[inline(always)]
pub(crate) fn ttt_close(head: &mut TttHead<'_, '_>, tau: f32, temp: &mut [f32]) -> bool {
    head.close(tau, temp)
}
