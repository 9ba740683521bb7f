//! Gradient of one row of the batch: mini-batches in reverse, each recomputed from its first state.
//!
//! Names: `dx` is the gradient of the outer loss for `x`. Within a mini-batch the order is the
//! reverse of `forward`: state update, outputs, attention, inner gradients.

use super::forward::Chunk;
use super::kernels::{add_matmul, add_matmul_at, axpy, normalise_grad, rotate_back, transpose};
use super::{Head, Rope, Sequence, Settings, Values, math};

/// What a row's backward pass reads.
pub struct Inputs<'a> {
    /// `[T, 3D]`.
    pub qkv: &'a [f32],
    /// `[T, H]`.
    pub lr: &'a [f32],
    /// Gradient of the output, `[T, D]`.
    pub grad: &'a [f32],
    /// `[H, mini-batches, d * (d + 1)]`.
    pub states: &'a [f32],
}

/// Gradients of one mini-batch, `[n, d]` unless said otherwise, and scratch.
struct Grads {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    g: Vec<f32>,
    /// For `lr_i`, `[n]`.
    lr: Vec<f32>,
    /// For `k W + u` or `q W + u - ...`.
    z: Vec<f32>,
    /// For `q_t.k_i`, `[n, n]`.
    att: Vec<f32>,
    /// For the state after, then before, the mini-batch: `[d * (d + 1)]`.
    state: Vec<f32>,
    /// `W^T` or a gradient's transpose, `[d, d]`.
    wt: Vec<f32>,
    /// `[n, d]` or its transpose.
    rows: Vec<f32>,
}

/// Gradients of a head's learned values.
struct HeadGrads {
    state0: Vec<f32>,
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
    let (d, [u0, weight, bias, decay, tau, end]) = (s.d_head, s.offsets());
    let mut flat = vec![0.0; end];
    let mut dtau = vec![0.0; s.mini_batch];
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
        let got = walk.sequence(&mut chunk, &mut grads, dqkv, dlr, &mut dtau);
        flat[h * d * d..][..d * d].copy_from_slice(&got.state0[..d * d]);
        flat[u0 + h * d..][..d].copy_from_slice(&got.state0[d * d..]);
        flat[weight + h * d..][..d].copy_from_slice(&got.ln_weight);
        flat[bias + h * d..][..d].copy_from_slice(&got.ln_bias);
        flat[decay + h] = got.lambda * head.lambda * (1.0 - head.lambda);
    }
    for (i, dtau) in dtau.iter().enumerate() {
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
        dtau: &mut [f32],
    ) -> HeadGrads {
        let (s, len) = (self.s, self.s.state_len());
        let tokens = self.inputs.lr.len() / s.heads;
        let mut learned = HeadGrads::new(s.d_head);
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
                grads.through_update(chunk, self.head, state, &mut learned, dtau);
            }
            self.load_output_grad(chunk, grads, start, &mut learned);
            grads.through_outputs(chunk, self.head, state, dtau);
            grads.through_inner(chunk, self.head, &mut learned);
            self.store(chunk, grads, start, dqkv, dlr);
        }
        for (total, g) in learned.state0.iter_mut().zip(&grads.state) {
            *total += g;
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
        for i in 0..chunk.n {
            let at = i * d..(i + 1) * d;
            let o = &self.inputs.grad[(start + i) * width + self.h * d..][..d];
            let (y, z) = (&chunk.y[at.clone()], &mut grads.z[at.clone()]);
            grads.q[at].copy_from_slice(o);
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
            rotate_back(&mut grads.q[at.clone()], cos, sin);
            rotate_back(&mut grads.k[at.clone()], cos, sin);
            let row = &mut dqkv[(start + i) * 3 * width + self.h * d..];
            row[..d].copy_from_slice(&grads.q[at.clone()]);
            row[width..][..d].copy_from_slice(&grads.k[at.clone()]);
            row[2 * width..][..d].copy_from_slice(&grads.v[at]);
            let token = (start + i) * self.s.heads + self.h;
            let gate = math::sigmoid(self.inputs.lr[token]);
            dlr[token] = grads.lr[i] * chunk.lr[i] * (1.0 - gate);
        }
    }
}

impl HeadGrads {
    fn new(d: usize) -> Self {
        Self {
            state0: vec![0.0; d * (d + 1)],
            ln_weight: vec![0.0; d],
            ln_bias: vec![0.0; d],
            lambda: 0.0,
        }
    }
}

impl Grads {
    fn new(s: &Settings) -> Self {
        let (b, d) = (s.mini_batch, s.d_head);
        let rows = || vec![0.0; b * d];
        Self {
            q: rows(),
            k: rows(),
            v: rows(),
            g: rows(),
            lr: vec![0.0; b],
            z: rows(),
            att: vec![0.0; b * b],
            state: vec![0.0; s.state_len()],
            wt: vec![0.0; d * d],
            rows: rows(),
        }
    }

    fn clear(&mut self) {
        for buffer in [
            &mut self.q,
            &mut self.k,
            &mut self.v,
            &mut self.g,
            &mut self.lr,
        ] {
            buffer.fill(0.0);
        }
    }

    /// `W' = W0 + (1 - lambda)(W - W0) - sum_i c_i k_i^T g_i` with `c_i = tau_{b-1} lr_i`, and `u'`.
    /// Leaves in `state` the part of the gradient that passes straight to the state before.
    #[inline(always)]
    fn through_update(
        &mut self,
        chunk: &Chunk,
        head: &Head<'_>,
        state: &[f32],
        learned: &mut HeadGrads,
        dtau: &mut [f32],
    ) {
        let (n, d, tau) = (chunk.n, chunk.d, head.tau[chunk.n - 1]);
        let (dw, du) = self.state.split_at(d * d);
        // rows = k dW' + du': the gradient for -c_i g_i.
        for row in self.rows[..n * d].chunks_exact_mut(d) {
            row.copy_from_slice(du);
        }
        add_matmul(&mut self.rows, &chunk.k, dw, (n, d, d));
        for i in 0..n {
            let at = i * d..(i + 1) * d;
            let dc = -math::dot(&self.rows[at.clone()], &chunk.g[at.clone()]);
            dtau[n - 1] += dc * chunk.lr[i];
            self.lr[i] += dc * tau;
            axpy(&mut self.g[at.clone()], -tau * chunk.lr[i], &self.rows[at]);
        }
        // dk_i = -c_i dW' g_i.
        transpose(&mut self.wt, dw, d, d);
        for i in 0..n {
            let c = -tau * chunk.lr[i];
            let at = i * d..(i + 1) * d;
            for (r, g) in self.rows[at.clone()].iter_mut().zip(&chunk.g[at]) {
                *r = c * g;
            }
        }
        add_matmul(&mut self.k, &self.rows, &self.wt, (n, d, d));
        self.through_decay(head, state, learned);
    }

    #[inline(always)]
    fn through_decay(&mut self, head: &Head<'_>, state: &[f32], learned: &mut HeadGrads) {
        let (dw, du) = self.state.split_at(head.w0.len());
        let (w, u) = state.split_at(head.w0.len());
        learned.lambda += math::dot(dw, head.w0) - math::dot(dw, w);
        learned.lambda += math::dot(du, head.u0) - math::dot(du, u);
        axpy(&mut learned.state0, head.lambda, &self.state);
        self.state.iter_mut().for_each(|d| *d *= 1.0 - head.lambda);
    }

    /// `zbar = q W + u + P g` with `P_ti = -tau_t lr_i (q_t.k_i + 1)`; its gradient is in `z`.
    #[inline(always)]
    fn through_outputs(&mut self, chunk: &Chunk, head: &Head<'_>, state: &[f32], dtau: &mut [f32]) {
        let (n, d) = (chunk.n, chunk.d);
        transpose(&mut self.wt, &state[..d * d], d, d);
        add_matmul(&mut self.q, &self.z, &self.wt, (n, d, d));
        let (dw, du) = self.state.split_at_mut(d * d);
        add_matmul_at(dw, &chunk.q, &self.z, (d, d, n));
        self.z[..n * d]
            .chunks_exact(d)
            .for_each(|z| axpy(du, 1.0, z));
        add_matmul_at(&mut self.g, &chunk.p, &self.z, (n, d, n));
        // att = dP = dzbar g^T, then the gradient for q.k.
        transpose(&mut self.rows[..n * d], &chunk.g[..n * d], n, d);
        self.att[..n * n].fill(0.0);
        add_matmul(&mut self.att[..n * n], &self.z, &self.rows, (n, n, d));
        for (t, dtau) in dtau.iter_mut().enumerate().take(n) {
            for i in 0..=t {
                let (dp, a) = (self.att[t * n + i], chunk.att[t * n + i]);
                *dtau -= dp * chunk.lr[i] * a;
                self.lr[i] -= dp * head.tau[t] * a;
                self.att[t * n + i] = -dp * head.tau[t] * chunk.lr[i];
            }
            self.att[t * n + t + 1..(t + 1) * n].fill(0.0);
        }
        add_matmul(&mut self.q, &self.att, &chunk.k, (n, d, n));
        add_matmul_at(&mut self.k, &self.att, &chunk.q, (n, d, n));
    }

    /// `g = r (p - mean(p) - x mean(p x))`, `p = weight * e`, `x = normalise(k W + u)`.
    #[inline(always)]
    fn through_inner(&mut self, chunk: &Chunk, head: &Head<'_>, learned: &mut HeadGrads) {
        let (n, d) = (chunk.n, chunk.d);
        for i in 0..n {
            self.through_inner_row(chunk, head, i, learned);
        }
        // wt still holds W^T.
        add_matmul(&mut self.k, &self.z, &self.wt, (n, d, d));
        let (dw, du) = self.state.split_at_mut(d * d);
        add_matmul_at(dw, &chunk.k, &self.z, (d, d, n));
        self.z[..n * d]
            .chunks_exact(d)
            .for_each(|z| axpy(du, 1.0, z));
    }

    #[inline(always)]
    fn through_inner_row(
        &mut self,
        chunk: &Chunk,
        head: &Head<'_>,
        i: usize,
        learned: &mut HeadGrads,
    ) {
        let d = chunk.d;
        let at = i * d..(i + 1) * d;
        let (x, e, g) = (
            &chunk.x[at.clone()],
            &chunk.e[at.clone()],
            &chunk.g[at.clone()],
        );
        let (dg, r, len) = (&self.g[at.clone()], chunk.r[i], d as f32);
        let along_r = math::dot(dg, g) * r / len;
        let (mean, along) = (r * math::sum(dg) / len, r * math::dot(dg, x) / len);
        let dot_px: f32 = {
            let p = &mut self.rows[..d];
            (0..d).for_each(|c| p[c] = head.ln_weight[c] * e[c]);
            math::dot(p, x) / len
        };
        let (dk, dv) = (&mut self.k[at.clone()], &mut self.v[at.clone()]);
        let dz = &mut self.z[at];
        for c in 0..d {
            let (ds, weight) = (r * dg[c], head.ln_weight[c]);
            let dp = ds - mean - x[c] * along;
            let de = weight * dp;
            learned.ln_weight[c] += dp * e[c] + de * x[c];
            learned.ln_bias[c] += de;
            dk[c] += de;
            dv[c] -= de;
            dz[c] = weight * de - dot_px * ds - weight * e[c] * along;
        }
        normalise_grad(dz, x, r);
        axpy(dz, -along_r, x);
    }
}
