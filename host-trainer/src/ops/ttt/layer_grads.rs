//! Gradients of one fast layer over a mini-batch, the reverse of [`super::layer`].

use super::kernels::{add_matmul, add_matmul_at, axpy, fill_rows, transpose};
use super::layer::{FastLayer, Rates};
use super::math;

/// Gradients for the fields of the same name of a [`FastLayer`], and scratch.
pub struct LayerGrads {
    input: usize,
    pub output: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub g: Vec<f32>,
    /// For `y`, later for `z`.
    pub z: Vec<f32>,
    /// For `q_t.k_i`, `[n, n]`.
    att: Vec<f32>,
    /// `W^T`, or the transpose of its gradient.
    wt: Vec<f32>,
    /// `[n, in]` or `[n, out]`, or its transpose.
    rows: Vec<f32>,
}

impl LayerGrads {
    pub fn new(input: usize, output: usize, mini_batch: usize) -> Self {
        let rows = |width: usize| vec![0.0; mini_batch * width];
        Self {
            input,
            output,
            q: rows(input),
            k: rows(input),
            g: rows(output),
            z: rows(output),
            att: rows(mini_batch),
            wt: vec![0.0; input * output],
            rows: rows(input.max(output)),
        }
    }

    pub fn clear(&mut self) {
        for buffer in [&mut self.q, &mut self.k, &mut self.g] {
            buffer.fill(0.0);
        }
    }

    /// `W' = .. - sum_i c_i k_i^T g_i` and `u' = .. - sum_i c_i g_i` with `c_i = tau_{n-1} lr_i`; `state` is the
    /// gradient for `W'` and `u'`.
    #[inline(always)]
    pub fn through_update(
        &mut self,
        layer: &FastLayer,
        state: &[f32],
        rates: Rates<'_>,
        dlr: &mut [f32],
        dtau: &mut [f32],
    ) {
        let (n, input, output) = (rates.lr.len(), self.input, self.output);
        let (dw, du) = layer.of(state);
        // k dW' + du' is the gradient for -c_i g_i.
        fill_rows(&mut self.rows[..n * output], du);
        add_matmul(&mut self.rows, &layer.k, dw, (n, output, input));
        for (i, dlr) in dlr.iter_mut().enumerate().take(n) {
            let at = i * output..(i + 1) * output;
            let dc = -math::dot(&self.rows[at.clone()], &layer.g[at.clone()]);
            dtau[n - 1] += dc * rates.lr[i];
            *dlr += dc * rates.tau[n - 1];
            axpy(&mut self.g[at.clone()], -rates.step(i), &self.rows[at]);
        }
        // dk_i = -c_i dW' g_i.
        transpose(&mut self.wt, dw, input, output);
        for i in 0..n {
            let at = i * output..(i + 1) * output;
            for (r, g) in self.rows[at.clone()].iter_mut().zip(&layer.g[at]) {
                *r = -rates.step(i) * g;
            }
        }
        add_matmul(&mut self.k, &self.rows, &self.wt, (n, input, output));
    }

    /// `y = q W + u + P g` with `P_ti = -tau_t lr_i (q_t.k_i + 1)`; the gradient for `y` is in `z`.
    #[inline(always)]
    pub fn through_queries(
        &mut self,
        layer: &FastLayer,
        state: &[f32],
        rates: Rates<'_>,
        [dstate, dlr, dtau]: [&mut [f32]; 3],
    ) {
        let (n, input, output) = (rates.lr.len(), self.input, self.output);
        transpose(&mut self.wt, layer.of(state).0, input, output);
        add_matmul(&mut self.q, &self.z, &self.wt, (n, input, output));
        let (dw, du) = layer.of_mut(dstate);
        add_matmul_at(dw, &layer.q, &self.z, (input, output, n));
        let rows = self.z.chunks_exact(output).take(n);
        rows.for_each(|z| axpy(du, 1.0, z));
        add_matmul_at(&mut self.g, &layer.p, &self.z, (n, output, n));
        // att = dP = dy g^T, then the gradient for q.k.
        transpose(
            &mut self.rows[..n * output],
            &layer.g[..n * output],
            n,
            output,
        );
        self.att[..n * n].fill(0.0);
        add_matmul(&mut self.att[..n * n], &self.z, &self.rows, (n, n, output));
        for (t, dtau) in dtau.iter_mut().enumerate().take(n) {
            for (i, dlr) in dlr.iter_mut().enumerate().take(t + 1) {
                let (dp, a) = (self.att[t * n + i], layer.att[t * n + i]);
                *dtau -= dp * rates.lr[i] * a;
                *dlr -= dp * rates.tau[t] * a;
                self.att[t * n + i] = -dp * rates.tau[t] * rates.lr[i];
            }
            self.att[t * n + t + 1..(t + 1) * n].fill(0.0);
        }
        add_matmul(&mut self.q, &self.att, &layer.k, (n, input, n));
        add_matmul_at(&mut self.k, &self.att, &layer.q, (n, input, n));
    }

    /// `g = pulled * gelu'(z)` with `pulled = g' W'^T` of the next layer: writes the gradient for `z` through the
    /// slope, adds to the next layer's for `g'` and `W'`.
    #[inline(always)]
    pub fn through_pull(
        &mut self,
        next: &mut Self,
        [layer, next_layer]: [&FastLayer; 2],
        state: &[f32],
        dstate: &mut [f32],
        n: usize,
    ) {
        let (width, output) = (self.output, next.output);
        for i in 0..n * width {
            self.z[i] = self.g[i] * layer.pulled[i] * math::gelu_curvature(layer.z[i]);
            self.rows[i] = self.g[i] * layer.slope[i];
        }
        let (w, _) = next_layer.of(state);
        add_matmul(&mut next.g, &self.rows, w, (n, output, width));
        let (dw, _) = next_layer.of_mut(dstate);
        add_matmul_at(dw, &self.rows, &next_layer.g, (width, output, n));
    }

    /// `z = k W + u`; its gradient is in `z`. [`LayerGrads::through_queries`] has left `W^T`.
    #[inline(always)]
    pub fn through_keys(&mut self, layer: &FastLayer, dstate: &mut [f32], n: usize) {
        let (input, output) = (self.input, self.output);
        add_matmul(&mut self.k, &self.z, &self.wt, (n, input, output));
        let (dw, du) = layer.of_mut(dstate);
        add_matmul_at(dw, &layer.k, &self.z, (input, output, n));
        let rows = self.z.chunks_exact(output).take(n);
        rows.for_each(|z| axpy(du, 1.0, z));
    }
}
