//! Float kernels, written once over lanes: every backend compiles these same bodies for its own registers.
//!
//! Element-wise work vectorises at any width with the same bits. Sums use [`LANES`] virtual lanes and a fixed
//! tree (docs/NUMERICS.md, rule 3), so that 4, 8 and 16 wide registers, and none, agree.

use crate::format::Activation;
use crate::math::{exp, silu, sqrt};
use crate::model::Floats;

/// Virtual lanes of a sum.
pub(crate) const LANES: usize = 16;

/// `sum_e term(a_e, b_e)`: element `e` into lane `e mod 16`, ascending, then lanes `l + 8`, `+ 4`, `+ 2`, `+ 1`.
#[inline(always)]
fn reduce(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in a.by_ref().zip(b.by_ref()) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += term(a, b);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *lane += term(a, b);
    }
    tree(lanes)
}

#[inline(always)]
fn tree(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        let mut l = 0;
        while l < half {
            lanes[l % LANES] += lanes[(l + half) % LANES];
            l += 1;
        }
        half /= 2;
    }
    lanes[0]
}

/// `sum_e a_e b_e`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    reduce(a, b, |a, b| a * b)
}

/// `y_e += s * x_e`.
#[inline(always)]
fn axpy(y: &mut [f32], s: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

/// Copies without the length check of `copy_from_slice`, which could panic.
#[inline(always)]
pub(crate) fn copy(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
}

/// `h_e += x_e`.
#[inline(always)]
pub(crate) fn add(h: &mut [f32], x: &[f32]) {
    h.iter_mut().zip(x).for_each(|(h, &x)| *h += x);
}

/// RMSNorm in place: `x * (1 / sqrt(mean(x^2) + eps)) * gain` (Zhang and Sennrich 2019).
#[inline(always)]
pub(crate) fn rms_norm(x: &mut [f32], gain: &[f32], eps: f32) {
    let mean = reduce(x, x, |a, _| a * a) / x.len() as f32;
    let scale = 1.0 / sqrt(mean + eps);
    x.iter_mut()
        .zip(gain)
        .for_each(|(x, &g)| *x = (*x * scale) * g);
}

/// Absmax quantisation to int8 (BitNet b1.58, section 2): `q = round_half_even(x * (127 / a))`, `a = max|x|`.
/// Returns `(a / 127, sum q)`; codes behind `x` are zeroed. An `a` below 2^-100 or not finite gives zeros.
#[inline(always)]
pub(crate) fn quantise(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, ties to even
    let absmax = x
        .iter()
        .fold(0, |max: u32, x| max.max(x.to_bits() & 0x7FFF_FFFF));
    let a = f32::from_bits(absmax);
    let usable = a >= f32::from_bits(0x0D80_0000) && a < f32::INFINITY;
    let (factor, scale) = if usable {
        (127.0 / a, a / 127.0)
    } else {
        (0.0, 0.0)
    };
    let mut sum = 0i32;
    let mut codes = codes.iter_mut();
    for (x, code) in x.iter().zip(codes.by_ref()) {
        let scaled = if usable { *x * factor } else { 0.0 };
        let q = (scaled + ROUND).to_bits() as i8;
        *code = q;
        sum += i32::from(q);
    }
    codes.for_each(|code| *code = 0);
    (scale, sum)
}

/// Causal depthwise convolution of width 4 in place on one token; `history` is `[3, D]`, oldest first,
/// `taps` is `[4, D]`, the last one for the current token.
#[inline(always)]
pub(crate) fn conv(x: &mut [f32], history: &mut [f32], taps: &[f32]) {
    let d = x.len();
    let (Some((s0, rest)), Some((w0, taps))) =
        (history.split_at_mut_checked(d), taps.split_at_checked(d))
    else {
        return;
    };
    let (Some((s1, s2)), Some((w1, taps))) =
        (rest.split_at_mut_checked(d), taps.split_at_checked(d))
    else {
        return;
    };
    let Some((w2, w3)) = taps.split_at_checked(d) else {
        return;
    };
    let state = s0.iter_mut().zip(s1).zip(s2);
    let weights = w0.iter().zip(w1).zip(w2).zip(w3);
    for ((x, ((s0, s1), s2)), (((&w0, &w1), &w2), &w3)) in x.iter_mut().zip(state).zip(weights) {
        let current = *x;
        *x = ((w0 * *s0 + w1 * *s1) + w2 * *s2) + w3 * current;
        *s0 = *s1;
        *s1 = *s2;
        *s2 = current;
    }
}

/// `y_e *= silu(g_e)`.
#[inline(always)]
pub(crate) fn gate(y: &mut [f32], g: &[f32]) {
    y.iter_mut().zip(g).for_each(|(y, &g)| *y *= silu(g));
}

/// Gated activation in place: `gate_e = act(gate_e) * up_e`.
#[inline(always)]
pub(crate) fn activate(gate: &mut [f32], up: &[f32], activation: Activation) {
    match activation {
        Activation::Silu => gate
            .iter_mut()
            .zip(up)
            .for_each(|(g, &u)| *g = silu(*g) * u),
        Activation::Relu2 => gate.iter_mut().zip(up).for_each(|(g, &u)| {
            let r = if *g > 0.0 { *g } else { 0.0 };
            *g = (r * r) * u;
        }),
    }
}

/// `weights . x` for one stored row, by the sum rule.
#[inline(always)]
pub(crate) fn dot_stored(weights: Floats<'_>, x: &[f32]) -> f32 {
    match weights {
        Floats::F32(row) => dot(row, x),
        Floats::F16(row) => dot_f16(row, x),
    }
}

#[inline(always)]
fn dot_f16(row: &[u16], x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (row, x) in row.chunks(LANES).zip(x.chunks(LANES)) {
        for ((lane, &w), &x) in lanes.iter_mut().zip(row).zip(x) {
            *lane += half::f16::from_bits(w).to_f32() * x;
        }
    }
    tree(lanes)
}

/// `exp((x_e - max) / temperature)` in place: the sampler's unnormalised probabilities. NaN counts as impossible.
#[inline(always)]
pub(crate) fn softmax_terms(x: &mut [f32], max: f32, temperature: f32) {
    for x in x.iter_mut() {
        *x = if x.is_nan() {
            0.0
        } else {
            exp((*x - max) / temperature)
        };
    }
}

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

/// Rotates adjacent pairs of a head by the angles of `row = [c_0, s_0, …]` (Su et al. 2021, RoFormer).
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32], row: &[f32]) {
    for (pair, angle) in x.chunks_exact_mut(2).zip(row.chunks_exact(2)) {
        if let ([a, b], [c, s]) = (pair, angle) {
            (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
        }
    }
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
