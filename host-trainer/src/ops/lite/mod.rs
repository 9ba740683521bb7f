//! `ttt-lite`: one small matrix that learns by the delta rule (Widrow and Hoff 1960) to reproduce what it has seen.
//!
//! For each row of the batch, with `W = 0` at its start and `x_t = f_t / (|f_t| + 1e-6)`: `p_t = W x_t`, then
//! `W <- W - lr (p_t - x_t) x_t^T`; before the last update of every `b` tokens, `W <- (1 - lambda) W`.
//! Computed `b` tokens at a time: with `W` as at their start and `e_j = p_j - x_j`,
//! `p_t = W x_t - lr sum_{j<t} (x_t.x_j) e_j`, so that `W` is read and written once for all of them.

mod inner_loss;

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::ttt::kernels::{add_matmul, add_matmul_at, axpy, transpose};
use super::{math, result, simd, tensor, values, with_values};

pub use inner_loss::inner_loss;

/// Keeps a feature of zeros from a division by zero.
const EPS: f32 = 1e-6;

/// Fixed numbers of a `ttt-lite` layer.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tokens between two decays, b.
    pub mini_batch: usize,
    /// Learning rate of the delta rule; 0 freezes the matrix.
    pub lr: f32,
    /// Whether the matrix decays towards zero.
    pub anchor_decay: bool,
}

struct Lite {
    settings: Settings,
    /// `[B, chunks, m, m]`: the matrix, input-major, at the start of every `b` tokens, for the backward pass.
    states: Mutex<Vec<f32>>,
}

/// `p [B, T, m]` for features `f [B, T, m]`; `decay [1]` is `lambda` before the sigmoid.
///
/// # Errors
/// When an operand is not f32 on the CPU.
pub fn ttt_lite(f: &Tensor, decay: &Tensor, settings: &Settings) -> Result<Tensor> {
    let op = Lite {
        settings: settings.clone(),
        states: Mutex::new(Vec::new()),
    };
    f.contiguous()?.apply_op2(decay, op)
}

impl Settings {
    fn lambda(&self, decay: &[f32]) -> f32 {
        match decay.first() {
            Some(decay) if self.anchor_decay => math::sigmoid(*decay),
            _ => 0.0,
        }
    }
}

impl CustomOp2 for Lite {
    fn name(&self) -> &'static str {
        "ttt-lite"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (f, lambda) = (values(s1, l1)?, self.settings.lambda(values(s2, l2)?));
        let (b, t, m) = l1.shape().dims3()?;
        let mut out = vec![0.0; f.len()];
        let state_len = t.div_ceil(self.settings.mini_batch) * m * m;
        let mut states = vec![0.0; b * state_len];
        (out.par_chunks_mut(t * m).zip(f.par_chunks(t * m)))
            .zip(states.par_chunks_mut(state_len))
            .for_each(|((out, f), states)| {
                simd(
                    #[inline(always)]
                    || forward(&self.settings, lambda, m, f, out, states),
                );
            });
        *self.states.lock().expect("not poisoned") = states;
        result(out, l1.shape())
    }

    fn bwd(
        &self,
        f: &Tensor,
        decay: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (b, t, m) = f.dims3()?;
        let states = self.states.lock().expect("not poisoned");
        let mut df = vec![0.0; f.elem_count()];
        let d_decay = with_values([f, decay, &grad.contiguous()?], |[f, decay, grad]| {
            let lambda = self.settings.lambda(decay);
            let rows = f.par_chunks(t * m).zip(grad.par_chunks(t * m));
            let parts: Vec<f32> = (df.par_chunks_mut(t * m).zip(rows))
                .zip(states.par_chunks(states.len() / b))
                .map(|((df, (f, grad)), states)| {
                    simd(
                        #[inline(always)]
                        || backward(&self.settings, lambda, m, [f, grad, states], df),
                    )
                })
                .collect();
            Ok(parts.iter().sum::<f32>() * lambda * (1.0 - lambda))
        })?;
        let d_decay = tensor(vec![d_decay], decay.shape())?;
        Ok((Some(tensor(df, f.shape())?), Some(d_decay)))
    }
}

/// `b` tokens, row-major `[n, m]` unless said otherwise.
struct Chunk {
    n: usize,
    m: usize,
    /// Unit features.
    x: Vec<f32>,
    /// Their lengths before, `[n]`.
    length: Vec<f32>,
    p: Vec<f32>,
    /// `p - x`.
    e: Vec<f32>,
    /// `x_t.x_j`, `[n, n]`.
    att: Vec<f32>,
    scratch: Vec<f32>,
}

impl Chunk {
    fn new(b: usize, m: usize) -> Self {
        let rows = || vec![0.0; b * m];
        Self {
            n: 0,
            m,
            x: rows(),
            length: vec![0.0; b],
            p: rows(),
            e: rows(),
            att: vec![0.0; b * b],
            scratch: rows(),
        }
    }

    /// Fills the chunk for features `f [n, m]`, given the matrix at its start.
    #[inline(always)]
    fn compute(&mut self, f: &[f32], w: &[f32], lr: f32) {
        let m = self.m;
        self.n = f.len() / m;
        let n = self.n;
        for (i, f) in f.chunks_exact(m).enumerate() {
            self.length[i] = math::dot(f, f).sqrt();
            let factor = 1.0 / (self.length[i] + EPS);
            let x = self.x[i * m..].iter_mut();
            x.zip(f).for_each(|(x, f)| *x = f * factor);
        }
        transpose(&mut self.scratch[..n * m], &self.x[..n * m], n, m);
        self.att[..n * n].fill(0.0);
        add_matmul(&mut self.att[..n * n], &self.x, &self.scratch, (n, n, m));
        self.p[..n * m].fill(0.0);
        add_matmul(&mut self.p, &self.x, w, (n, m, m));
        for t in 0..n {
            let (before, behind) = self.e.split_at_mut(t * m);
            let p = &mut self.p[t * m..][..m];
            for (e, att) in before.chunks_exact(m).zip(&self.att[t * n..]) {
                axpy(p, -lr * att, e);
            }
            let x = &self.x[t * m..][..m];
            for ((e, p), x) in behind.iter_mut().zip(p).zip(x) {
                *e = *p - x;
            }
        }
    }

    /// How much of token `j`'s update is left at the end: the decay stands before the last one.
    #[inline(always)]
    fn kept(&self, j: usize, lambda: f32) -> f32 {
        if j + 1 < self.n { 1.0 - lambda } else { 1.0 }
    }

    /// The matrix after this full chunk.
    #[inline(always)]
    fn next_state(&mut self, lr: f32, lambda: f32, w: &[f32], next: &mut [f32]) {
        let (n, m) = (self.n, self.m);
        for (next, w) in next.iter_mut().zip(w) {
            *next = (1.0 - lambda) * w;
        }
        for j in 0..n {
            let c = -lr * self.kept(j, lambda);
            let rows = self.scratch[j * m..].iter_mut().zip(&self.x[j * m..]);
            rows.take(m).for_each(|(s, x)| *s = c * x);
        }
        add_matmul_at(next, &self.scratch, &self.e, (m, m, n));
    }
}

#[inline(always)]
fn forward(s: &Settings, lambda: f32, m: usize, f: &[f32], out: &mut [f32], states: &mut [f32]) {
    let step = s.mini_batch * m;
    let mut chunk = Chunk::new(s.mini_batch, m);
    for (i, (f, out)) in f.chunks(step).zip(out.chunks_mut(step)).enumerate() {
        let (w, rest) = states[i * m * m..].split_at_mut(m * m);
        chunk.compute(f, w, s.lr);
        out.copy_from_slice(&chunk.p[..out.len()]);
        if !rest.is_empty() {
            chunk.next_state(s.lr, lambda, w, &mut rest[..m * m]);
        }
    }
}

/// Writes the gradient for `f` and returns that for `lambda`.
#[inline(always)]
fn backward(
    s: &Settings,
    lambda: f32,
    m: usize,
    [f, grad, states]: [&[f32]; 3],
    df: &mut [f32],
) -> f32 {
    let step = s.mini_batch * m;
    let mut chunk = Chunk::new(s.mini_batch, m);
    let mut grads = Grads::new(s.mini_batch, m);
    let mut d_lambda = 0.0;
    let chunks = f.chunks(step).zip(grad.chunks(step));
    let all = chunks.zip(df.chunks_mut(step).zip(states.chunks_exact(m * m)));
    for (i, ((f, grad), (df, w))) in all.enumerate().rev() {
        chunk.compute(f, w, s.lr);
        grads.x.fill(0.0);
        grads.e.fill(0.0);
        if (i + 1) * m * m < states.len() {
            d_lambda += grads.through_update(&chunk, s.lr, lambda, w);
        }
        grads.through_errors(&chunk, s.lr, grad);
        grads.through_products(&chunk, w);
        grads.through_unit(&chunk, df);
    }
    d_lambda
}

/// Gradients of one chunk, `[n, m]` unless said otherwise.
struct Grads {
    x: Vec<f32>,
    p: Vec<f32>,
    e: Vec<f32>,
    /// For `x_t.x_j`, `[n, n]`.
    att: Vec<f32>,
    /// For the matrix after, then before, the chunk: `[m, m]`.
    w: Vec<f32>,
    wt: Vec<f32>,
    rows: Vec<f32>,
}

impl Grads {
    fn new(b: usize, m: usize) -> Self {
        let rows = || vec![0.0; b * m];
        Self {
            x: rows(),
            p: rows(),
            e: rows(),
            att: vec![0.0; b * b],
            w: vec![0.0; m * m],
            wt: vec![0.0; m * m],
            rows: rows(),
        }
    }

    /// `W' = (1 - lambda) W - lr sum_j kept_j x_j^T e_j`; returns the gradient for `lambda`.
    #[inline(always)]
    fn through_update(&mut self, chunk: &Chunk, lr: f32, lambda: f32, w: &[f32]) -> f32 {
        let (n, m) = (chunk.n, chunk.m);
        self.rows[..n * m].fill(0.0);
        add_matmul(&mut self.rows, &chunk.x, &self.w, (n, m, m));
        let mut d_lambda = -math::dot(&self.w, w);
        for j in 0..n {
            let at = j * m..(j + 1) * m;
            let (row, e) = (&mut self.rows[at.clone()], &chunk.e[at.clone()]);
            if j + 1 < n {
                d_lambda += lr * math::dot(row, e);
            }
            let c = -lr * chunk.kept(j, lambda);
            axpy(&mut self.e[at], c, row);
            row.iter_mut().zip(e).for_each(|(row, e)| *row = c * e);
        }
        transpose(&mut self.wt, &self.w, m, m);
        add_matmul(&mut self.x, &self.rows, &self.wt, (n, m, m));
        self.w.iter_mut().for_each(|w| *w *= 1.0 - lambda);
        d_lambda
    }

    /// `p_t = W x_t - lr sum_{j<t} (x_t.x_j) e_j` and `e_t = p_t - x_t`, last token first.
    #[inline(always)]
    fn through_errors(&mut self, chunk: &Chunk, lr: f32, grad: &[f32]) {
        let (n, m) = (chunk.n, chunk.m);
        self.att[..n * n].fill(0.0);
        for t in (0..n).rev() {
            let at = t * m..(t + 1) * m;
            let (before, behind) = self.e.split_at_mut(t * m);
            let (p, de) = (&mut self.p[at.clone()], &behind[..m]);
            for c in 0..m {
                p[c] = grad[t * m + c] + de[c];
            }
            axpy(&mut self.x[at], -1.0, de);
            for (j, de) in before.chunks_exact_mut(m).enumerate() {
                self.att[t * n + j] = -lr * math::dot(&chunk.e[j * m..][..m], p);
                axpy(de, -lr * chunk.att[t * n + j], p);
            }
        }
    }

    /// `W x_t` and `x_t.x_j`.
    #[inline(always)]
    fn through_products(&mut self, chunk: &Chunk, w: &[f32]) {
        let (n, m) = (chunk.n, chunk.m);
        add_matmul(&mut self.x, &self.att, &chunk.x, (n, m, n));
        add_matmul_at(&mut self.x, &self.att, &chunk.x, (n, m, n));
        transpose(&mut self.wt, w, m, m);
        add_matmul(&mut self.x, &self.p, &self.wt, (n, m, m));
        add_matmul_at(&mut self.w, &chunk.x, &self.p, (m, m, n));
    }

    /// `x = f / (|f| + eps)`.
    #[inline(always)]
    fn through_unit(&self, chunk: &Chunk, df: &mut [f32]) {
        let m = chunk.m;
        for (i, df) in df.chunks_exact_mut(m).enumerate() {
            let (x, dx) = (&chunk.x[i * m..][..m], &self.x[i * m..][..m]);
            let factor = 1.0 / (chunk.length[i] + EPS);
            // |f| of zeros has no slope.
            let along = math::dot(x, dx) / (chunk.length[i] * factor).max(EPS);
            for c in 0..m {
                df[c] = factor * (dx[c] - x[c] * along);
            }
        }
    }
}

#[cfg(test)]
mod tests;
