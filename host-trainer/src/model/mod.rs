//! The model as a Candle graph: DESIGN section 3, from tokens to logits.
//!
//! It computes what the core computes; only transcendental functions and the order of sums inside
//! norms differ, by units in the last place.

mod carry;
mod linear;
mod mixer;
mod params;
pub mod plain;

use std::collections::HashMap;

use candle_core::{Result, Tensor, Var};

use crate::config::ModelConfig;
use crate::ops::bit_linear::int8_head;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::embedding;
use crate::ops::ffn::glu_norm;
use crate::ops::head_loss::head_loss;
use crate::ops::inner_loss::InnerLoss;
use crate::ops::norm::rms_norm;
use carry::{BlockCarry, convolve};
use linear::Linear;
use mixer::Mixer;

pub use carry::Carry;
pub use params::{Spec, init, specs, to_device};

/// The whole model.
pub struct Model {
    config: ModelConfig,
    embed: Tensor,
    head: Option<Tensor>,
    norm: Tensor,
    blocks: Vec<Block>,
}

struct Block {
    mixer_norm: Tensor,
    mixer: Mixer,
    ffn_norm: Tensor,
    ffn: Ffn,
}

struct Ffn {
    config: ModelConfig,
    linear: Linear,
    conv: Option<Tensor>,
    gate_up: [Tensor; 2],
    sub_norm: Tensor,
    down: Tensor,
}

impl Model {
    /// Builds the model over `weights` by their checkpoint names; the tensors are shared, not copied.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the configuration asks for.
    pub fn load(config: &ModelConfig, weights: &HashMap<String, Tensor>) -> anyhow::Result<Self> {
        params::check(config, weights)?;
        let get = |name: &str| weights[name].clone();
        let blocks = (0..config.n_layers)
            .map(|l| Block::load(config, l, &|name| get(&format!("layers.{l}.{name}"))))
            .collect::<Result<_>>()?;
        Ok(Self {
            embed: get("embed.weight"),
            head: (!config.tie_embeddings).then(|| get("head.weight")),
            norm: get("norm.weight"),
            blocks,
            config: config.clone(),
        })
    }

    /// Builds the model over trainable variables.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_vars(config: &ModelConfig, vars: &[(String, Var)]) -> anyhow::Result<Self> {
        let shared = |(name, var): &(String, Var)| (name.clone(), var.as_tensor().clone());
        Self::load(config, &vars.iter().map(shared).collect())
    }

    /// Logits `[B, T, V]` for `tokens [B, T]` (u32). Every row starts with a fresh state.
    ///
    /// # Errors
    /// When a token is out of range.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        int8_head(&self.stream(tokens, None, None)?, self.head())
    }

    /// The same for the next segment `tokens [B, T]` of longer rows, whose state goes over in `carry`. Every segment but
    /// the last has whole mini-batches.
    ///
    /// # Errors
    /// As [`Model::forward`]; mixers that carry nothing (see [`ModelConfig::carries`]).
    pub fn forward_segment(&self, tokens: &Tensor, carry: &mut Carry) -> Result<Tensor> {
        int8_head(&self.stream(tokens, Some(carry), None)?, self.head())
    }

    /// Mean loss, in nats, over the `targets` that count, of whole rows or, with a `carry`, of their next segment.
    /// `dropout` acts on the embedding and on what each half of a block adds to the stream.
    ///
    /// # Errors
    /// As [`Model::forward_segment`]; no target that counts.
    pub fn loss(
        &self,
        tokens: &Tensor,
        targets: &[u32],
        carry: Option<&mut Carry>,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        head_loss(&self.stream(tokens, carry, dropout)?, self.head(), targets)
    }

    /// What the head gets.
    fn stream(
        &self,
        tokens: &Tensor,
        mut carry: Option<&mut Carry>,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let mut h = dropped(embedding(tokens, &self.embed)?, dropout, 0)?;
        if let Some(carry) = &mut carry {
            carry
                .blocks
                .resize(self.blocks.len(), BlockCarry::default());
        }
        for (l, block) in self.blocks.iter().enumerate() {
            let carry = carry.as_deref_mut().map(|carry| &mut carry.blocks[l]);
            let dropout = dropout.map(|d| d.at(l + 1));
            h = block.forward(&h, self.config.norm_eps, carry, dropout)?;
        }
        rms_norm(&h, &self.norm, self.config.norm_eps)
    }

    fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// What inner learning achieves in each block on `tokens [B, T]`, whose rows have these lengths; none in blocks with
    /// attention.
    ///
    /// # Errors
    /// When a token is out of range.
    pub fn inner_losses(
        &self,
        tokens: &Tensor,
        lengths: &[usize],
    ) -> Result<Vec<Option<InnerLoss>>> {
        let eps = self.config.norm_eps;
        let mut h = embedding(tokens, &self.embed)?;
        let mut losses = Vec::new();
        for block in &self.blocks {
            let x = rms_norm(&h, &block.mixer_norm, eps)?;
            losses.push(block.mixer.inner_loss(&x, lengths)?);
            h = block.forward(&h, eps, None, None)?;
        }
        Ok(losses)
    }

    /// Sets the inner base learning rate of every layer: 0 freezes what the model adapts.
    pub fn set_base_lr(&mut self, base_lr: f32) {
        for block in &mut self.blocks {
            block.mixer.set_base_lr(base_lr);
        }
    }
}

impl Block {
    fn load(config: &ModelConfig, layer: usize, get: &dyn Fn(&str) -> Tensor) -> Result<Self> {
        Ok(Self {
            mixer_norm: get("mixer_norm.weight"),
            mixer: Mixer::load(config, layer, get)?,
            ffn_norm: get("ffn_norm.weight"),
            ffn: Ffn {
                config: config.clone(),
                linear: Linear(config.weights),
                conv: config.ffn_conv.then(|| get("ffn.conv.weight")),
                gate_up: [get("ffn.gate.weight"), get("ffn.up.weight")],
                sub_norm: get("ffn.sub_norm.weight"),
                down: get("ffn.down.weight"),
            },
        })
    }

    /// `h += Mixer(RMSNorm(h))`, then `h += FFN(RMSNorm(h))`.
    fn forward(
        &self,
        h: &Tensor,
        eps: f32,
        mut carry: Option<&mut BlockCarry>,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let x = rms_norm(h, &self.mixer_norm, eps)?;
        let m = self.mixer.forward(&x, carry.as_deref_mut())?;
        let h = (h + dropped(m, dropout, 0)?)?;
        let x = rms_norm(&h, &self.ffn_norm, eps)?;
        let m = self.ffn.forward(&x, carry.map(|c| &mut c.ffn_conv))?;
        h + dropped(m, dropout, 1)?
    }
}

fn dropped(x: Tensor, dropout: Option<Dropout>, place: usize) -> Result<Tensor> {
    match dropout {
        Some(dropout) => dropout.at(place).apply(&x),
        None => Ok(x),
    }
}

impl Ffn {
    fn forward(&self, x: &Tensor, carried: Option<&mut Option<Tensor>>) -> Result<Tensor> {
        let convolved = self.conv.as_ref().map(|taps| convolve(x, taps, carried));
        let convolved = convolved.transpose()?;
        let x = convolved.as_ref().unwrap_or(x);
        let gate_up = self.linear.apply(x, &Tensor::cat(&self.gate_up, 0)?, 2)?;
        let config = &self.config;
        let m = glu_norm(&gate_up, &self.sub_norm, config.activation, config.norm_eps)?;
        self.linear.apply(&m, &self.down, 1)
    }
}

#[cfg(test)]
mod tests;
