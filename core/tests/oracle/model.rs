//! A whole model in f64.

use crate::{Activation, Blueprint, Config, LayerConfig, Mixer, Role, TensorData, ttt};

/// A vector a token.
pub type Rows = Vec<Vec<f64>>;

/// A model by its definition.
pub struct Oracle<'a> {
    pub config: &'a Config,
    blueprint: &'a Blueprint,
}

/// One layer of it.
pub struct Layer<'a> {
    pub oracle: &'a Oracle<'a>,
    pub record: LayerConfig,
    index: u32,
}

impl<'a> Oracle<'a> {
    pub fn new(blueprint: &'a Blueprint) -> Self {
        Self {
            config: &blueprint.config,
            blueprint,
        }
    }

    fn tensor(&self, layer: Option<u32>, role: Role) -> Vec<f64> {
        match self.blueprint.tensors.get(&(layer, role)) {
            Some(TensorData::F32(values)) => values.iter().map(|&x| f64::from(x)).collect(),
            other => panic!("{role:?}: {other:?}"),
        }
    }

    /// Logits after each token.
    pub fn logits(&self, tokens: &[u32]) -> Rows {
        let d = self.config.d_model as usize;
        let embed = self.tensor(None, Role::Embed);
        let mut h: Rows = tokens
            .iter()
            .map(|&t| embed[t as usize * d..][..d].to_vec())
            .collect();
        for (&record, index) in self.blueprint.layers.iter().zip(0..) {
            let layer = Layer {
                oracle: self,
                record,
                index,
            };
            if record.pre_conv {
                let normed = self.normed(&h, &layer.tensor(Role::PreNorm));
                add(
                    &mut h,
                    &layer.conv_biased(&normed, Role::PreConv, Role::PreConvBias),
                );
            }
            let normed = self.normed(&h, &layer.tensor(Role::MixerNorm));
            add(&mut h, &layer.mix(normed));
            let mut normed = self.normed(&h, &layer.tensor(Role::FfnNorm));
            if record.ffn_conv {
                normed = layer.conv(&normed, Role::FfnConv);
            }
            add(&mut h, &layer.feed_forward(&normed));
        }
        let normed = self.normed(&h, &self.tensor(None, Role::Norm));
        let head = self.tensor(None, Role::Head);
        normed.iter().map(|x| times(&head, x)).collect()
    }

    fn normed(&self, rows: &Rows, gain: &[f64]) -> Rows {
        let eps = f64::from(self.config.norm_eps);
        let normed = |x: &Vec<f64>| {
            let mean = dot(x, x) / x.len() as f64;
            let each = x.iter().zip(gain);
            each.map(|(x, g)| x / (mean + eps).sqrt() * g).collect()
        };
        rows.iter().map(normed).collect()
    }
}

impl Layer<'_> {
    pub fn tensor(&self, role: Role) -> Vec<f64> {
        self.oracle.tensor(Some(self.index), role)
    }

    pub fn project(&self, role: Role, rows: &Rows) -> Rows {
        let matrix = self.tensor(role);
        rows.iter().map(|x| times(&matrix, x)).collect()
    }

    fn mix(&self, x: Rows) -> Rows {
        let x = match self.record.conv {
            true => self.conv(&x, Role::Conv),
            false => x,
        };
        if self.record.mixer == Mixer::TttLite {
            return ttt::lite(self, &x);
        }
        let mut y = match self.record.mixer {
            Mixer::Attention => self.attention(&x),
            _ => ttt::heads(self, &x),
        };
        if self.record.layer_norm {
            let (gain, bias) = (self.tensor(Role::OutNorm), self.tensor(Role::OutNormBias));
            let eps = f64::from(self.oracle.config.ln_eps);
            y = y
                .iter()
                .map(|y| ttt::normed(y, &gain, &bias, eps))
                .collect();
        } else if !self.record.plain {
            y = self.oracle.normed(&y, &self.tensor(Role::OutNorm));
        }
        if self.record.gate {
            let gates = self.project(Role::Gate, &x);
            for (y, g) in y.iter_mut().flatten().zip(gates.iter().flatten()) {
                *y *= match self.record.gelu_gate {
                    true => ttt::gelu(*g),
                    false => silu(*g),
                };
            }
        }
        self.project(Role::Output, &y)
    }

    fn conv(&self, x: &Rows, taps: Role) -> Rows {
        let taps = self.tensor(taps);
        let d = x[0].len();
        let at = |t: usize, c: usize, tap: usize| match (t + tap).checked_sub(3) {
            Some(before) => taps[tap * d + c] * x[before][c],
            None => 0.0,
        };
        let row = |t| {
            (0..d)
                .map(|c| (0..4).map(|tap| at(t, c, tap)).sum())
                .collect()
        };
        (0..x.len()).map(row).collect()
    }

    pub fn conv_biased(&self, x: &Rows, taps: Role, bias: Role) -> Rows {
        let mut rows = self.conv(x, taps);
        let bias = self.tensor(bias);
        rows.iter_mut().for_each(|row| axpy(row, 1.0, &bias));
        rows
    }

    fn attention(&self, x: &Rows) -> Rows {
        let (d, heads) = (
            self.oracle.config.d_head() as usize,
            self.oracle.config.n_heads,
        );
        let group = usize::from(heads / self.record.kv_heads);
        let window = match self.record.window {
            0 => usize::MAX,
            window => window as usize,
        };
        let theta = f64::from(self.oracle.config.rope_theta);
        let rotated = |role| {
            let mut rows = self.project(role, x);
            for (t, row) in rows.iter_mut().enumerate() {
                row.chunks_mut(d).for_each(|head| rotate(head, t, theta));
            }
            rows
        };
        let (q, k) = (rotated(Role::Query), rotated(Role::Key));
        let v = self.project(Role::Value, x);
        let head = |t: usize, h: usize| {
            let of = |rows: &Rows, t: usize, h: usize| rows[t][h * d..(h + 1) * d].to_vec();
            let seen: Vec<usize> = (0..=t).filter(|j| t - j < window).collect();
            let score = |&j: &usize| dot(&of(&q, t, h), &of(&k, j, h / group)) / (d as f64).sqrt();
            let weights: Vec<f64> = seen.iter().map(|j| score(j).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut out = vec![0.0; d];
            for (&j, weight) in seen.iter().zip(&weights) {
                axpy(&mut out, weight / total, &of(&v, j, h / group));
            }
            out
        };
        let row = |t| (0..usize::from(heads)).flat_map(|h| head(t, h)).collect();
        (0..x.len()).map(row).collect()
    }

    fn feed_forward(&self, x: &Rows) -> Rows {
        let (mut gate, up) = (self.project(Role::FfnGate, x), self.project(Role::FfnUp, x));
        for (g, u) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
            *g = match self.oracle.config.activation {
                Activation::Silu => silu(*g) * u,
                Activation::Relu2 => g.max(0.0).powi(2) * u,
            };
        }
        if !self.record.plain {
            gate = self.oracle.normed(&gate, &self.tensor(Role::FfnSubNorm));
        }
        self.project(Role::FfnDown, &gate)
    }
}

/// Rotary position: adjacent pairs turn by `position * theta^(-2j / d)`.
pub fn rotate(head: &mut [f64], position: usize, theta: f64) {
    let d = head.len() as f64;
    for (j, pair) in head.chunks_mut(2).enumerate() {
        let (sin, cos) = (position as f64 * theta.powf(-2.0 * j as f64 / d)).sin_cos();
        let (a, b) = (pair[0], pair[1]);
        (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
    }
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub fn axpy(y: &mut [f64], s: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += s * x);
}

/// A matrix, outputs first, times a vector.
pub fn times(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks(x.len()).map(|row| dot(row, x)).collect()
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

fn add(h: &mut Rows, x: &Rows) {
    for (h, x) in h.iter_mut().zip(x) {
        axpy(h, 1.0, x);
    }
}
