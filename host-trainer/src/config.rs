//! Configuration of a model and of a training run, read from TOML.
//!
//! A `Config` that passed [`Config::validate`] can be built: no later code checks shapes again.

mod data;
mod model;

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

pub use data::DataFile;
pub use model::{Activation, FastStart, InnerRate, KvCache, Mixer, ModelConfig, WeightType};

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
    /// Tokens of a row through which gradients flow; longer rows are read segment by segment, the state going over. 0 for
    /// whole rows.
    pub segment: usize,
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
    /// Latent ternary weights are kept within this many times their matrix's mean of absolute values, from where they can
    /// still change sides; 0 for no bound.
    pub latent_clip: f64,
    /// Share of the embedding's values, and of what each half of a block adds to the stream, that a step leaves out (Srivastava
    /// et al. 2014): for texts that are read many times over.
    pub dropout: f64,
    /// Seed of initial weights and of the order of the data.
    pub seed: u64,
    /// Share of each file's documents (of its tokens when there is one document) held out, at the end.
    pub val_fraction: f64,
    /// Steps between validations; 0 validates at the end only.
    pub eval_every: u64,
    /// Held-out rows of one validation, shared among the files like the rows of training, at least one a file; 0 takes
    /// all.
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
            segment: 0,
            lr: 4e-3,
            min_lr: 0.0,
            warmup: 0.04,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.98,
            grad_clip: 1.0,
            latent_clip: 0.0,
            dropout: 0.0,
            seed: 1,
            val_fraction: 0.1,
            eval_every: 250,
            eval_rows: 64,
            checkpoint_every: 250,
            log_every: 10,
        }
    }
}

/// Most rows of one step.
const MOST_ROWS: usize = 1 << 20;

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
            self.batch <= MOST_ROWS,
            "train.batch = {} is more than any memory holds; give it at most {MOST_ROWS}",
            self.batch
        );
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
        ensure!(
            self.latent_clip == 0.0 || (self.latent_clip > 1.0 && self.latent_clip.is_finite()),
            "train.latent_clip = {} must be more than 1 (2 is a good one), or 0 for none",
            self.latent_clip
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
            ("dropout", self.dropout),
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

/// A whole run: `[model]`, `[train]` and a `[[data]]` for each file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Shape of the model.
    pub model: ModelConfig,
    /// How to train it.
    pub train: TrainConfig,
    /// What to train it on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataFile>,
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
        self.train.validate()?;
        self.validate_segment()?;
        data::validate(&self.data)
    }

    fn validate_segment(&self) -> anyhow::Result<()> {
        let (segment, mini_batch) = (self.train.segment, self.model.mini_batch);
        ensure!(
            segment.is_multiple_of(mini_batch),
            "train.segment = {segment} is not a multiple of model.mini_batch = {mini_batch}; choose one"
        );
        ensure!(
            segment == 0 || self.model.carries(),
            "train.segment is for ttt-linear and ttt-mlp, but a block has another mixer, which carries nothing from segment \
             to segment; leave it out"
        );
        Ok(())
    }

    /// Tokens that attention without a window can look back on when the model runs: what `model.context` says, or
    /// what it was trained on. 0 for a model that has no such layer.
    pub fn kv_context(&self) -> usize {
        match (self.model.keeps_whole_context(), self.model.context) {
            (false, _) => 0,
            (true, 0) => self.train.context,
            (true, context) => context,
        }
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
            data: Vec::new(),
        }
    }
}

/// `toml` draws its errors over several lines; ours are one line each.
pub(crate) fn one_line(error: &toml::de::Error, text: &str) -> String {
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
