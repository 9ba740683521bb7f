//! The trainer's own model from a checkpoint, on any device: what `eval` and `generate` run with `--checkpoint`.
//!
//! It has no state to step: every piece of text is read from its start.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, ensure};
use bitttt_core::Learning;
use bitttt_core::format::DType;
use bitttt_core::{Model as CoreModel, Sampler};
use bitttt_export::AlignedCopy;
use candle_core::{D, Device, Tensor};

use super::documents::Document;
use super::evaluate::{Read, Score, evaluate_with};
use super::export::{Storage, blueprint};
use crate::model::{Carry, Model};
use crate::ops::loss;
use crate::train::checkpoint::Checkpoint;

/// Most tokens that are read at once: a graph takes memory for each.
const MAX_TOKENS: usize = 65_536;
/// About so many tokens are read at a time where the model's state goes over.
const SEGMENT: usize = 4096;

/// A trained model on a device.
pub struct Graph {
    model: Model,
    base_lr: f32,
    document_token: u32,
    /// Whole mini-batches to read at a time, where the state goes over from one time to the next.
    segment: Option<usize>,
}

impl Graph {
    /// Loads the checkpoint in `dir`; also the same model as a blob, whose tokenizer is the core's.
    ///
    /// # Errors
    /// No whole checkpoint, mixers that the device has no kernels for, or too little memory.
    pub fn load(dir: &Path, device: &Device) -> Result<(Self, AlignedCopy)> {
        let saved = Checkpoint::load(dir)?;
        let config = &saved.config;
        crate::device::check(device, &config.model)?;
        let blueprint = blueprint(
            config,
            &saved.weights,
            saved.tokenizer.as_ref(),
            Storage {
                packed: DType::T2,
                halves: false,
            },
            String::new(),
        )?;
        let weights = saved.weights.iter();
        let weights = weights
            .map(|(name, tensor)| Ok((name.clone(), tensor.to_device(device)?)))
            .collect::<Result<_>>()?;
        let blob = AlignedCopy::of(&blueprint.to_bytes()?);
        let graph = Self {
            model: Model::load(&config.model, &weights)?,
            base_lr: config.model.ttt_base_lr,
            segment: (config.model.carries() && device.is_cpu())
                .then(|| SEGMENT.next_multiple_of(config.model.mini_batch)),
            document_token: CoreModel::from_bytes(blob.bytes())?.config().document_token,
        };
        Ok((graph, blob))
    }

    /// How the model does on documents.
    ///
    /// # Errors
    /// A document that is too long to read at once, or nothing to predict.
    pub fn evaluate(
        &mut self,
        documents: &[Document],
        learning: Learning,
        context: Option<usize>,
    ) -> Result<Score> {
        self.set_learning(learning);
        let mut read = |inputs: &[u32], targets: &[u32]| self.read(inputs, targets);
        evaluate_with(&mut read, self.document_token, documents, context)
    }

    fn set_learning(&mut self, learning: Learning) {
        self.model.set_base_lr(match learning {
            Learning::On => self.base_lr,
            Learning::Frozen => 0.0,
        });
    }

    fn read(&self, inputs: &[u32], targets: &[u32]) -> Result<Read> {
        let mut read = Read::default();
        let Some(segment) = self.segment else {
            add(&mut read, &self.logits(inputs)?, targets)?;
            return Ok(read);
        };
        let mut carry = Carry::default();
        for (inputs, targets) in inputs.chunks(segment).zip(targets.chunks(segment)) {
            let tokens = Tensor::from_slice(inputs, (1, inputs.len()), &Device::Cpu)?;
            let logits = self.model.forward_segment(&tokens, &mut carry)?;
            add(&mut read, &logits, targets)?;
        }
        Ok(read)
    }

    /// `[1, tokens, V]`.
    fn logits(&self, tokens: &[u32]) -> Result<Tensor> {
        ensure!(
            tokens.len() <= MAX_TOKENS,
            "a document has {} tokens, which a checkpoint reads at once; give --context of at most {MAX_TOKENS}, or export \
             the model",
            tokens.len()
        );
        let tokens = Tensor::from_slice(tokens, (1, tokens.len()), &Device::Cpu)?;
        Ok(self.model.forward(&tokens)?)
    }

    /// Continues `prompt` by up to `count` tokens, stopping before any of `stop`; each is shown to `show` as it is made, which
    /// may end it.
    ///
    /// # Errors
    /// Too many tokens, or what `show` returns.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        count: usize,
        stop: &[u32],
        (learning, sampler): (Learning, &mut Sampler),
        mut show: impl FnMut(u32) -> Result<ControlFlow<()>>,
    ) -> Result<Vec<u32>> {
        self.set_learning(learning);
        let (mut tokens, first) = (prompt.to_vec(), prompt.len());
        while tokens.len() < first + count {
            let logits = self.logits(&tokens)?;
            let last = logits.narrow(1, tokens.len() - 1, 1)?;
            let next = sampler.sample(&mut last.flatten_all()?.to_vec1::<f32>()?);
            if stop.contains(&next) {
                break;
            }
            tokens.push(next);
            if show(next)?.is_break() {
                break;
            }
        }
        Ok(tokens.split_off(first))
    }
}

/// Adds what `logits [1, n, V]` make of `n` targets.
fn add(read: &mut Read, logits: &Tensor, targets: &[u32]) -> Result<()> {
    let best = logits.argmax(D::Minus1)?.flatten_all()?.to_vec1::<u32>()?;
    read.losses.extend(loss::losses(logits, targets)?);
    read.hits
        .extend(best.iter().zip(targets).map(|(b, t)| b == t));
    Ok(())
}
