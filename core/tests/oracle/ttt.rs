//! The TTT mixers as what they are: gradient descent on an inner loss, with the gradient by finite differences.

use crate::model::{Layer, Rows, axpy, dot, rotate, sigmoid, times};
use crate::{Mixer, Role};

/// What a head learns by.
struct Head {
    /// `W [d, d]`, `u`; or `W0 [d, 4d]`, `u0`, `W1 [4d, d]`, `u1`.
    fast: Vec<f64>,
    two_layers: bool,
    ln_scale: Vec<f64>,
    ln_bias: Vec<f64>,
    ln_eps: f64,
}

/// TTT-Linear and TTT-MLP, before the norm.
pub fn heads(layer: &Layer<'_>, x: &Rows) -> Rows {
    let config = layer.oracle.config;
    let d = config.d_head() as usize;
    let [mut q, v] = [Role::Query, Role::Value].map(|role| layer.project(role, x));
    let k = match layer.record.shared_qk {
        true => layer.conv_biased(&q, Role::KeyConv, Role::KeyConvBias),
        false => layer.project(Role::Key, x),
    };
    if layer.record.shared_qk {
        q = layer.conv_biased(&q, Role::QueryConv, Role::QueryConvBias);
    }
    let rates = match layer.record.head_rates {
        true => vec![vec![0.0; usize::from(config.n_heads)]; x.len()],
        false => layer.project(Role::Lr, x),
    };
    let bias = layer.tensor(Role::LrBias);
    let mut out = vec![Vec::new(); x.len()];
    for h in 0..usize::from(config.n_heads) {
        let of = |rows: &Rows| -> Rows {
            rows.iter()
                .map(|r| r[h * d..(h + 1) * d].to_vec())
                .collect()
        };
        let rate =
            |row: &Vec<f64>| f64::from(config.ttt_base_lr) * sigmoid(row[h] + bias[h]) / d as f64;
        let rates: Vec<f64> = rates.iter().map(rate).collect();
        let outputs = head(layer, h, [of(&q), of(&k), of(&v)], &rates);
        for (out, own) in out.iter_mut().zip(outputs) {
            out.extend(own);
        }
    }
    out
}

/// One head over the stream: at each token the weights are those of the mini-batch's start less `tau_t` times the
/// gradients so far, each times its learning rate.
fn head(layer: &Layer<'_>, h: usize, [q, k, v]: [Rows; 3], rates: &[f64]) -> Rows {
    let config = layer.oracle.config;
    let (b, theta) = (usize::from(config.mini_batch), f64::from(config.rope_theta));
    let mut head = Head::new(layer, h);
    let anchor = head.fast.clone();
    let decay = if layer.record.decay {
        layer.tensor(Role::Decay)[h]
    } else {
        0.0
    };
    let tau_bias = layer.tensor(Role::Tau);
    let mut step = vec![0.0; anchor.len()];
    let mut outputs = Vec::new();
    for t in 0..q.len() {
        let i = t % b;
        let (mut q, mut k) = (q[t].clone(), k[t].clone());
        rotate(&mut q, i, theta);
        rotate(&mut k, i, theta);
        let tau = (1.0 / (i + 1) as f64 + tau_bias[i]).max(0.0);
        axpy(&mut step, rates[t], &head.gradient(&k, &v[t]));
        let mut now = head.fast.clone();
        axpy(&mut now, -tau, &step);
        let mut out = head.normed(&head.apply(&now, &q));
        axpy(&mut out, 1.0, &q);
        outputs.push(out);
        if i + 1 == b {
            for (w, a) in head.fast.iter_mut().zip(&anchor) {
                *w = a + (1.0 - decay) * (*w - a);
            }
            axpy(&mut head.fast, -tau, &step);
            step.fill(0.0);
        }
    }
    outputs
}

impl Head {
    fn new(layer: &Layer<'_>, h: usize) -> Self {
        let config = layer.oracle.config;
        let heads = usize::from(config.n_heads);
        let own = |role| {
            let all = layer.tensor(role);
            let each = all.len() / heads;
            all[h * each..(h + 1) * each].to_vec()
        };
        let two_layers = layer.record.mixer == Mixer::TttMlp;
        let d = config.d_head() as usize;
        let identity = (0..(d + 1) * d).map(|i| f64::from(i / d == i % d));
        let mut fast = match layer.record.identity {
            true => identity.collect(),
            false => [own(Role::W0), own(Role::U0)].concat(),
        };
        if two_layers {
            fast.extend(own(Role::W1));
            fast.extend(own(Role::U1));
        }
        Self {
            fast,
            two_layers,
            ln_scale: own(Role::LnScale),
            ln_bias: own(Role::LnBias),
            ln_eps: f64::from(config.ln_eps),
        }
    }

    /// The inner model with weights `fast`.
    fn apply(&self, fast: &[f64], x: &[f64]) -> Vec<f64> {
        let d = x.len();
        if !self.two_layers {
            return affine(fast, x, d);
        }
        let (first, second) = fast.split_at((d + 1) * 4 * d);
        let hidden = affine(first, x, 4 * d);
        affine(second, &hidden.into_iter().map(gelu).collect::<Vec<_>>(), d)
    }

    fn normed(&self, z: &[f64]) -> Vec<f64> {
        normed(z, &self.ln_scale, &self.ln_bias, self.ln_eps)
    }

    /// `1/2 ||LN(f(k)) - (v - k)||^2`.
    fn loss(&self, fast: &[f64], k: &[f64], v: &[f64]) -> f64 {
        let found = self.normed(&self.apply(fast, k));
        let error = found.iter().zip(v).zip(k).map(|((o, v), k)| o - (v - k));
        error.map(|e| e * e).sum::<f64>() / 2.0
    }

    /// Gradient of the loss at the mini-batch's start, by central differences.
    fn gradient(&self, k: &[f64], v: &[f64]) -> Vec<f64> {
        const STEP: f64 = 1e-5;
        let mut fast = self.fast.clone();
        let slope = |i: usize| {
            let at = fast[i];
            fast[i] = at + STEP;
            let above = self.loss(&fast, k, v);
            fast[i] = at - STEP;
            let below = self.loss(&fast, k, v);
            fast[i] = at;
            (above - below) / (2.0 * STEP)
        };
        (0..self.fast.len()).map(slope).collect()
    }
}

/// `x W + u` of weights `W`, inputs first, then `u`.
fn affine(weights: &[f64], x: &[f64], width: usize) -> Vec<f64> {
    let (w, u) = weights.split_at(x.len() * width);
    let mut out = u.to_vec();
    for (x, row) in x.iter().zip(w.chunks(width)) {
        axpy(&mut out, *x, row);
    }
    out
}

/// Layer norm.
pub fn normed(z: &[f64], scale: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let n = z.len() as f64;
    let mean = z.iter().sum::<f64>() / n;
    let variance = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / n;
    let affine = z.iter().zip(scale).zip(bias);
    affine
        .map(|((z, scale), bias)| (z - mean) / (variance + eps).sqrt() * scale + bias)
        .collect()
}

pub fn gelu(x: f64) -> f64 {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    0.5 * x * (1.0 + (c * (x + 0.044715 * x.powi(3))).tanh())
}

/// The delta rule with one matrix, token by token.
pub fn lite(layer: &Layer<'_>, x: &Rows) -> Rows {
    let config = layer.oracle.config;
    let features = layer.project(Role::Down, x);
    let m = features[0].len();
    let decay = if layer.record.decay {
        layer.tensor(Role::Decay)[0]
    } else {
        0.0
    };
    let mut w = vec![0.0; m * m];
    let mut outputs = Vec::new();
    for (t, f) in features.iter().enumerate() {
        let norm = dot(f, f).sqrt() + 1e-6;
        let f: Vec<f64> = f.iter().map(|f| f / norm).collect();
        let p = times(&w, &f);
        if (t + 1) % usize::from(config.mini_batch) == 0 {
            w.iter_mut().for_each(|w| *w *= 1.0 - decay);
        }
        for (row, (p, own)) in w.chunks_mut(m).zip(p.iter().zip(&f)) {
            axpy(row, -f64::from(config.ttt_base_lr) * (p - own), &f);
        }
        outputs.push(p);
    }
    layer.project(Role::Up, &outputs)
}
