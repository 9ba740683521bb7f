//! One mini-batch of one head, and the walk over a row of the batch.

use super::kernels::{
    add_matmul, add_matmul_at, axpy, normalise, normalise_grad, rotate, transpose,
};
use super::{Head, LN_EPS, Rope, Sequence, Settings, Values, math};

/// Everything computed for one mini-batch of `n` tokens, row-major `[n, d]` unless said otherwise.
pub struct Chunk {
    pub n: usize,
    pub d: usize,
    /// After RoPE.
    pub q: Vec<f32>,
    /// After RoPE.
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// Normalised `k W + u`.
    pub x: Vec<f32>,
    /// Factor of that normalisation, `[n]`.
    pub r: Vec<f32>,
    /// `LN(k W + u) - (v - k)`.
    pub e: Vec<f32>,
    /// Inner gradients.
    pub g: Vec<f32>,
    /// Inner learning rates, `[n]`.
    pub lr: Vec<f32>,
    /// `q_t.k_i + 1`, `[n, n]`.
    pub att: Vec<f32>,
    /// `-tau_t lr_i (q_t.k_i + 1)` for `i <= t`, else 0, `[n, n]`.
    pub p: Vec<f32>,
    /// Normalised output before scale and shift.
    pub y: Vec<f32>,
    /// Factor of that normalisation, `[n]`.
    pub ry: Vec<f32>,
    kt: Vec<f32>,
}

impl Chunk {
    pub fn new(s: &Settings) -> Self {
        let (b, d) = (s.mini_batch, s.d_head);
        let rows = || vec![0.0; b * d];
        Self {
            n: 0,
            d,
            q: rows(),
            k: rows(),
            v: rows(),
            x: rows(),
            r: vec![0.0; b],
            e: rows(),
            g: rows(),
            lr: vec![0.0; b],
            att: vec![0.0; b * b],
            p: vec![0.0; b * b],
            y: rows(),
            ry: vec![0.0; b],
            kt: rows(),
        }
    }

    /// Fills the chunk for tokens `start..start + n`, given the fast state at its start.
    #[inline(always)]
    pub fn compute(
        &mut self,
        s: &Settings,
        rope: &Rope,
        seq: Sequence<'_>,
        head: &Head<'_>,
        state: &[f32],
        (start, n): (usize, usize),
    ) {
        self.n = n;
        self.load(s, rope, seq, start);
        let (w, u) = state.split_at(self.d * self.d);
        self.inner_gradients(head, w, u);
        self.attend(head);
        self.outputs(w, u);
    }

    #[inline(always)]
    fn load(&mut self, s: &Settings, rope: &Rope, seq: Sequence<'_>, start: usize) {
        let (d, width) = (self.d, s.heads * s.d_head);
        for i in 0..self.n {
            let row = &seq.qkv[(start + i) * 3 * width + seq.head * d..];
            let at = i * d..(i + 1) * d;
            self.q[at.clone()].copy_from_slice(&row[..d]);
            self.k[at.clone()].copy_from_slice(&row[width..][..d]);
            self.v[at.clone()].copy_from_slice(&row[2 * width..][..d]);
            let turn = i * d / 2..(i + 1) * d / 2;
            rotate(
                &mut self.q[at.clone()],
                &rope.cos[turn.clone()],
                &rope.sin[turn.clone()],
            );
            rotate(&mut self.k[at], &rope.cos[turn.clone()], &rope.sin[turn]);
            let logit = seq.lr[(start + i) * s.heads + seq.head];
            self.lr[i] = s.base_lr * math::sigmoid(logit) / d as f32;
        }
    }

    /// `g_i = d/dz 1/2 |LN(z) - (v - k)|^2` at `z = k_i W + u`.
    #[inline(always)]
    fn inner_gradients(&mut self, head: &Head<'_>, w: &[f32], u: &[f32]) {
        let (n, d) = (self.n, self.d);
        fill_rows(&mut self.x[..n * d], u);
        add_matmul(&mut self.x, &self.k, w, (n, d, d));
        for i in 0..n {
            let at = i * d..(i + 1) * d;
            let x = &mut self.x[at.clone()];
            self.r[i] = normalise(x, LN_EPS);
            let (k, v) = (&self.k[at.clone()], &self.v[at.clone()]);
            let (e, g) = (&mut self.e[at.clone()], &mut self.g[at]);
            for c in 0..d {
                e[c] = head.ln_weight[c] * x[c] + head.ln_bias[c] - (v[c] - k[c]);
                g[c] = head.ln_weight[c] * e[c];
            }
            normalise_grad(g, x, self.r[i]);
        }
    }

    #[inline(always)]
    fn attend(&mut self, head: &Head<'_>) {
        let (n, d) = (self.n, self.d);
        transpose(&mut self.kt[..n * d], &self.k[..n * d], n, d);
        self.att[..n * n].fill(1.0);
        add_matmul(&mut self.att[..n * n], &self.q, &self.kt, (n, n, d));
        for t in 0..n {
            for i in 0..n {
                let open = if i <= t {
                    -head.tau[t] * self.lr[i]
                } else {
                    0.0
                };
                self.p[t * n + i] = open * self.att[t * n + i];
            }
        }
    }

    #[inline(always)]
    fn outputs(&mut self, w: &[f32], u: &[f32]) {
        let (n, d) = (self.n, self.d);
        fill_rows(&mut self.y[..n * d], u);
        add_matmul(&mut self.y, &self.q, w, (n, d, d));
        add_matmul(&mut self.y, &self.p, &self.g, (n, d, n));
        for i in 0..n {
            self.ry[i] = normalise(&mut self.y[i * d..(i + 1) * d], LN_EPS);
        }
    }

    /// The state after this full mini-batch, from the state before it.
    #[inline(always)]
    fn next_state(&mut self, head: &Head<'_>, state: &[f32], next: &mut [f32]) {
        let (n, d) = (self.n, self.d);
        let anchor = head.w0.iter().chain(head.u0);
        for ((next, old), anchor) in next.iter_mut().zip(state).zip(anchor) {
            *next = anchor + (1.0 - head.lambda) * (old - anchor);
        }
        let (w, u) = next.split_at_mut(d * d);
        let scaled = &mut self.kt[..n * d];
        for i in 0..n {
            let c = -head.tau[n - 1] * self.lr[i];
            let at = i * d..(i + 1) * d;
            for (s, k) in scaled[at.clone()].iter_mut().zip(&self.k[at.clone()]) {
                *s = c * k;
            }
            axpy(u, c, &self.g[at]);
        }
        add_matmul_at(w, scaled, &self.g, (d, d, n));
    }
}

#[inline(always)]
fn fill_rows(rows: &mut [f32], value: &[f32]) {
    for row in rows.chunks_exact_mut(value.len()) {
        row.copy_from_slice(value);
    }
}

/// All heads of one row of the batch: `qkv [T, 3D]`, `lr [T, H]` to `out [T, D]`, keeping the state
/// at each mini-batch start in `states [H, mini-batches, d * (d + 1)]`.
#[inline(always)]
pub fn row(
    s: &Settings,
    rope: &Rope,
    learned: &Values,
    qkv: &[f32],
    lr: &[f32],
    out: &mut [f32],
    states: &mut [f32],
) {
    let mut chunk = Chunk::new(s);
    for (head, states) in states.chunks_exact_mut(states.len() / s.heads).enumerate() {
        let seq = Sequence { qkv, lr, head };
        sequence(
            s,
            rope,
            &learned.head(head, s),
            seq,
            out,
            states,
            &mut chunk,
        );
    }
}

#[inline(always)]
fn sequence(
    s: &Settings,
    rope: &Rope,
    head: &Head<'_>,
    seq: Sequence<'_>,
    out: &mut [f32],
    states: &mut [f32],
    chunk: &mut Chunk,
) {
    let (d, width, len) = (s.d_head, s.heads * s.d_head, s.state_len());
    let tokens = out.len() / width;
    states[..d * d].copy_from_slice(head.w0);
    states[d * d..len].copy_from_slice(head.u0);
    for (m, start) in (0..tokens).step_by(s.mini_batch).enumerate() {
        let n = s.mini_batch.min(tokens - start);
        let (state, rest) = states[m * len..].split_at_mut(len);
        chunk.compute(s, rope, seq, head, state, (start, n));
        for i in 0..n {
            let o = &mut out[(start + i) * width + seq.head * d..][..d];
            let (q, y) = (&chunk.q[i * d..][..d], &chunk.y[i * d..][..d]);
            for c in 0..d {
                o[c] = q[c] + (head.ln_weight[c] * y[c] + head.ln_bias[c]);
            }
        }
        if !rest.is_empty() {
            chunk.next_state(head, state, &mut rest[..len]);
        }
    }
}
