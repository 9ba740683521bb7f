//! One mini-batch of one head, and the walk over a row of the batch.

use super::kernels::{normalise, normalise_grad, rotate};
use super::layer::{FastLayer, Rates};
use super::{Head, LN_EPS, Rope, Sequence, Settings, Values, math};

/// Everything computed for one mini-batch of `n` tokens, row-major `[n, d]` unless said otherwise.
pub struct Chunk {
    pub n: usize,
    pub d: usize,
    /// The inner model, first layer first: keys and queries after RoPE enter the first; `z` and `y` of the last are
    /// normalised.
    pub layers: Vec<FastLayer>,
    pub v: Vec<f32>,
    /// Factor of the normalisation of `z`, `[n]`.
    pub r: Vec<f32>,
    /// `LN(z) - (v - k)`.
    pub e: Vec<f32>,
    /// Inner learning rates, `[n]`.
    pub lr: Vec<f32>,
    /// Factor of the normalisation of `y`, `[n]`.
    pub ry: Vec<f32>,
}

impl Chunk {
    pub fn new(s: &Settings) -> Self {
        let (b, d) = (s.mini_batch, s.d_head);
        let mut at = 0;
        let layer = |(input, output): (usize, usize)| {
            let layer = FastLayer::new((input, output), at, b);
            at += (input + 1) * output;
            layer
        };
        Self {
            n: 0,
            d,
            layers: s.layers().iter().copied().map(layer).collect(),
            v: vec![0.0; b * d],
            r: vec![0.0; b],
            e: vec![0.0; b * d],
            lr: vec![0.0; b],
            ry: vec![0.0; b],
        }
    }

    pub fn last(&self) -> &FastLayer {
        &self.layers[self.layers.len() - 1]
    }

    pub fn rates<'a>(&'a self, head: &Head<'a>) -> Rates<'a> {
        Rates::new(head.tau, &self.lr[..self.n])
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
        self.inner_gradients(head, state);
        self.outputs(head, state);
    }

    #[inline(always)]
    fn load(&mut self, s: &Settings, rope: &Rope, seq: Sequence<'_>, start: usize) {
        let (d, width) = (self.d, s.heads * s.d_head);
        let first = &mut self.layers[0];
        for i in 0..self.n {
            let row = &seq.qkv[(start + i) * 3 * width + seq.head * d..];
            let at = i * d..(i + 1) * d;
            let (q, k) = (&mut first.q[at.clone()], &mut first.k[at.clone()]);
            q.copy_from_slice(&row[..d]);
            k.copy_from_slice(&row[width..][..d]);
            self.v[at].copy_from_slice(&row[2 * width..][..d]);
            let turn = i * d / 2..(i + 1) * d / 2;
            rotate(q, &rope.cos[turn.clone()], &rope.sin[turn.clone()]);
            rotate(k, &rope.cos[turn.clone()], &rope.sin[turn]);
            let logit = seq.lr[(start + i) * s.heads + seq.head];
            self.lr[i] = s.base_lr * math::sigmoid(logit) / d as f32;
        }
    }

    /// The gradient of `1/2 |LN(z) - (v - k)|^2` for every layer's `k W + u`.
    #[inline(always)]
    pub fn inner_gradients(&mut self, head: &Head<'_>, state: &[f32]) {
        let n = self.n;
        for l in 0..self.layers.len() {
            let (layer, next) = at_and_next(&mut self.layers, l);
            layer.keys(state, n);
            if let Some(next) = next {
                layer.activate_keys(next, n);
            }
        }
        self.last_gradients(head);
        for l in (0..self.layers.len()).rev() {
            if let (layer, Some(next)) = at_and_next(&mut self.layers, l) {
                layer.pull(next, state, n);
            }
        }
    }

    #[inline(always)]
    fn last_gradients(&mut self, head: &Head<'_>) {
        let (n, d) = (self.n, self.d);
        // The keys before the first layer, and the last layer: the same one in a linear model.
        for i in 0..n {
            let at = i * d..(i + 1) * d;
            let (k, e) = (&self.layers[0].k[at.clone()], &mut self.e[at.clone()]);
            for (e, (v, k)) in e.iter_mut().zip(self.v[at].iter().zip(k)) {
                *e = v - k;
            }
        }
        let last = self.layers.len() - 1;
        let FastLayer { z, g, .. } = &mut self.layers[last];
        for i in 0..n {
            let at = i * d..(i + 1) * d;
            let (x, g, e) = (&mut z[at.clone()], &mut g[at.clone()], &mut self.e[at]);
            self.r[i] = normalise(x, LN_EPS);
            for c in 0..d {
                e[c] = head.ln_weight[c] * x[c] + head.ln_bias[c] - e[c];
                g[c] = head.ln_weight[c] * e[c];
            }
            normalise_grad(g, x, self.r[i]);
        }
    }

    #[inline(always)]
    fn outputs(&mut self, head: &Head<'_>, state: &[f32]) {
        let n = self.n;
        let rates = Rates::new(head.tau, &self.lr[..n]);
        for l in 0..self.layers.len() {
            let (layer, next) = at_and_next(&mut self.layers, l);
            layer.queries(state, rates);
            match next {
                Some(next) => layer.activate_queries(next, n),
                None => {
                    for (y, ry) in layer.y.chunks_exact_mut(self.d).zip(&mut self.ry).take(n) {
                        *ry = normalise(y, LN_EPS);
                    }
                }
            }
        }
    }

    /// The state after this full mini-batch, from the state before it.
    #[inline(always)]
    pub fn next_state(&mut self, head: &Head<'_>, state: &[f32], next: &mut [f32]) {
        for ((next, old), anchor) in next.iter_mut().zip(state).zip(head.start) {
            *next = anchor + (1.0 - head.lambda) * (old - anchor);
        }
        let rates = Rates::new(head.tau, &self.lr[..self.n]);
        for layer in &mut self.layers {
            layer.learn(next, rates);
        }
    }
}

/// Item `i` and the one behind it.
#[inline(always)]
pub fn at_and_next<T>(items: &mut [T], i: usize) -> (&mut T, Option<&mut T>) {
    let (before, behind) = items.split_at_mut(i + 1);
    (&mut before[i], behind.first_mut())
}

/// One row of the batch.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// `[T, 3D]`.
    pub qkv: &'a [f32],
    /// `[T, H]`.
    pub lr: &'a [f32],
    /// Fast weights to go on from, `[H, state]`; none for the learned start.
    pub carried: Option<&'a [f32]>,
}

/// All heads of one row of the batch to `out [T, D]`, keeping the state at each mini-batch start in
/// `states [H, mini-batches, state]` and leaving the one behind the last full mini-batch in `left [H, state]`.
#[inline(always)]
pub fn row(
    s: &Settings,
    rope: &Rope,
    learned: &Values,
    row: Row<'_>,
    out: &mut [f32],
    states: &mut [f32],
    mut left: Option<&mut [f32]>,
) {
    let (mut chunk, len) = (Chunk::new(s), s.state_len());
    for (h, states) in states.chunks_exact_mut(states.len() / s.heads).enumerate() {
        let (head, own) = (learned.head(h, s), h * len..(h + 1) * len);
        let first = row.carried.map_or(head.start, |all| &all[own.clone()]);
        states[..len].copy_from_slice(first);
        let seq = Sequence {
            qkv: row.qkv,
            lr: row.lr,
            head: h,
        };
        sequence(s, rope, &head, seq, out, states, &mut chunk);
        if let Some(left) = &mut left {
            let (last, left) = (&states[states.len() - len..], &mut left[own]);
            if chunk.n == s.mini_batch {
                chunk.next_state(&head, last, left);
            } else {
                left.copy_from_slice(last);
            }
        }
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
    for (m, start) in (0..tokens).step_by(s.mini_batch).enumerate() {
        let n = s.mini_batch.min(tokens - start);
        let (state, rest) = states[m * len..].split_at_mut(len);
        chunk.compute(s, rope, seq, head, state, (start, n));
        let (queries, normed) = (&chunk.layers[0].q, &chunk.last().y);
        for i in 0..n {
            let o = &mut out[(start + i) * width + seq.head * d..][..d];
            let (q, y) = (&queries[i * d..][..d], &normed[i * d..][..d]);
            for c in 0..d {
                o[c] = q[c] + (head.ln_weight[c] * y[c] + head.ln_bias[c]);
            }
        }
        if !rest.is_empty() {
            chunk.next_state(head, state, &mut rest[..len]);
        }
    }
}
