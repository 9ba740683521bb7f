//! What learns: a model, its optimiser and how many steps they have made. Where batches come from is its user's matter.

use std::collections::HashMap;
use std::path::Path;

use anyhow::ensure;
use candle_core::{Device, Tensor, Var};

use super::adamw::{AdamW, treatments};
use super::checkpoint::{self, Checkpoint, Progress};
use super::claim::claim;
use super::gradients::shared_gradients;
use super::group::{Alone, Group};
use super::schedule;
use crate::config::{Config, ModelConfig};
use crate::data::batch::{Batch, SourceInfo};
use crate::device;
use crate::engine::blob::available_memory;
use crate::model::{self, Model};
use crate::ops::dropout::Dropout;
use crate::rng::hash;
use crate::tokenizer::Tokenizer;

/// A model in training.
pub struct Trainer {
    config: Config,
    vars: Vec<(String, Var)>,
    model: Model,
    optimiser: AdamW,
    step: u64,
}

impl Trainer {
    /// Fresh weights on a device, by the configuration's seed.
    ///
    /// # Errors
    /// An impossible configuration, or one that the device has no kernels for; too little memory.
    pub fn new(config: Config, device: &Device) -> anyhow::Result<Self> {
        config.validate()?;
        ensure!(
            config.model.vocab_size > 0,
            "model.vocab_size is 0 and there is no tokenizer to take it from; give it"
        );
        check_memory(&config.model)?;
        device::check(device, &config.model)?;
        device::check_segment(device, config.train.segment)?;
        let vars = model::init(&config.model, config.train.seed)?;
        let vars = model::to_device(vars, device)?;
        Ok(Self {
            model: Model::from_vars(&config.model, &vars)?,
            optimiser: AdamW::new(&config.train, &vars, treatments(&config.model))?,
            config,
            vars,
            step: 0,
        })
    }

    /// Goes on from a checkpoint of the same model.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn restore(&mut self, saved: &Checkpoint) -> anyhow::Result<()> {
        self.optimiser.set_moments(saved.restore(&self.vars)?)?;
        self.step = saved.step;
        Ok(())
    }

    /// One optimiser step at the rate of the configuration's schedule by steps; returns the loss, nats a token.
    ///
    /// # Errors
    /// A schedule that has ended, a token out of range, a loss that is not finite.
    pub fn train(&mut self, batch: &Batch) -> anyhow::Result<f64> {
        let steps = self.config.train.steps;
        ensure!(
            self.step < steps,
            "all {steps} steps of the schedule are done; give a learning rate, or a configuration with more train.steps"
        );
        let lr = schedule::learning_rate(&self.config.train, self.step as f64 / steps as f64);
        Ok(self.update(&Alone, batch, lr)?.0)
    }

    /// One optimiser step on a batch whose rows are spread over `group`; returns loss and gradient norm.
    ///
    /// # Errors
    /// A token out of range, processes that cannot be reached, a loss that is not finite.
    pub fn update(
        &mut self,
        group: &dyn Group,
        batch: &Batch,
        lr: f64,
    ) -> anyhow::Result<(f64, f64)> {
        let segment = self.config.train.segment;
        let dropout = self.dropout();
        let (loss, grads) =
            shared_gradients(group, &self.model, &self.vars, batch, segment, dropout)?;
        self.step += 1;
        let norm = self.optimiser.step(&self.vars, &grads, lr, self.step)?;
        ensure!(
            loss.is_finite(),
            "the loss is not finite at step {}; lower --lr and --resume, the last checkpoint is whole",
            self.step
        );
        Ok((loss, norm))
    }

    /// What the next step leaves out.
    fn dropout(&self) -> Option<Dropout> {
        let share = self.config.train.dropout as f32;
        (share > 0.0).then(|| Dropout {
            share,
            key: hash(&[self.config.train.seed, self.step]),
            first_row: 0,
        })
    }

    /// Writes the checkpoint in `dir`, replacing the one before; a `tokenizer` is written too.
    ///
    /// # Errors
    /// When another process trains there, or the disk is full; the one before stays whole.
    pub fn save(&self, dir: &Path, tokenizer: Option<&Tokenizer>) -> anyhow::Result<()> {
        let _lock = claim(dir)?;
        if let Some(tokenizer) = tokenizer {
            checkpoint::save_tokenizer(dir, tokenizer)?;
        }
        self.write(dir, tokenizer.is_some(), 0.0, &[])
    }

    /// Writes the checkpoint alone.
    pub(super) fn write(
        &self,
        dir: &Path,
        tokenizer: bool,
        seconds: f64,
        data: &[SourceInfo],
    ) -> anyhow::Result<()> {
        let progress = Progress {
            config: &self.config,
            step: self.step,
            seconds,
            data,
            tokenizer,
        };
        checkpoint::save(dir, &progress, &self.vars, &self.optimiser.moments()?)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The model on its device.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Trained values by name.
    pub fn vars(&self) -> &[(String, Var)] {
        &self.vars
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Learned values.
    pub fn parameters(&self) -> usize {
        self.vars.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The weights on the CPU, as a checkpoint holds them; shared, not copied, where they are there.
    ///
    /// # Errors
    /// When a card does not answer.
    pub fn weights(&self) -> anyhow::Result<HashMap<String, Tensor>> {
        let weight = |(name, var): &(String, Var)| {
            Ok((name.clone(), var.as_tensor().to_device(&Device::Cpu)?))
        };
        self.vars.iter().map(weight).collect()
    }

    /// A copy of the model on the CPU, unless it is there.
    ///
    /// # Errors
    /// When a card does not answer.
    pub fn on_host(&self) -> anyhow::Result<Option<Model>> {
        if self.vars.iter().all(|(_, var)| var.device().is_cpu()) {
            return Ok(None);
        }
        Ok(Some(Model::load(&self.config.model, &self.weights()?)?))
    }
}

/// Refuses what would end the process for lack of memory: every value needs its weight and two moments.
fn check_memory(config: &ModelConfig) -> anyhow::Result<()> {
    let [vocab, width, layers, ffn] = [
        config.vocab_size,
        config.d_model,
        config.n_layers,
        config.d_ffn,
    ]
    .map(|n| n as u128);
    let values = width
        .saturating_mul(ffn.saturating_mul(3))
        .saturating_mul(layers)
        .saturating_add(vocab.saturating_mul(width));
    let bytes = values.saturating_mul(12);
    ensure!(
        available_memory().is_none_or(|free| bytes <= free.into()),
        "this model needs at least {} MB of memory to be trained, more than there is; make model.vocab_size, d_model, \
         n_layers or d_ffn smaller",
        bytes / 1_000_000
    );
    Ok(())
}
