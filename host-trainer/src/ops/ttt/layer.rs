//! One fast layer `x W + u` over the tokens of a mini-batch, in the dual form: the weights that each token would see
//! are never written out, only what they do to its query (Sun et al. 2024, section 2.5).

use super::kernels::{add_matmul, add_matmul_at, axpy, fill_rows, transpose};
use super::math;

/// A fast layer and everything computed for one mini-batch of `n` tokens, row-major.
pub struct FastLayer {
    pub input: usize,
    pub output: usize,
    /// Place of `W` in a head's state; `u` follows it.
    at: usize,
    /// What the keys bring in, `[n, in]`.
    pub k: Vec<f32>,
    /// What the queries bring in, `[n, in]`.
    pub q: Vec<f32>,
    /// `k W + u`, `[n, out]`; of the last layer normalised in place.
    pub z: Vec<f32>,
    /// Inner gradients for `k W + u`, `[n, out]`.
    pub g: Vec<f32>,
    /// `q_t.k_i + 1`, `[n, n]`.
    pub att: Vec<f32>,
    /// `-tau_t lr_i (q_t.k_i + 1)` for `i <= t`, else 0, `[n, n]`.
    pub p: Vec<f32>,
    /// `q W + u + P g`, `[n, out]`; of the last layer normalised in place.
    pub y: Vec<f32>,
    /// GELU's slope at `z`, `[n, out]`; not of the last layer.
    pub slope: Vec<f32>,
    /// Inner gradients for `gelu(z)`, `[n, out]`; not of the last layer.
    pub pulled: Vec<f32>,
    /// Transposed keys or weights.
    scratch: Vec<f32>,
}

/// Weights of a mini-batch's tokens.
#[derive(Clone, Copy)]
pub struct Rates<'a> {
    /// `tau_t`, `[b]`.
    pub tau: &'a [f32],
    /// Inner learning rates, `[n]`.
    pub lr: &'a [f32],
}

impl<'a> Rates<'a> {
    pub fn new(tau: &'a [f32], lr: &'a [f32]) -> Self {
        Self { tau, lr }
    }

    /// `tau_{n-1} lr_i`: how much token `i` of a full mini-batch changes the weights.
    #[inline(always)]
    pub fn step(&self, i: usize) -> f32 {
        self.tau[self.lr.len() - 1] * self.lr[i]
    }
}

impl FastLayer {
    pub fn new((input, output): (usize, usize), at: usize, mini_batch: usize) -> Self {
        let rows = |width: usize| vec![0.0; mini_batch * width];
        Self {
            input,
            output,
            at,
            k: rows(input),
            q: rows(input),
            z: rows(output),
            g: rows(output),
            att: rows(mini_batch),
            p: rows(mini_batch),
            y: rows(output),
            slope: rows(output),
            pulled: rows(output),
            scratch: vec![0.0; input * output.max(mini_batch)],
        }
    }

    /// `W` and `u` in a head's state or its gradient.
    #[inline(always)]
    pub fn of<'a>(&self, state: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        state[self.at..][..(self.input + 1) * self.output].split_at(self.input * self.output)
    }

    /// As [`FastLayer::of`], to be written.
    #[inline(always)]
    pub fn of_mut<'a>(&self, state: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32]) {
        state[self.at..][..(self.input + 1) * self.output].split_at_mut(self.input * self.output)
    }

    /// `z = k W + u`.
    #[inline(always)]
    pub fn keys(&mut self, state: &[f32], n: usize) {
        let (w, u) = self.of(state);
        fill_rows(&mut self.z[..n * self.output], u);
        add_matmul(&mut self.z, &self.k, w, (n, self.output, self.input));
    }

    /// Hands `gelu(z)` to the next layer as its keys.
    #[inline(always)]
    pub fn activate_keys(&mut self, next: &mut Self, n: usize) {
        let slopes = self.slope.iter_mut().zip(&mut next.k);
        for (z, (slope, k)) in self.z[..n * self.output].iter().zip(slopes) {
            (*k, *slope) = math::gelu(*z);
        }
    }

    /// Hands `gelu(y)` to the next layer as its queries.
    #[inline(always)]
    pub fn activate_queries(&self, next: &mut Self, n: usize) {
        for (y, q) in self.y[..n * self.output].iter().zip(&mut next.q) {
            *q = math::gelu(*y).0;
        }
    }

    /// `g = (g' W'^T) * gelu'(z)`, with `g'` and `W'` of the next layer.
    #[inline(always)]
    pub fn pull(&mut self, next: &mut Self, state: &[f32], n: usize) {
        let (w, _) = next.of(state);
        transpose(&mut next.scratch, w, next.input, next.output);
        let wt = &next.scratch[..next.input * next.output];
        let pulled = &mut self.pulled[..n * self.output];
        pulled.fill(0.0);
        add_matmul(pulled, &next.g, wt, (n, next.input, next.output));
        for ((g, a), slope) in self.g.iter_mut().zip(pulled).zip(&self.slope) {
            *g = *a * slope;
        }
    }

    /// `y = q W + u - sum_{i<=t} tau_t lr_i (q_t.k_i + 1) g_i`.
    #[inline(always)]
    pub fn queries(&mut self, state: &[f32], rates: Rates<'_>) {
        let (n, d) = (rates.lr.len(), self.input);
        let kt = &mut self.scratch[..n * d];
        transpose(kt, &self.k[..n * d], n, d);
        self.att[..n * n].fill(1.0);
        add_matmul(&mut self.att[..n * n], &self.q, kt, (n, n, d));
        for t in 0..n {
            for i in 0..n {
                let open = if i <= t {
                    -rates.tau[t] * rates.lr[i]
                } else {
                    0.0
                };
                self.p[t * n + i] = open * self.att[t * n + i];
            }
        }
        let (w, u) = self.of(state);
        fill_rows(&mut self.y[..n * self.output], u);
        add_matmul(&mut self.y, &self.q, w, (n, self.output, d));
        add_matmul(&mut self.y, &self.p, &self.g, (n, self.output, n));
    }

    /// Adds `-sum_i tau_{b-1} lr_i k_i^T g_i` and `-sum_i tau_{b-1} lr_i g_i` to a state that has already decayed.
    #[inline(always)]
    pub fn learn(&mut self, state: &mut [f32], rates: Rates<'_>) {
        let (n, d) = (rates.lr.len(), self.input);
        for i in 0..n {
            let at = i * d..(i + 1) * d;
            for (s, k) in self.scratch[at.clone()].iter_mut().zip(&self.k[at]) {
                *s = -rates.step(i) * k;
            }
        }
        let (w, u) = self.of_mut(state);
        add_matmul_at(w, &self.scratch, &self.g, (d, self.output, n));
        for (i, g) in self.g.chunks_exact(self.output).take(n).enumerate() {
            axpy(u, -rates.step(i), g);
        }
    }
}
