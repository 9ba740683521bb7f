//! The first half of a block: what mixes information over time.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::carry::{BlockCarry, convolve};
use super::linear::Linear;
use crate::config::{self, FastStart, InnerRate, KvCache, ModelConfig};
use crate::ops::attention::{self, attention};
use crate::ops::inner_loss::InnerLoss;
use crate::ops::lite::{self, ttt_lite};
use crate::ops::norm::{gated_norm, rms_norm};
use crate::ops::ttt::{self, FastState, Inner, Learned, ttt, ttt_segment};

/// A mixer of any kind, with the convolution in front of it.
pub struct Mixer {
    conv: Option<Tensor>,
    kind: Kind,
}

enum Kind {
    Heads(Heads),
    Lite(Lite),
}

/// Queries, keys and values per head; then norm, gate and output projection.
struct Heads {
    linear: Linear,
    memory: Memory,
    qkv: [Tensor; 3],
    gate: Option<Tensor>,
    out_norm: Tensor,
    o: Tensor,
    eps: f32,
}

/// What remembers keys and values.
enum Memory {
    Ttt(Ttt),
    Attention(attention::Settings),
}

struct Ttt {
    settings: ttt::Settings,
    /// Absent where the rate is the head's alone.
    lr_weight: Option<Tensor>,
    lr_bias: Tensor,
    tau: Tensor,
    ln_weight: Tensor,
    ln_bias: Tensor,
    start: Vec<[Tensor; 2]>,
    decay: Tensor,
}

struct Lite {
    linear: Linear,
    settings: lite::Settings,
    down: Tensor,
    up: Tensor,
    decay: Tensor,
}

impl Mixer {
    /// The mixer of block `layer`; `get` finds a tensor of that block by its name.
    pub fn load(config: &ModelConfig, layer: usize, get: &dyn Fn(&str) -> Tensor) -> Result<Self> {
        let mixer = config.mixer_of(layer);
        let memory = match mixer {
            config::Mixer::TttLite => None,
            config::Mixer::TttLinear => Some(Memory::Ttt(Ttt::load(config, Inner::Linear, get)?)),
            config::Mixer::TttMlp => Some(Memory::Ttt(Ttt::load(config, Inner::Mlp, get)?)),
            config::Mixer::Attention => Some(Memory::Attention(attention::Settings {
                heads: config.n_heads,
                kv_heads: config.n_kv_heads(),
                d_head: config.d_head(),
                window: config.window,
                rope_theta: config.rope_theta,
                f16_cache: config.kv_cache == KvCache::F16,
            })),
        };
        Ok(Self {
            conv: config.conv.then(|| get("mixer.conv.weight")),
            kind: match memory {
                None => Kind::Lite(Lite::load(config, get)),
                Some(memory) => Kind::Heads(Heads {
                    linear: Linear(config.weights),
                    memory,
                    qkv: ["q", "k", "v"].map(|name| get(&format!("mixer.{name}.weight"))),
                    gate: config.gates(mixer).then(|| get("mixer.gate.weight")),
                    out_norm: get("mixer.out_norm.weight"),
                    o: get("mixer.o.weight"),
                    eps: config.norm_eps,
                }),
            },
        })
    }

    /// `[B, T, D]` from `[B, T, D]`; every row starts with a fresh state, or goes on from `carry`.
    pub(super) fn forward(&self, x: &Tensor, mut carry: Option<&mut BlockCarry>) -> Result<Tensor> {
        let x = self.convolve(x, carry.as_deref_mut().map(|c| &mut c.conv))?;
        match (&self.kind, carry) {
            (Kind::Heads(heads), carry) => heads.forward(&x, carry.map(|c| &mut c.fast)),
            (Kind::Lite(lite), None) => lite.forward(&x),
            (Kind::Lite(_), Some(_)) => bail!("ttt-lite carries nothing from segment to segment"),
        }
    }

    fn convolve(&self, x: &Tensor, carried: Option<&mut Option<Tensor>>) -> Result<Tensor> {
        match &self.conv {
            Some(taps) => convolve(x, taps, carried),
            None => Ok(x.clone()),
        }
    }

    /// What inner learning achieves on `x [B, T, D]`, whose rows have these lengths; none in attention.
    pub fn inner_loss(&self, x: &Tensor, lengths: &[usize]) -> Result<Option<InnerLoss>> {
        let x = self.convolve(x, None)?;
        match &self.kind {
            Kind::Heads(heads) => heads.inner_loss(&x, lengths),
            Kind::Lite(lite) => lite.inner_loss(&x, lengths).map(Some),
        }
    }

    /// Sets the inner base learning rate, where something learns.
    pub fn set_base_lr(&mut self, base_lr: f32) {
        match &mut self.kind {
            Kind::Heads(Heads {
                memory: Memory::Ttt(ttt),
                ..
            }) => ttt.settings.base_lr = base_lr,
            Kind::Heads(_) => {}
            Kind::Lite(lite) => lite.settings.lr = base_lr,
        }
    }
}

impl Heads {
    fn forward(&self, x: &Tensor, carried: Option<&mut Option<FastState>>) -> Result<Tensor> {
        let [q, k, v] = &self.qkv;
        let y = match &self.memory {
            Memory::Ttt(memory) => memory.forward(x, &self.qkv(x)?, carried)?,
            Memory::Attention(_) if carried.is_some() => {
                bail!("attention carries nothing from segment to segment")
            }
            Memory::Attention(settings) => {
                let kv = self.linear.apply(x, &Tensor::cat(&[k, v], 0)?, 2)?;
                attention(&self.linear.apply(x, q, 1)?, &kv, settings)?
            }
        };
        let y = match &self.gate {
            Some(gate) => gated_norm(
                &y,
                &self.out_norm,
                &self.linear.apply(x, gate, 1)?,
                self.eps,
            )?,
            None => rms_norm(&y, &self.out_norm, self.eps)?,
        };
        self.linear.apply(&y, &self.o, 1)
    }

    /// `[B, T, 3D]`.
    fn qkv(&self, x: &Tensor) -> Result<Tensor> {
        self.linear.apply(x, &Tensor::cat(&self.qkv, 0)?, 3)
    }

    fn inner_loss(&self, x: &Tensor, lengths: &[usize]) -> Result<Option<InnerLoss>> {
        match &self.memory {
            Memory::Ttt(memory) => memory.inner_loss(x, &self.qkv(x)?, lengths).map(Some),
            Memory::Attention(_) => Ok(None),
        }
    }
}

impl Ttt {
    fn load(config: &ModelConfig, inner: Inner, get: &dyn Fn(&str) -> Tensor) -> Result<Self> {
        let layers: &[[&str; 2]] = match inner {
            Inner::Linear => &[["mixer.w0", "mixer.u0"]],
            Inner::Mlp => &[["mixer.w0", "mixer.u0"], ["mixer.w1", "mixer.u1"]],
        };
        Ok(Self {
            settings: ttt::Settings {
                inner,
                heads: config.n_heads,
                d_head: config.d_head(),
                mini_batch: config.mini_batch,
                base_lr: config.ttt_base_lr,
                rope_theta: config.rope_theta,
                anchor_decay: config.anchor_decay,
            },
            lr_weight: match config.inner_rate {
                InnerRate::Token => Some(get("mixer.lr.weight")),
                InnerRate::Head => None,
            },
            lr_bias: get("mixer.lr.bias"),
            tau: get("mixer.tau.bias"),
            ln_weight: get("mixer.ln.weight"),
            ln_bias: get("mixer.ln.bias"),
            start: match config.fast_start {
                FastStart::Learned => layers.iter().map(|names| names.map(get)).collect(),
                FastStart::Identity => vec![identity(config, get("mixer.ln.bias").device())?],
            },
            decay: get("mixer.decay"),
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        qkv: &Tensor,
        carried: Option<&mut Option<FastState>>,
    ) -> Result<Tensor> {
        let (rates, learned) = (self.inner_rates(x)?, self.learned());
        let Some(carried) = carried else {
            return ttt(qkv, &rates, &learned, &self.settings);
        };
        let before = carried.take();
        let (out, left) = ttt_segment(qkv, &rates, &learned, &self.settings, before.as_ref())?;
        *carried = Some(left);
        Ok(out)
    }

    fn inner_loss(&self, x: &Tensor, qkv: &Tensor, lengths: &[usize]) -> Result<InnerLoss> {
        let rates = self.inner_rates(x)?;
        ttt::inner_loss(qkv, &rates, &self.learned(), &self.settings, lengths)
    }

    fn learned(&self) -> Learned<'_> {
        Learned {
            start: &self.start,
            ln_weight: &self.ln_weight,
            ln_bias: &self.ln_bias,
            decay: &self.decay,
            tau: &self.tau,
        }
    }

    /// Logits of the inner learning rates, `[B, T, H]`; not a BitLinear.
    fn inner_rates(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let Some(weight) = &self.lr_weight else {
            let heads = self.lr_bias.elem_count();
            return self.lr_bias.broadcast_as((b, t, heads))?.contiguous();
        };
        let flat = x.reshape((b * t, d))?.matmul(&weight.t()?)?;
        flat.broadcast_add(&self.lr_bias)?.reshape((b, t, ()))
    }
}

/// `W` and `u` of every head at the identity and zeros: `[H, d, d]` and `[H, d]`.
fn identity(config: &ModelConfig, device: &Device) -> Result<[Tensor; 2]> {
    let (h, d) = (config.n_heads, config.d_head());
    let one = Tensor::eye(d, DType::F32, device)?.reshape((1, d, d))?;
    Ok([
        one.repeat((h, 1, 1))?,
        Tensor::zeros((h, d), DType::F32, device)?,
    ])
}

impl Lite {
    fn load(config: &ModelConfig, get: &dyn Fn(&str) -> Tensor) -> Self {
        Self {
            linear: Linear(config.weights),
            settings: lite::Settings {
                mini_batch: config.mini_batch,
                lr: config.ttt_base_lr,
                anchor_decay: config.anchor_decay,
            },
            down: get("mixer.down.weight"),
            up: get("mixer.up.weight"),
            decay: get("mixer.decay"),
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let p = ttt_lite(
            &self.linear.apply(x, &self.down, 1)?,
            &self.decay,
            &self.settings,
        )?;
        self.linear.apply(&p, &self.up, 1)
    }

    fn inner_loss(&self, x: &Tensor, lengths: &[usize]) -> Result<InnerLoss> {
        let f = self.linear.apply(x, &self.down, 1)?;
        lite::inner_loss(&f, &self.decay, &self.settings, lengths)
    }
}
