//! Shape of a model.

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// Kind of token mixer, the first half of every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mixer {
    /// TTT-Linear of Sun et al. 2024 (arXiv 2407.04620), in its dual form.
    TttLinear,
    /// TTT-MLP of the same: what learns has a hidden layer of four times the head's width.
    TttMlp,
    /// One matrix of a quarter of the width that learns by the delta rule: the smallest.
    TttLite,
    /// Grouped-query attention with RoPE.
    Attention,
}

/// The name that a configuration uses.
impl std::fmt::Display for Mixer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TttLinear => "ttt-linear",
            Self::TttMlp => "ttt-mlp",
            Self::TttLite => "ttt-lite",
            Self::Attention => "attention",
        })
    }
}

/// Activation of the gated feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `x * sigmoid(x)` (SwiGLU).
    Silu,
    /// `max(0, x)^2` (as in BitNet b1.58 2B4T).
    Relu2,
}

/// Numbers of an attention layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvCache {
    /// binary16; training rounds keys and values the same way.
    F16,
    /// f32: exact, twice the memory.
    F32,
}

/// Where the fast weights of TTT start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FastStart {
    /// At learned values, which the blob stores.
    Learned,
    /// At the identity and zeros, which take no bytes. For TTT-Linear.
    Identity,
}

/// What the inner learning rate of TTT depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InnerRate {
    /// On head and token, by a learned projection.
    Token,
    /// On the head alone.
    Head,
}

/// Numbers that a block's matrices consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightType {
    /// -1, 0, 1 and a scale a matrix (BitNet b1.58).
    Ternary,
    /// -127 to 127 and a scale a row.
    Int8,
    /// -7 to 7 and a scale a row; a blob stores them as int8.
    Int4,
    /// f32, activations too.
    Float,
}

/// Shape of a model: everything that decides which tensors exist and how they are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Number of tokens, V. 0 in a file means "as many as the tokenizer has".
    pub vocab_size: usize,
    /// Width of the residual stream, D.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Heads of the mixer, H; each is `d_model / n_heads` wide.
    pub n_heads: usize,
    /// Hidden width of the feed-forward network, F.
    pub d_ffn: usize,
    /// Mixer of every block, where `mixers` is empty.
    pub mixer: Mixer,
    /// Mixers of a hybrid stack, first block first; begins again until every block has one.
    pub mixers: Vec<Mixer>,
    /// Heads of keys and values in attention; 0 for as many as `n_heads`.
    pub kv_heads: usize,
    /// Tokens that attention sees, the present one included; 0 for all.
    pub window: usize,
    /// Tokens of the cache of attention without a window; 0 for as many as the training's `context`.
    pub context: usize,
    /// Numbers in that cache.
    pub kv_cache: KvCache,
    /// Tokens of one inner mini-batch, b: the fast weights are written once per b tokens.
    pub mini_batch: usize,
    /// Causal depthwise convolution of width 4 in front of the mixer.
    pub conv: bool,
    /// The same in front of the feed-forward network.
    pub ffn_conv: bool,
    /// Gate `silu(BitLinear(x))` on the mixer's output.
    pub gate: bool,
    /// Activation of the feed-forward network.
    pub activation: Activation,
    /// The head shares the embedding's matrix.
    pub tie_embeddings: bool,
    /// The fast weights decay towards their learned start at every mini-batch end.
    pub anchor_decay: bool,
    /// Tokens after which the fast weights of the slowest head have forgotten all but 1/e when training begins, the others
    /// lying geometrically between 32 mini-batches and it; 0 for 200 mini-batches in every head. Learned from there.
    pub memory: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// Inner learning rate before the learned gate.
    pub ttt_base_lr: f32,
    /// Where fast weights start.
    pub fast_start: FastStart,
    /// What the inner learning rate depends on.
    pub inner_rate: InnerRate,
    /// Numbers of the blocks' matrices.
    pub weights: WeightType,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            vocab_size: 0,
            d_model: 128,
            n_layers: 4,
            n_heads: 4,
            d_ffn: 352,
            mixer: Mixer::TttLinear,
            mixers: Vec::new(),
            kv_heads: 0,
            window: 0,
            context: 0,
            kv_cache: KvCache::F16,
            mini_batch: 16,
            conv: true,
            ffn_conv: false,
            gate: false,
            activation: Activation::Silu,
            tie_embeddings: true,
            anchor_decay: true,
            memory: 0,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            ttt_base_lr: 1.0,
            fast_start: FastStart::Learned,
            inner_rate: InnerRate::Token,
            weights: WeightType::Ternary,
        }
    }
}

impl ModelConfig {
    /// Width of one head, `d_model / n_heads`.
    pub fn d_head(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// Mixer of block `layer`.
    pub fn mixer_of(&self, layer: usize) -> Mixer {
        match self.mixers.len() {
            0 => self.mixer,
            n => self.mixers[layer % n],
        }
    }

    /// Mixers of the blocks, each place of `mixers` once.
    fn stack(&self) -> impl Iterator<Item = Mixer> {
        let places = self.mixers.len().max(1);
        (0..self.n_layers.min(places)).map(|l| self.mixer_of(l))
    }

    /// Heads of keys and values in attention.
    pub fn n_kv_heads(&self) -> usize {
        match self.kv_heads {
            0 => self.n_heads,
            n => n,
        }
    }

    /// Whether a block of this kind has the gate that `gate` asks for.
    pub fn gates(&self, mixer: Mixer) -> bool {
        self.gate && mixer != Mixer::TttLite
    }

    /// Whether there is attention that looks back on everything.
    pub fn keeps_whole_context(&self) -> bool {
        self.window == 0 && self.stack().any(|m| m == Mixer::Attention)
    }

    /// Whether all blocks can go on from one segment of a row to the next: TTT-Linear and TTT-MLP do.
    pub fn carries(&self) -> bool {
        self.stack()
            .all(|m| matches!(m, Mixer::TttLinear | Mixer::TttMlp))
    }

    /// Checks every field against the others.
    ///
    /// # Errors
    /// Names the first impossible field and the way out.
    pub fn validate(&self) -> anyhow::Result<()> {
        for (name, value) in [
            ("d_model", self.d_model),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("d_ffn", self.d_ffn),
            ("mini_batch", self.mini_batch),
        ] {
            ensure!(value > 0, "model.{name} is 0; give it at least 1");
        }
        self.validate_limits()?;
        ensure!(
            self.d_model.is_multiple_of(self.n_heads),
            "model.d_model = {} is not divisible by model.n_heads = {}; choose a multiple",
            self.d_model,
            self.n_heads
        );
        ensure!(
            self.d_head().is_multiple_of(2),
            "model.d_model / model.n_heads = {} is odd, but RoPE turns pairs; choose an even head width",
            self.d_head()
        );
        self.validate_mixers()?;
        between("rope_theta", self.rope_theta, 1.0, f32::INFINITY)?;
        between("norm_eps", self.norm_eps, 0.0, 1.0)?;
        between("ttt_base_lr", self.ttt_base_lr, 0.0, f32::INFINITY)
    }

    /// What a blob can hold (docs/FORMAT.md).
    fn validate_limits(&self) -> anyhow::Result<()> {
        for (name, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("d_model", self.d_model, 131_072),
            ("n_layers", self.n_layers, 4096),
            ("d_ffn", self.d_ffn, 131_072),
            ("n_heads", self.n_heads, u16::MAX.into()),
            ("kv_heads", self.kv_heads, u16::MAX.into()),
            ("mini_batch", self.mini_batch, u16::MAX.into()),
            ("window", self.window, u32::MAX as usize),
            ("context", self.context, u32::MAX as usize),
        ] {
            ensure!(
                value <= most,
                "model.{name} = {value} is more than a blob can hold; give it at most {most}"
            );
        }
        Ok(())
    }

    fn validate_mixers(&self) -> anyhow::Result<()> {
        let has = |mixer| self.stack().any(|m| m == mixer);
        ensure!(
            self.mixers.is_empty() || self.n_layers.is_multiple_of(self.mixers.len()),
            "model.mixers has {} entries, which do not go into model.n_layers = {}; give as many, or a divisor",
            self.mixers.len(),
            self.n_layers
        );
        ensure!(
            self.n_heads.is_multiple_of(self.n_kv_heads()),
            "model.n_heads = {} is not divisible by model.kv_heads = {}; choose a divisor",
            self.n_heads,
            self.kv_heads
        );
        for (name, given) in [
            ("kv_heads", self.kv_heads),
            ("window", self.window),
            ("context", self.context),
        ] {
            ensure!(
                given == 0 || has(Mixer::Attention),
                "model.{name} is for attention, of which model.mixers has none; leave it out"
            );
        }
        ensure!(
            self.window == 0 || self.context == 0,
            "model.context is the cache of attention without a window, but model.window = {}; leave one out",
            self.window
        );
        ensure!(
            self.d_model.is_multiple_of(4) || !has(Mixer::TttLite),
            "model.d_model = {} is not divisible by 4, and ttt-lite is a quarter as wide; choose a multiple",
            self.d_model
        );
        ensure!(
            !self.gate || self.stack().any(|m| self.gates(m)),
            "model.gate is on, but ttt-lite has no gate; leave it out"
        );
        ensure!(
            self.memory == 0 || (self.anchor_decay && self.memory > self.mini_batch),
            "model.memory = {} must be more than model.mini_batch and needs model.anchor_decay; or leave it out",
            self.memory
        );
        ensure!(
            self.fast_start == FastStart::Learned || !has(Mixer::TttMlp),
            "model.fast_start = \"identity\" is for ttt-linear, but a block has ttt-mlp; use \"learned\""
        );
        Ok(())
    }

    /// Sets `vocab_size` from the tokenizer, or checks that it is large enough.
    ///
    /// # Errors
    /// When the tokenizer makes tokens that the model would not have.
    pub fn fit_vocab(&mut self, tokenizer_vocab: usize) -> anyhow::Result<()> {
        if self.vocab_size == 0 {
            self.vocab_size = tokenizer_vocab;
        }
        ensure!(
            self.vocab_size >= tokenizer_vocab,
            "model.vocab_size = {} is smaller than the tokenizer's {tokenizer_vocab}; raise it, or leave it out",
            self.vocab_size
        );
        Ok(())
    }
}

/// The core's limits: without its own check a model would be trained that no blob can hold.
fn between(name: &str, value: f32, above: f32, below: f32) -> anyhow::Result<()> {
    ensure!(
        value > above && value < below,
        "model.{name} = {value} must lie between {above} and {below}"
    );
    Ok(())
}
