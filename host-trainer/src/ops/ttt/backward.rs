//! Gradient of one row of the batch: mini-batches in reverse, each recomputed from its first state.
//!
//! Names: `dx` is the gradient of the outer loss for `x`. Within a mini-batch the order is the
//! reverse of `forward`: state update, outputs, attention, inner gradients.

use super::forward::{Chunk, at_and_next};
use super::kernels::{axpy, normalise_grad, rotate_back};
use super::layer_grads::LayerGrads;
use super::{Head, Rope, Sequence, Settings, Values, math};

/// What a row's backward pass reads.
pub struct Inputs<'a> {
    /// `[T, 3D]`.
    pub qkv: &'a [f32],
    /// `[T, H]`.
    pub lr: &'a [f32],
    /// Gradient of the output, `[T, D]`.
    pub grad: &'a [f32],
    /// `[H, mini-batches, state]`.
    pub states: &'a [f32],
    /// Whether the first of them is a constant, not the learned start.
    pub carried: bool,
}

/// Gradients of one mini-batch, `[n, d]` unless said otherwise.
struct Grads {
    /// Of each fast layer, first layer first.
    layers: Vec<LayerGrads>,
    v: Vec<f32>,
    /// For `lr_i`, `[n]`.
    lr: Vec<f32>,
    /// For `tau_i`, `[b]`, of all mini-batches and heads.
    tau: Vec<f32>,
    /// For the state after, then before, the mini-batch.
    state: Vec<f32>,
    /// Scratch, `[d]`.
    row: Vec<f32>,
}

/// Gradients of a head's learned values.
struct HeadGrads {
    start: Vec<f32>,
    ln_weight: Vec<f32>,
    ln_bias: Vec<f32>,
    lambda: f32,
}

/// Gradient of all heads of one row: writes `dqkv [T, 3D]` and `dlr [T, H]`, returns the flat
/// gradient of the learned values.
#[inline(always)]
pub fn row(
    s: &Settings,
    rope: &Rope,
    learned: &Values,
    inputs: &Inputs<'_>,
    dqkv: &mut [f32],
    dlr: &mut [f32],
) -> Vec<f32> {
    let (d, [weight, bias, decay, tau, end]) = (s.d_head, s.offsets());
    let mut flat = vec![0.0; end];
    let (mut chunk, mut grads) = (Chunk::new(s), Grads::new(s));
    let states = inputs.states.chunks_exact(inputs.states.len() / s.heads);
    for (h, states) in states.enumerate() {
        let head = learned.head(h, s);
        let walk = Walk {
            s,
            rope,
            head: &head,
            h,
            inputs,
            states,
        };
        let got = walk.sequence(&mut chunk, &mut grads, dqkv, dlr);
        for p in s.places(h) {
            flat[p.flat..][..p.len].copy_from_slice(&got.start[p.state..][..p.len]);
        }
        flat[weight + h * d..][..d].copy_from_slice(&got.ln_weight);
        flat[bias + h * d..][..d].copy_from_slice(&got.ln_bias);
        flat[decay + h] = got.lambda * head.lambda * (1.0 - head.lambda);
    }
    for (i, dtau) in grads.tau.iter().enumerate() {
        flat[tau + i] = if learned.tau[i] > 0.0 { *dtau } else { 0.0 };
    }
    flat
}

/// One head of one row.
struct Walk<'a> {
    s: &'a Settings,
    rope: &'a Rope,
    head: &'a Head<'a>,
    h: usize,
    inputs: &'a Inputs<'a>,
    states: &'a [f32],
}

impl Walk<'_> {
    #[inline(always)]
    fn sequence(
        &self,
        chunk: &mut Chunk,
        grads: &mut Grads,
        dqkv: &mut [f32],
        dlr: &mut [f32],
    ) -> HeadGrads {
        let (s, len) = (self.s, self.s.state_len());
        let tokens = self.inputs.lr.len() / s.heads;
        let mut learned = HeadGrads::new(s);
        let seq = Sequence {
            qkv: self.inputs.qkv,
            lr: self.inputs.lr,
            head: self.h,
        };
        grads.state.fill(0.0);
        for (m, state) in self.states.chunks_exact(len).enumerate().rev() {
            let start = m * s.mini_batch;
            let n = s.mini_batch.min(tokens - start);
            chunk.compute(s, self.rope, seq, self.head, state, (start, n));
            grads.clear();
            if start + n < tokens {
                grads.through_update(chunk, self.head);
                grads.through_decay(self.head, state, &mut learned);
            }
            self.load_output_grad(chunk, grads, start, &mut learned);
            grads.through_outputs(chunk, self.head, state);
            grads.through_inner(chunk, self.head, state, &mut learned);
            self.store(chunk, grads, start, dqkv, dlr);
        }
        if !self.inputs.carried {
            axpy(&mut learned.start, 1.0, &grads.state);
        }
        learned
    }

    /// `o = q + LN(zbar)`: gradient for `q` and, through the norm, for `zbar`.
    #[inline(always)]
    fn load_output_grad(
        &self,
        chunk: &Chunk,
        grads: &mut Grads,
        start: usize,
        learned: &mut HeadGrads,
    ) {
        let (d, width) = (chunk.d, self.s.heads * chunk.d);
        let last = grads.layers.len() - 1;
        for i in 0..chunk.n {
            let at = i * d..(i + 1) * d;
            let o = &self.inputs.grad[(start + i) * width + self.h * d..][..d];
            grads.layers[0].q[at.clone()].copy_from_slice(o);
            let (y, z) = (&chunk.last().y[at.clone()], &mut grads.layers[last].z[at]);
            for c in 0..d {
                learned.ln_weight[c] += o[c] * y[c];
                learned.ln_bias[c] += o[c];
                z[c] = o[c] * self.head.ln_weight[c];
            }
            normalise_grad(z, y, chunk.ry[i]);
        }
    }

    #[inline(always)]
    fn store(
        &self,
        chunk: &Chunk,
        grads: &mut Grads,
        start: usize,
        dqkv: &mut [f32],
        dlr: &mut [f32],
    ) {
        let (d, width) = (chunk.d, self.s.heads * chunk.d);
        for i in 0..chunk.n {
            let at = i * d..(i + 1) * d;
            let turn = i * d / 2..(i + 1) * d / 2;
            let (cos, sin) = (&self.rope.cos[turn.clone()], &self.rope.sin[turn]);
            let first = &mut grads.layers[0];
            let (q, k) = (&mut first.q[at.clone()], &mut first.k[at.clone()]);
            rotate_back(q, cos, sin);
            rotate_back(k, cos, sin);
            let row = &mut dqkv[(start + i) * 3 * width + self.h * d..];
            row[..d].copy_from_slice(q);
            row[width..][..d].copy_from_slice(k);
            row[2 * width..][..d].copy_from_slice(&grads.v[at]);
            let token = (start + i) * self.s.heads + self.h;
            let gate = math::sigmoid(self.inputs.lr[token]);
            dlr[token] = grads.lr[i] * chunk.lr[i] * (1.0 - gate);
        }
    }
}

impl HeadGrads {
    fn new(s: &Settings) -> Self {
        let d = s.d_head;
        Self {
            start: vec![0.0; s.state_len()],
            ln_weight: vec![0.0; d],
            ln_bias: vec![0.0; d],
            lambda: 0.0,
        }
    }
}

impl Grads {
    fn new(s: &Settings) -> Self {
        let (b, d) = (s.mini_batch, s.d_head);
        let layer = |&(input, output): &(usize, usize)| LayerGrads::new(input, output, b);
        Self {
            layers: s.layers().iter().map(layer).collect(),
            v: vec![0.0; b * d],
            lr: vec![0.0; b],
            tau: vec![0.0; b],
            state: vec![0.0; s.state_len()],
            row: vec![0.0; d],
        }
    }

    fn clear(&mut self) {
        self.layers.iter_mut().for_each(LayerGrads::clear);
        self.v.fill(0.0);
        self.lr.fill(0.0);
    }

    /// `W' = W0 + (1 - lambda)(W - W0) - sum_i tau_{b-1} lr_i k_i^T g_i`: what is subtracted.
    #[inline(always)]
    fn through_update(&mut self, chunk: &Chunk, head: &Head<'_>) {
        for (grads, layer) in self.layers.iter_mut().zip(&chunk.layers) {
            let rates = chunk.rates(head);
            grads.through_update(layer, &self.state, rates, &mut self.lr, &mut self.tau);
        }
    }

    /// The rest of the update. Leaves in `state` the part of the gradient that passes straight to the state before.
    #[inline(always)]
    fn through_decay(&mut self, head: &Head<'_>, state: &[f32], learned: &mut HeadGrads) {
        learned.lambda += math::dot(&self.state, head.start) - math::dot(&self.state, state);
        axpy(&mut learned.start, head.lambda, &self.state);
        self.state.iter_mut().for_each(|d| *d *= 1.0 - head.lambda);
    }

    /// From the last layer's `y`, whose gradient is in its `z`, to the queries.
    #[inline(always)]
    fn through_outputs(&mut self, chunk: &Chunk, head: &Head<'_>, state: &[f32]) {
        let rates = chunk.rates(head);
        for l in (0..chunk.layers.len()).rev() {
            let (grads, next) = at_and_next(&mut self.layers, l);
            if let Some(next) = next {
                let slopes = chunk.layers[l].y.iter().map(|y| math::gelu(*y).1);
                let products = next.q.iter().zip(slopes).take(chunk.n * grads.output);
                for (z, (q, slope)) in grads.z.iter_mut().zip(products) {
                    *z = q * slope;
                }
            }
            let sums = [&mut self.state[..], &mut self.lr, &mut self.tau];
            grads.through_queries(&chunk.layers[l], state, rates, sums);
        }
    }

    /// From the inner gradients to keys and values: up through the chain of gradients, which is the inner backward
    /// pass, and then down through the layers' forward pass.
    #[inline(always)]
    fn through_inner(
        &mut self,
        chunk: &Chunk,
        head: &Head<'_>,
        state: &[f32],
        learned: &mut HeadGrads,
    ) {
        for (l, layers) in chunk.layers.windows(2).enumerate() {
            if let (grads, Some(next)) = at_and_next(&mut self.layers, l) {
                grads.through_pull(
                    next,
                    [&layers[0], &layers[1]],
                    state,
                    &mut self.state,
                    chunk.n,
                );
            }
        }
        for i in 0..chunk.n {
            self.through_last_gradient(chunk, head, i, learned);
        }
        for l in (0..chunk.layers.len()).rev() {
            let (grads, next) = at_and_next(&mut self.layers, l);
            if let Some(next) = next {
                let products = next.k.iter().zip(&chunk.layers[l].slope);
                for (z, (k, slope)) in grads.z.iter_mut().zip(products) {
                    *z += k * slope;
                }
            }
            grads.through_keys(&chunk.layers[l], &mut self.state, chunk.n);
        }
    }

    /// `g = r (p - mean(p) - x mean(p x))`, `p = weight * e`, `x = normalise(z)`, of the last layer.
    #[inline(always)]
    fn through_last_gradient(
        &mut self,
        chunk: &Chunk,
        head: &Head<'_>,
        i: usize,
        learned: &mut HeadGrads,
    ) {
        let d = chunk.d;
        let at = i * d..(i + 1) * d;
        let (layer, e) = (chunk.last(), &chunk.e[at.clone()]);
        let (x, g) = (&layer.z[at.clone()], &layer.g[at.clone()]);
        let last = self.layers.len() - 1;
        let LayerGrads { g: dg, z: dz, .. } = &mut self.layers[last];
        let (dg, dz) = (&dg[at.clone()], &mut dz[at.clone()]);
        let (r, len) = (chunk.r[i], d as f32);
        let along_r = math::dot(dg, g) * r / len;
        let (mean, along) = (r * math::sum(dg) / len, r * math::dot(dg, x) / len);
        let dot_px: f32 = {
            let p = &mut self.row;
            (0..d).for_each(|c| p[c] = head.ln_weight[c] * e[c]);
            math::dot(p, x) / len
        };
        let dv = &mut self.v[at.clone()];
        for c in 0..d {
            let (ds, weight) = (r * dg[c], head.ln_weight[c]);
            let dp = ds - mean - x[c] * along;
            let de = weight * dp;
            learned.ln_weight[c] += dp * e[c] + de * x[c];
            learned.ln_bias[c] += de;
            dv[c] = -de;
            dz[c] = weight * de - dot_px * ds - weight * e[c] * along;
        }
        normalise_grad(dz, x, r);
        axpy(dz, -along_r, x);
        // The target is v - k.
        axpy(&mut self.layers[0].k[at.clone()], -1.0, &self.v[at]);
    }
}
