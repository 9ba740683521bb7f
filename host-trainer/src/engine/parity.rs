//! The core against the trainer's own forward pass, on held-out text.
//!
//! Every BitLinear is equal to the bit in both; norms, functions and TTT sums add in another order, by a few units in the
//! last place. Where such a difference meets a rounding tie, an 8-bit activation code moves by one, and the difference
//! grows to the order of one code. Hence two limits: typical positions agree closely, and no position disagrees in a way
//! that text would show.

use super::blob::{host_batch, memory_for};
use super::evaluate::cross_entropy;
use crate::config::ModelConfig;
use crate::model::Model as Graph;
use anyhow::{Result, bail, ensure};
use bitttt_core::sampler::argmax;
use bitttt_core::{Model, Session};
use candle_core::{Device, Tensor};
use serde::Serialize;
use std::collections::HashMap;

/// Least share of positions at which both name the same most probable token, near ties aside.
pub const MIN_TOP1: f64 = 0.98;
/// Nats by which the trainer may prefer another token than the core's. A sensor's neighbouring symbols often are as
/// probable as each other, and which of them is ahead says nothing about an engine.
pub const NEAR_TIE: f32 = 0.05;
/// Largest difference of the mean loss, in nats a token.
pub const MAX_LOSS_DIFFERENCE: f64 = 0.01;
/// Largest mean difference of logits, as a share of their standard deviation.
pub const MAX_MEAN_DIFFERENCE: f64 = 0.02;

/// How far the two engines are apart.
#[derive(Clone, Debug, Serialize)]
pub struct Parity {
    /// Positions compared.
    pub positions: usize,
    /// Largest difference of a logit.
    pub max_logit_difference: f64,
    /// Mean difference of a logit.
    pub mean_logit_difference: f64,
    /// Standard deviation of the logits, to judge the differences by.
    pub logit_deviation: f64,
    /// Share of positions with the same most probable token, or one within [`NEAR_TIE`] of it.
    pub top1_agreement: f64,
    /// Mean loss of the core, nats a token.
    pub loss_core: f64,
    /// Mean loss of the trainer's graph.
    pub loss_trainer: f64,
}

/// Runs both over `rows` of tokens, each from a fresh state; the first token of a row is its document token.
///
/// # Errors
/// Where either cannot run.
pub fn compare(
    model: &Model<'_>,
    config: &ModelConfig,
    weights: &HashMap<String, Tensor>,
    rows: &[Vec<u32>],
) -> Result<Parity> {
    let graph = Graph::load(config, weights)?;
    let vocab = model.config().vocab_size;
    if let Some(token) = rows.iter().flatten().find(|token| **token >= vocab) {
        bail!("held-out token {token} is out of range: the vocabulary has {vocab}");
    }
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let batch = host_batch(model, longest);
    let mut memory = memory_for(model, batch)?;
    let mut session = Session::new(*model, batch, &mut memory)?;
    let mut sums = Sums::default();
    for row in rows.iter().filter(|row| row.len() > 1) {
        let inputs = &row[..row.len() - 1];
        let tokens = Tensor::from_slice(inputs, (1, inputs.len()), &Device::Cpu)?;
        let expected = graph.forward(&tokens)?.squeeze(0)?.to_vec2::<f32>()?;
        session.reset();
        session.prefill_with(inputs, &mut |i, logits| {
            sums.add(logits, &expected[i], row[i + 1])
        })?;
    }
    ensure!(
        sums.positions > 0,
        "there is no held-out text to compare on"
    );
    Ok(sums.finish())
}

impl Parity {
    /// Refuses engines that disagree.
    ///
    /// # Errors
    /// Which limit is passed.
    pub fn check(&self) -> Result<()> {
        let loss = (self.loss_core - self.loss_trainer).abs();
        let mean = self.mean_logit_difference / self.logit_deviation.max(1e-9);
        ensure!(
            self.top1_agreement >= MIN_TOP1
                && loss <= MAX_LOSS_DIFFERENCE
                && mean <= MAX_MEAN_DIFFERENCE,
            "core and trainer disagree: top-1 agreement {:.4} (at least {MIN_TOP1}), loss differs by {loss:.4} (at most \
             {MAX_LOSS_DIFFERENCE}), mean logit difference {mean:.4} of the deviation (at most {MAX_MEAN_DIFFERENCE}); \
             nothing was written, please report this checkpoint",
            self.top1_agreement
        );
        Ok(())
    }
}

#[derive(Default)]
struct Sums {
    positions: usize,
    logits: usize,
    agreed: usize,
    max: f64,
    difference: f64,
    sum: f64,
    squares: f64,
    loss_core: f64,
    loss_trainer: f64,
}

impl Sums {
    fn add(&mut self, core: &[f32], trainer: &[f32], target: u32) {
        for (&a, &b) in core.iter().zip(trainer) {
            let difference = f64::from(a - b).abs();
            self.max = if difference >= self.max || difference.is_nan() {
                difference
            } else {
                self.max
            };
            self.difference += difference;
            self.sum += f64::from(b);
            self.squares += f64::from(b) * f64::from(b);
        }
        self.logits += core.len();
        self.positions += 1;
        let of = |token: u32| trainer[token as usize];
        self.agreed += usize::from(of(argmax(trainer)) - of(argmax(core)) <= NEAR_TIE);
        self.loss_core += f64::from(cross_entropy(core, target));
        self.loss_trainer += f64::from(cross_entropy(trainer, target));
    }

    fn finish(self) -> Parity {
        let (positions, logits) = (self.positions as f64, self.logits as f64);
        let mean = self.sum / logits;
        Parity {
            positions: self.positions,
            max_logit_difference: self.max,
            mean_logit_difference: self.difference / logits,
            logit_deviation: (self.squares / logits - mean * mean).max(0.0).sqrt(),
            top1_agreement: self.agreed as f64 / positions,
            loss_core: self.loss_core / positions,
            loss_trainer: self.loss_trainer / positions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_token_agrees_where_the_trainer_holds_it_as_probable_and_nowhere_else() {
        let agreement = |core: [f32; 3], trainer: [f32; 3]| {
            let mut sums = Sums::default();
            sums.add(&core, &trainer, 0);
            sums.finish().top1_agreement
        };
        assert_eq!(agreement([1.0, 1.01, 0.0], [1.01, 1.0, 0.0]), 1.0);
        assert_eq!(agreement([1.0, 1.2, 0.0], [1.2, 1.0, 0.0]), 0.0);
        assert_eq!(agreement([0.0, 1.0, 0.0], [0.0, f32::NAN, 0.0]), 0.0);
    }
}
