//! Configuration of a model and of a training run, read from TOML.
//!
//! A `Config` that passed [`Config::validate`] can be built: no later code checks shapes again.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

/// Kind of token mixer, the first half of every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mixer {
    /// TTT-Linear of Sun et al. 2024 (arXiv 2407.04620), in its dual form.
    TttLinear,
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
    /// Mixer of every block.
    pub mixer: Mixer,
    /// Tokens of one inner mini-batch, b: the fast weights are written once per b tokens.
    pub mini_batch: usize,
    /// Causal depthwise convolution of width 4 in front of the mixer.
    pub conv: bool,
    /// Gate `silu(BitLinear(x))` on the mixer's output.
    pub gate: bool,
    /// Activation of the feed-forward network.
    pub activation: Activation,
    /// The head shares the embedding's matrix.
    pub tie_embeddings: bool,
    /// The fast weights decay towards their learned start at every mini-batch end.
    pub anchor_decay: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// Inner learning rate before the learned gate.
    pub ttt_base_lr: f32,
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
            mini_batch: 16,
            conv: true,
            gate: false,
            activation: Activation::Silu,
            tie_embeddings: true,
            anchor_decay: true,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            ttt_base_lr: 1.0,
        }
    }
}

impl ModelConfig {
    /// Width of one head, `d_model / n_heads`.
    pub fn d_head(&self) -> usize {
        self.d_model / self.n_heads
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
        positive("model.rope_theta", self.rope_theta)?;
        positive("model.norm_eps", self.norm_eps)?;
        positive("model.ttt_base_lr", self.ttt_base_lr)
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

fn positive(name: &str, value: f32) -> anyhow::Result<()> {
    ensure!(
        value.is_finite() && value > 0.0,
        "{name} = {value} must be a positive number"
    );
    Ok(())
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimiser steps of the whole run.
    pub steps: u64,
    /// Wall-clock budget. When set, it ends the run and drives the schedule in place of `steps`
    /// (learning rate by elapsed over budget), so that such a run is not repeatable bit for bit.
    pub seconds: Option<f64>,
    /// Rows of one step.
    pub batch: usize,
    /// Most tokens of one row.
    pub context: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Last learning rate as a fraction of the peak (cosine ends there).
    pub min_lr: f64,
    /// Linear warm-up as a fraction of the run.
    pub warmup: f64,
    /// AdamW's decoupled decay, on matrices only.
    pub weight_decay: f64,
    /// AdamW's first-moment decay.
    pub beta1: f64,
    /// AdamW's second-moment decay.
    pub beta2: f64,
    /// Largest global gradient norm; larger ones are scaled down.
    pub grad_clip: f64,
    /// Seed of initial weights and of the order of the data.
    pub seed: u64,
    /// Share of the documents (of the tokens when there is one document) held out, at the end.
    pub val_fraction: f64,
    /// Steps between validations; 0 validates at the end only.
    pub eval_every: u64,
    /// Held-out rows of one validation at most; 0 takes all.
    pub eval_rows: usize,
    /// Steps between checkpoints; the last step always writes one.
    pub checkpoint_every: u64,
    /// Steps between lines of metrics.jsonl.
    pub log_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 2000,
            seconds: None,
            batch: 8,
            context: 256,
            lr: 4e-3,
            min_lr: 0.05,
            warmup: 0.04,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.98,
            grad_clip: 1.0,
            seed: 1,
            val_fraction: 0.1,
            eval_every: 250,
            eval_rows: 64,
            checkpoint_every: 250,
            log_every: 10,
        }
    }
}

impl TrainConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the first impossible field and what it may be.
    pub fn validate(&self) -> anyhow::Result<()> {
        for (name, value) in [
            ("steps", self.steps),
            ("batch", self.batch as u64),
            ("checkpoint_every", self.checkpoint_every),
            ("log_every", self.log_every),
        ] {
            ensure!(value > 0, "train.{name} is 0; give it at least 1");
        }
        ensure!(
            self.context >= 2,
            "train.context = {} is too short; give it at least 2 tokens",
            self.context
        );
        ensure!(
            self.lr.is_finite() && self.lr > 0.0,
            "train.lr = {} must be a positive number",
            self.lr
        );
        ensure!(
            self.grad_clip > 0.0,
            "train.grad_clip = {} must be a positive number",
            self.grad_clip
        );
        if let Some(seconds) = self.seconds {
            ensure!(
                seconds.is_finite() && seconds > 0.0,
                "train.seconds = {seconds} must be a positive number"
            );
        }
        self.validate_fractions()
    }

    fn validate_fractions(&self) -> anyhow::Result<()> {
        for (name, value) in [
            ("min_lr", self.min_lr),
            ("warmup", self.warmup),
            ("weight_decay", self.weight_decay),
            ("beta1", self.beta1),
            ("beta2", self.beta2),
            ("val_fraction", self.val_fraction),
        ] {
            ensure!(
                (0.0..1.0).contains(&value),
                "train.{name} = {value} must lie in [0, 1)"
            );
        }
        Ok(())
    }
}

/// A whole run: `[model]` and `[train]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Shape of the model.
    pub model: ModelConfig,
    /// How to train it.
    pub train: TrainConfig,
}

impl Config {
    /// Reads a TOML file; fields left out keep their defaults.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown field, or fails [`Config::validate`].
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read config {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("config {}", path.display()))
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = match toml::from_str(text) {
            Ok(config) => config,
            Err(e) => bail!("{}", one_line(&e, text)),
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names the first impossible field and the way out.
    pub fn validate(&self) -> anyhow::Result<()> {
        self.model.validate()?;
        self.train.validate()
    }

    /// What `bitttt quickstart` trains: about 0.25M parameters on the built-in corpus.
    pub fn quickstart() -> Self {
        Self {
            model: ModelConfig {
                d_model: 96,
                n_layers: 2,
                n_heads: 2,
                d_ffn: 192,
                ..ModelConfig::default()
            },
            train: TrainConfig {
                seconds: Some(80.0),
                batch: 12,
                context: 128,
                lr: 8e-3,
                eval_every: 0,
                ..TrainConfig::default()
            },
        }
    }
}

/// `toml` draws its errors over several lines; ours are one line each.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error
        .span()
        .map(|span| 1 + text[..span.start].matches('\n').count());
    match line {
        Some(line) => format!("line {line}: {}", error.message().replace('\n', " ")),
        None => error.message().replace('\n', " "),
    }
}

#[cfg(test)]
mod tests;
