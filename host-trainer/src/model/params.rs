//! Names, shapes and first values of the learned tensors, in one table.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use candle_core::{Device, Tensor, Var};

use crate::config::{FastStart, InnerRate, Mixer, ModelConfig};
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
    /// Normal with this deviation, and the same values as the tensor before.
    Alike(f32),
    /// Every value the same.
    Constant(f32),
    /// The last so many of the convolution's taps are 1, the others 0, plus noise. Before a mixer two: a key holds what
    /// stood before its value from the first step on. Before the feed-forward network one, this token's.
    Taps(usize),
    /// `tau = 1 / (i + 1) + c` is [`FIRST_TAU`] for every token of a mini-batch.
    Tau,
    /// Decays of heads whose memory lies geometrically between [`SHORTEST`] and so many mini-batches.
    Memories(f32),
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

    /// The block and the name within it, without `.weight`, of a matrix that is quantised as `model.weights` says.
    pub fn matrix(&self) -> Option<(usize, &str)> {
        let (layer, name) = self.name.strip_prefix("layers.")?.split_once('.')?;
        let name = name.strip_suffix(".weight")?;
        self.decays().then_some((layer.parse().ok()?, name))
    }

    fn is_small(&self) -> bool {
        ["mixer.conv.", "mixer.ln.", "mixer.lr.", "ffn.conv."]
            .iter()
            .any(|part| self.name.contains(part))
    }
}

/// All tensors of a model, in the order of the data's way through it.
pub fn specs(c: &ModelConfig) -> Vec<Spec> {
    let (v, d) = (c.vocab_size, c.d_model);
    let mut all = vec![Spec::new("embed.weight", &[v, d], Start::Normal(0.1))];
    for l in 0..c.n_layers {
        all.extend(block(c, c.mixer_of(l)).into_iter().map(|spec| Spec {
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

/// Deviation 1/sqrt(fan-in) keeps the scale of the stream.
fn wide(fan_in: usize) -> Start {
    Start::Normal(root(fan_in))
}

fn root(fan_in: usize) -> f32 {
    (fan_in as f32).powf(-0.5)
}

/// The two matrices of a block that write to the stream start smaller, so that its variance does not grow with depth
/// (GPT-2, section 2.3).
fn out(c: &ModelConfig, fan_in: usize) -> Start {
    Start::Normal((2.0 * fan_in as f32 * c.n_layers as f32).powf(-0.5))
}

const ONE: Start = Start::Constant(1.0);
const ZERO: Start = Start::Constant(0.0);
/// First fast weights of TTT-Linear, as in the reference. TTT-MLP starts with 1/sqrt(fan-in) instead: with 0.02 in
/// both layers, what leaves the second is so small that the inner layer norm's gradients overshoot. Measured on the
/// built-in corpus after 400 steps: held-out loss 0.96 against 1.01.
const FLAT: Start = Start::Normal(0.02);
/// sigmoid(-5.3) = 0.005: a memory of about 200 mini-batches.
const DECAY: Start = Start::Constant(-5.3);
/// Mini-batches that the quickest head remembers where memories are spread.
const SHORTEST: f32 = 32.0;

fn block(c: &ModelConfig, mixer: Mixer) -> Vec<Spec> {
    let (d, f) = (c.d_model, c.d_ffn);
    let mut all = vec![Spec::new("mixer_norm.weight", &[d], ONE)];
    if c.conv {
        all.push(Spec::new(
            "mixer.conv.weight",
            &[conv::WIDTH, d],
            Start::Taps(2),
        ));
    }
    match mixer {
        Mixer::TttLite => all.extend(lite(c)),
        _ => all.extend(heads(c, mixer)),
    }
    if c.ffn_conv {
        all.push(Spec::new(
            "ffn.conv.weight",
            &[conv::WIDTH, d],
            Start::Taps(1),
        ));
    }
    all.extend([
        Spec::new("ffn_norm.weight", &[d], ONE),
        Spec::new("ffn.gate.weight", &[f, d], wide(d)),
        Spec::new("ffn.up.weight", &[f, d], wide(d)),
        Spec::new("ffn.sub_norm.weight", &[f], ONE),
        Spec::new("ffn.down.weight", &[d, f], out(c, f)),
    ]);
    all
}

/// Mixers with queries, keys and values.
fn heads(c: &ModelConfig, mixer: Mixer) -> Vec<Spec> {
    let d = c.d_model;
    // In TTT, queries and keys start as the same projection: a token finds its like at once, which saves the many
    // steps that two random projections need to meet; in the reference they even stay one (Sun et al. 2024,
    // `share_qk`). Attention that starts so looks at the present token only, whose key is the most alike. Measured on
    // the built-in corpus after 400 steps: held-out loss 1.04 against 0.87 from two projections.
    let (kv, key) = match mixer {
        Mixer::Attention => (c.n_kv_heads() * c.d_head(), wide(d)),
        _ => (d, Start::Alike(root(d))),
    };
    let mut all: Vec<Spec> = [("q", d, wide(d)), ("k", kv, key), ("v", kv, wide(d))]
        .map(|(name, rows, start)| Spec::new(format!("mixer.{name}.weight"), &[rows, d], start))
        .into();
    if c.gates(mixer) {
        all.push(Spec::new("mixer.gate.weight", &[d, d], wide(d)));
    }
    all.extend(match mixer {
        Mixer::TttLinear => ttt(c, &[([c.d_head(), c.d_head()], FLAT)]),
        Mixer::TttMlp => ttt(
            c,
            &[
                ([c.d_head(), 4 * c.d_head()], wide(c.d_head())),
                ([4 * c.d_head(), c.d_head()], wide(4 * c.d_head())),
            ],
        ),
        Mixer::TttLite | Mixer::Attention => Vec::new(),
    });
    all.push(Spec::new("mixer.out_norm.weight", &[d], ONE));
    all.push(Spec::new("mixer.o.weight", &[d, d], out(c, d)));
    all
}

/// What learns in the stream, with fast layers of these inputs and outputs.
fn ttt(c: &ModelConfig, layers: &[([usize; 2], Start)]) -> Vec<Spec> {
    let (d, h, dh) = (c.d_model, c.n_heads, c.d_head());
    let mut all = Vec::new();
    if c.inner_rate == InnerRate::Token {
        all.push(Spec::new("mixer.lr.weight", &[h, d], Start::Normal(0.02)));
    }
    all.extend([
        Spec::new("mixer.lr.bias", &[h], ZERO),
        Spec::new("mixer.tau.bias", &[c.mini_batch], Start::Tau),
        Spec::new("mixer.ln.weight", &[h, dh], ONE),
        Spec::new("mixer.ln.bias", &[h, dh], ZERO),
    ]);
    let stored = c.fast_start == FastStart::Learned;
    for (l, &([input, output], start)) in layers.iter().enumerate().filter(|_| stored) {
        let (w, u) = (format!("mixer.w{l}"), format!("mixer.u{l}"));
        all.push(Spec::new(w, &[h, input, output], start));
        all.push(Spec::new(u, &[h, output], ZERO));
    }
    all.push(Spec::new(
        "mixer.decay",
        &[h],
        match c.memory {
            0 => DECAY,
            tokens => Start::Memories(tokens as f32 / c.mini_batch as f32),
        },
    ));
    all
}

/// One matrix of `m` rows that learns by the delta rule has, after `m` different tokens, become the identity, which
/// says nothing of them: it starts with a memory of a few mini-batches. What `up` gets has length 1, not `sqrt(m)`.
/// Measured on the built-in corpus after 400 steps: held-out loss 1.045 against 1.071 from the other mixers' starts.
fn lite(c: &ModelConfig) -> [Spec; 3] {
    let (d, m) = (c.d_model, c.d_model / 4);
    [
        Spec::new("mixer.down.weight", &[m, d], wide(d)),
        Spec::new("mixer.decay", &[1], ZERO),
        Spec::new("mixer.up.weight", &[d, m], out(c, 1)),
    ]
}

/// Fresh variables for a model, by seed.
///
/// # Errors
/// When a tensor cannot be made.
pub fn init(config: &ModelConfig, seed: u64) -> anyhow::Result<Vec<(String, Var)>> {
    let var = |(i, spec): (usize, &Spec)| {
        let stream = i - usize::from(matches!(spec.start, Start::Alike(_)));
        let values = first_values(spec, &mut Rng::new(seed, stream as u64));
        let tensor = Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)?;
        Ok((spec.name.clone(), Var::from_tensor(&tensor)?))
    };
    specs(config).iter().enumerate().map(var).collect()
}

/// The variables on another device; on their own they are not copied.
///
/// # Errors
/// When the device has too little memory.
pub fn to_device(vars: Vec<(String, Var)>, device: &Device) -> anyhow::Result<Vec<(String, Var)>> {
    if device.is_cpu() {
        return Ok(vars);
    }
    let moved = |(name, var): (String, Var)| {
        let tensor = var.as_tensor().to_device(device)?;
        Ok((name, Var::from_tensor(&tensor)?))
    };
    vars.into_iter().map(moved).collect()
}

fn first_values(spec: &Spec, rng: &mut Rng) -> Vec<f32> {
    let len: usize = spec.shape.iter().product();
    let width = spec.shape.last().copied().unwrap_or(len);
    let value = |i: usize| match spec.start {
        Start::Constant(value) => value,
        Start::Normal(deviation) | Start::Alike(deviation) => deviation * rng.normal(),
        Start::Taps(ones) if i >= len.saturating_sub(ones * width) => 1.0 + 0.1 * rng.normal(),
        Start::Taps(_) => 0.1 * rng.normal(),
        Start::Memories(longest) => {
            let share = if len == 1 {
                1.0
            } else {
                i as f32 / (len - 1) as f32
            };
            let memory = longest * (SHORTEST / longest).powf(1.0 - share);
            -(memory - 1.0).ln()
        }
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
