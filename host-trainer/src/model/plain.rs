//! The same model as an ordinary Candle graph, differentiated by Candle: what the fused operations are tested against, and
//! what `bench-train --graph plain` compares their speed with.
//!
//! It is written as one would write it in Candle for speed: the dual form of TTT-Linear, with a few batched products for
//! each mini-batch over all rows and heads, and nothing token by token.

use std::collections::HashMap;

use anyhow::ensure;
use candle_core::{D, DType, Device, Result, Tensor, Var};

use crate::config::{Activation, FastStart, InnerRate, Mixer, ModelConfig, WeightType};

/// A model whose blocks are all TTT-Linear with ternary weights.
pub struct PlainModel {
    config: ModelConfig,
    weights: HashMap<String, Tensor>,
    /// Cosines and sines of the places in a mini-batch, `[b, d / 2, 1]`.
    rope: [Tensor; 2],
}

impl PlainModel {
    /// The model over trainable variables on the CPU.
    ///
    /// # Errors
    /// When a block is not TTT-Linear, or its weights are not ternary.
    pub fn from_vars(config: &ModelConfig, vars: &[(String, Var)]) -> anyhow::Result<Self> {
        let linear = (0..config.n_layers).all(|l| config.mixer_of(l) == Mixer::TttLinear);
        ensure!(
            linear && config.weights == WeightType::Ternary,
            "the plain graph is for ternary ttt-linear; leave out --graph plain"
        );
        let (b, half) = (config.mini_batch, config.d_head() / 2);
        let theta = f64::from(config.rope_theta);
        let angle = |i: usize, j: usize| i as f64 * theta.powf(-(j as f64) / half as f64);
        let angles: Vec<f32> = (0..b * half)
            .map(|at| angle(at / half, at % half) as f32)
            .collect();
        let angles = Tensor::from_vec(angles, (b, half, 1), &Device::Cpu)?;
        Ok(Self {
            config: config.clone(),
            weights: vars
                .iter()
                .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
                .collect(),
            rope: [angles.cos()?, angles.sin()?],
        })
    }

    /// Logits `[B, T, V]` for `tokens [B, T]` (u32).
    ///
    /// # Errors
    /// When a token is out of range.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let (c, embed) = (&self.config, int8_rows(&self.weights["embed.weight"])?);
        let (b, t) = tokens.dims2()?;
        let mut h = embed
            .index_select(&tokens.flatten_all()?, 0)?
            .reshape((b, t, c.d_model))?;
        for l in 0..c.n_layers {
            let get = |name: &str| &self.weights[&format!("layers.{l}.{name}")];
            h = (&h + self.mix(&norm(&h, get("mixer_norm.weight"), c.norm_eps)?, &get)?)?;
            h = (&h + self.ffn(&norm(&h, get("ffn_norm.weight"), c.norm_eps)?, &get)?)?;
        }
        let h = norm(&h, &self.weights["norm.weight"], c.norm_eps)?;
        let head = match c.tie_embeddings {
            true => embed,
            false => int8_rows(&self.weights["head.weight"])?,
        };
        rounded(&h)?.broadcast_matmul(&head.t()?)
    }

    fn ffn<'a>(&self, x: &Tensor, get: &impl Fn(&str) -> &'a Tensor) -> Result<Tensor> {
        let c = &self.config;
        let x = match c.ffn_conv {
            true => conv(x, get("ffn.conv.weight"))?,
            false => x.clone(),
        };
        let x = rounded(&x)?;
        let gate = product(&x, get("ffn.gate.weight"))?;
        let gate = match c.activation {
            Activation::Silu => gate.silu()?,
            Activation::Relu2 => gate.relu()?.sqr()?,
        };
        let m = (gate * product(&x, get("ffn.up.weight"))?)?;
        let m = norm(&m, get("ffn.sub_norm.weight"), c.norm_eps)?;
        product(&rounded(&m)?, get("ffn.down.weight"))
    }

    fn mix<'a>(&self, x: &Tensor, get: &impl Fn(&str) -> &'a Tensor) -> Result<Tensor> {
        let c = &self.config;
        let x = match c.conv {
            true => conv(x, get("mixer.conv.weight"))?,
            false => x.clone(),
        };
        let codes = rounded(&x)?;
        let [q, k, v] = ["q", "k", "v"]
            .map(|name| self.heads(&product(&codes, get(&format!("mixer.{name}.weight")))?));
        let (b, t, _) = x.dims3()?;
        let rates = match c.inner_rate {
            InnerRate::Token => x
                .broadcast_matmul(&get("mixer.lr.weight").t()?)?
                .broadcast_add(get("mixer.lr.bias"))?,
            InnerRate::Head => get("mixer.lr.bias")
                .broadcast_as((b, t, c.n_heads))?
                .contiguous()?,
        };
        let rates = (sigmoid(&rates)? * f64::from(c.ttt_base_lr / c.d_head() as f32))?;
        let rates = rates.transpose(1, 2)?.contiguous()?; // [B, H, T]
        let y = self.ttt([&q?, &k?, &v?], &rates, get)?;
        let y = y.transpose(1, 2)?.reshape((b, t, c.d_model))?;
        let mut y = norm(&y, get("mixer.out_norm.weight"), c.norm_eps)?;
        if c.gate {
            y = (y * product(&codes, get("mixer.gate.weight"))?.silu()?)?;
        }
        product(&rounded(&y)?, get("mixer.o.weight"))
    }

    /// `[B, H, T, d]` from `[B, T, D]`.
    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        let split = x.reshape((b, t, self.config.n_heads, self.config.d_head()))?;
        split.transpose(1, 2)?.contiguous()
    }

    /// TTT-Linear over whole rows, mini-batch by mini-batch: `[B, H, T, d]`.
    fn ttt<'a>(
        &self,
        [q, k, v]: [&Tensor; 3],
        rates: &Tensor,
        get: &impl Fn(&str) -> &'a Tensor,
    ) -> Result<Tensor> {
        let c = &self.config;
        let (h, d, b) = (c.n_heads, c.d_head(), c.mini_batch);
        let tokens = q.dim(2)?;
        let of_head = |t: &Tensor| t.reshape((1, h, 1, d));
        let ln = [
            of_head(get("mixer.ln.weight"))?,
            of_head(get("mixer.ln.bias"))?,
        ];
        let (w0, u0) = match c.fast_start {
            FastStart::Learned => (halves(get("mixer.w0"))?, halves(get("mixer.u0"))?),
            FastStart::Identity => (
                Tensor::eye(d, DType::F32, &Device::Cpu)?
                    .broadcast_as((h, d, d))?
                    .contiguous()?,
                Tensor::zeros((h, d), DType::F32, &Device::Cpu)?,
            ),
        };
        let (w0, u0) = (w0.unsqueeze(0)?, u0.reshape((1, h, 1, d))?);
        let keep = match c.anchor_decay {
            true => Some((1.0 - sigmoid(get("mixer.decay"))?)?.reshape((1, h, 1, 1))?),
            false => None,
        };
        let flat: Vec<f32> = (0..b).map(|i| 1.0 / (i + 1) as f32).collect();
        let tau = (Tensor::new(flat, &Device::Cpu)? + get("mixer.tau.bias"))?.relu()?;
        let mask = Tensor::tril2(b, DType::F32, &Device::Cpu)?;
        let [mut w, mut u] = [&w0, &u0].map(Clone::clone);
        let mut out = Vec::new();
        for start in (0..tokens).step_by(b) {
            let n = b.min(tokens - start);
            let cut = |t: &Tensor| t.narrow(2, start, n)?.contiguous();
            let (q, k, v) = (self.rotate(&cut(q)?)?, self.rotate(&cut(k)?)?, cut(v)?);
            let lr = cut(rates)?.unsqueeze(2)?; // [B, H, 1, n]
            let z = k.broadcast_matmul(&w)?.broadcast_add(&u)?;
            let (x, root) = normalised(&z)?;
            let target = (&v - &k)?;
            let error = (x.broadcast_mul(&ln[0])?.broadcast_add(&ln[1])? - target)?;
            let p = error.broadcast_mul(&ln[0])?;
            let along = (&p * &x)?.mean_keepdim(D::Minus1)?;
            let centred = p.broadcast_sub(&p.mean_keepdim(D::Minus1)?)?;
            let g = (centred - x.broadcast_mul(&along)?)?.broadcast_div(&root)?;
            let open = mask.narrow(0, 0, n)?.narrow(1, 0, n)?;
            let steps = open.broadcast_mul(&tau.narrow(0, 0, n)?.unsqueeze(1)?)?;
            let steps = lr.broadcast_mul(&steps)?;
            let attention = ((q.matmul(&k.transpose(2, 3)?)? + 1.0)? * steps)?;
            let y = q.broadcast_matmul(&w)?.broadcast_add(&u)?;
            let (y, _) = normalised(&(y - attention.matmul(&g)?)?)?;
            out.push((q + y.broadcast_mul(&ln[0])?.broadcast_add(&ln[1])?)?);
            if n == b && start + n < tokens {
                if let Some(keep) = &keep {
                    w = w0.broadcast_add(&w.broadcast_sub(&w0)?.broadcast_mul(keep)?)?;
                    u = u0.broadcast_add(&u.broadcast_sub(&u0)?.broadcast_mul(keep)?)?;
                }
                let last = tau.narrow(0, b - 1, 1)?;
                let scaled = g.broadcast_mul(&lr.broadcast_mul(&last)?.transpose(2, 3)?)?;
                w = w.broadcast_sub(&k.transpose(2, 3)?.matmul(&scaled)?)?;
                u = u.broadcast_sub(&scaled.sum_keepdim(2)?)?;
            }
        }
        Tensor::cat(&out, 2)
    }

    /// Turns adjacent pairs of `x [B, H, n, d]` by the angles of places `0..n`.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, n, d) = x.dims4()?;
        let pairs = x.reshape((b, h, n, d / 2, 2))?;
        let (even, odd) = (pairs.narrow(4, 0, 1)?, pairs.narrow(4, 1, 1)?);
        let [cos, sin] = [self.rope[0].narrow(0, 0, n)?, self.rope[1].narrow(0, 0, n)?];
        let first = (even.broadcast_mul(&cos)? - odd.broadcast_mul(&sin)?)?;
        let second = (even.broadcast_mul(&sin)? + odd.broadcast_mul(&cos)?)?;
        Tensor::cat(&[first, second], 4)?.reshape((b, h, n, d))
    }
}

/// Mean cross-entropy of `logits [B, T, V]`.
///
/// # Errors
/// When the shapes disagree.
pub fn mean_loss(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let rows = logits.flatten_to(1)?;
    let largest = rows.max_keepdim(1)?.detach();
    let terms = rows.broadcast_sub(&largest)?.exp()?.sum_keepdim(1)?;
    let all = (terms.log()? + largest)?;
    let targets = Tensor::new(targets, &Device::Cpu)?.unsqueeze(1)?;
    (all - rows.gather(&targets, 1)?)?.mean_all()
}

/// `(z - mean) / sqrt(var + 1e-6)` over the last dimension, and that root.
fn normalised(z: &Tensor) -> Result<(Tensor, Tensor)> {
    let centred = z.broadcast_sub(&z.mean_keepdim(D::Minus1)?)?;
    let root = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-6)?.sqrt()?;
    Ok((centred.broadcast_div(&root)?, root))
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// `x / sqrt(mean(x^2) + eps) * gain`.
pub fn norm(x: &Tensor, gain: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let root = (mean + f64::from(eps))?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(gain)
}

/// Causal convolution with `taps [4, D]` over `x [B, T, D]`.
pub fn conv(x: &Tensor, taps: &Tensor) -> Result<Tensor> {
    let tokens = x.dim(1)?;
    let padded = x.pad_with_zeros(1, 3, 0)?;
    let tap = |j| padded.narrow(1, j, tokens)?.broadcast_mul(&taps.get(j)?);
    ((tap(0)? + tap(1)?)? + tap(2)?)? + tap(3)?
}

/// A value that is `hard` forward and passes its gradient to `soft`: the straight-through estimator.
pub fn straight_through(soft: &Tensor, hard: &Tensor) -> Result<Tensor> {
    (hard.detach() - soft.detach())? + soft
}

/// Rows after rounding to 8 bits.
pub fn rounded(x: &Tensor) -> Result<Tensor> {
    let a = x.abs()?.max_keepdim(D::Minus1)?;
    let factor = (a.recip()? * 127.0)?;
    let q = x.broadcast_mul(&factor)?.round()?;
    straight_through(x, &q.broadcast_div(&factor)?)
}

/// Embedding rows after rounding to 8 bits; unlike [`rounded`], rows of zeros stay zeros.
fn int8_rows(w: &Tensor) -> Result<Tensor> {
    let scale = ((w.abs()?.max_keepdim(D::Minus1)? + 1e-30)? / 127.0)?;
    straight_through(w, &w.broadcast_div(&scale)?.round()?.broadcast_mul(&scale)?)
}

/// Weights after absmean ternarisation.
pub fn ternarised(w: &Tensor) -> Result<Tensor> {
    let s = w.abs()?.mean_all()?;
    let t = w.broadcast_div(&s)?.round()?.clamp(-1f32, 1f32)?;
    straight_through(w, &t.broadcast_mul(&s)?)
}

/// Values after rounding to binary16.
fn halves(w: &Tensor) -> Result<Tensor> {
    straight_through(w, &w.to_dtype(DType::F16)?.to_dtype(DType::F32)?)
}

/// Rounded `x [.., K]` times ternarised `w [M, K]`.
fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.broadcast_matmul(&ternarised(w)?.t()?)
}
