//! A checkpoint's latent weights as a blob: quantised by the very functions that training uses, and written once the core
//! has been compared with the trainer.

use super::parity::{Parity, compare};
use crate::config::{
    Activation, Config as RunConfig, FastStart, InnerRate, KvCache, Mixer, ModelConfig, WeightType,
};
use crate::ops::{int_rows, ternary};
use crate::tokenizer::Tokenizer;
use anyhow::{Context as _, Result};
use bitttt_core::Model;
use bitttt_core::format::{self, Config, DType, LayerConfig, Role};
use bitttt_export::blueprint::tensor_name;
use bitttt_export::{AlignedCopy, Blueprint, TensorData, Vocabulary, save_atomically};
use candle_core::Tensor;
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;

/// Epsilon of the layer norm inside TTT, as in the reference implementation.
const LN_EPS: f32 = 1e-6;

/// How a model is stored.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    /// Type of ternary matrices, `t2` or `t5`.
    pub packed: DType,
    /// Gains, convolutions and inner rates as binary16 instead of f32.
    pub halves: bool,
}

/// A model to ship.
#[derive(Clone, Copy)]
pub struct Trained<'a> {
    /// The run's configuration.
    pub config: &'a RunConfig,
    /// Latent weights on the CPU, by name.
    pub weights: &'a HashMap<String, Tensor>,
    /// Goes into the blob.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Steps done.
    pub steps: u64,
}

/// What was written, and how far core and trainer are apart.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Length of the blob.
    pub bytes: usize,
    /// Fingerprint of the model.
    pub fingerprint: String,
    /// Core against trainer.
    pub parity: Parity,
}

/// What goes into the blob's metadata.
#[derive(Serialize)]
struct Metadata<'a> {
    trained_steps: u64,
    parity: &'a Parity,
    config: &'a RunConfig,
}

/// Lays out, compares on `rows` of tokens, writes. Stored with `halves`, a blob has no metadata.
///
/// # Errors
/// A tensor that is missing, engines that disagree, a file that cannot be written.
pub fn write(
    trained: &Trained<'_>,
    rows: &[Vec<u32>],
    storage: Storage,
    out: &Path,
) -> Result<Report> {
    let Trained {
        config,
        weights,
        tokenizer,
        steps,
    } = *trained;
    let layout = |metadata| blueprint(config, weights, tokenizer, storage, metadata);
    let draft = AlignedCopy::of(&layout(String::new())?.to_bytes()?);
    let model = Model::from_bytes(draft.bytes())?;
    let parity = compare(&model, &config.model, weights, rows)?;
    parity.check()?;
    let blob = if storage.halves {
        draft.bytes().to_vec()
    } else {
        let metadata = Metadata {
            trained_steps: steps,
            parity: &parity,
            config,
        };
        layout(serde_json::to_string(&metadata)?)?.to_bytes()?
    };
    save_atomically(out, &blob)?;
    let fingerprint = Model::from_bytes(AlignedCopy::of(&blob).bytes())?.fingerprint();
    Ok(Report {
        bytes: blob.len(),
        fingerprint: format!("{fingerprint:08x}"),
        parity,
    })
}

/// Lays out a trained model.
///
/// # Errors
/// A tensor that is missing.
pub fn blueprint(
    config: &RunConfig,
    weights: &HashMap<String, Tensor>,
    tokenizer: Option<&Tokenizer>,
    storage: Storage,
    metadata: String,
) -> Result<Blueprint> {
    let model = &config.model;
    let mut blueprint = Blueprint {
        config: core_config(model, config.kv_context() as u32),
        layers: layer_records(model),
        tensors: Default::default(),
        tokenizer: tokenizer.map(vocabulary),
        metadata,
    };
    for (layer, role) in blueprint.required() {
        let name = checkpoint_name(layer, role);
        let tensor = weights
            .get(&name)
            .with_context(|| format!("checkpoint has no tensor {name}"))?;
        let cols = tensor.dims().last().copied().unwrap_or(1);
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        blueprint.tensors.insert(
            (layer, role),
            stored(role, values, cols, model.weights, storage),
        );
    }
    Ok(blueprint)
}

/// Matrices and norms are called `NAME.weight` in checkpoints; biases and initial states have their bare names.
fn checkpoint_name(layer: Option<u32>, role: Role) -> String {
    let name = tensor_name(layer, role);
    let bare = name.ends_with(".weight")
        || matches!(
            role,
            Role::LrBias
                | Role::Tau
                | Role::LnBias
                | Role::W0
                | Role::U0
                | Role::W1
                | Role::U1
                | Role::Decay
        );
    if bare { name } else { format!("{name}.weight") }
}

/// A tensor in the type that the trainer's forward pass sees.
fn stored(
    role: Role,
    values: Vec<f32>,
    cols: usize,
    weights: WeightType,
    storage: Storage,
) -> TensorData {
    let Storage { packed, halves } = storage;
    match role {
        Role::Embed | Role::Head => {
            let (codes, scales) = int_rows(&values, cols, 127);
            TensorData::Int8 { codes, scales }
        }
        Role::W0 | Role::U0 | Role::W1 | Role::U1 => TensorData::F16(values),
        Role::Decay => TensorData::F32(
            values
                .into_iter()
                .map(|x| 1.0 / (1.0 + (-x).exp()))
                .collect(),
        ),
        _ if role.allows(packed) => matrix(values, cols, weights, packed),
        _ if halves && role.allows(DType::F16) => TensorData::F16(values),
        _ => TensorData::F32(values),
    }
}

/// A block's matrix.
fn matrix(values: Vec<f32>, cols: usize, weights: WeightType, packed: DType) -> TensorData {
    let rows = |top| {
        let (codes, scales) = int_rows(&values, cols, top);
        TensorData::Int8 { codes, scales }
    };
    match weights {
        WeightType::Int8 => rows(127),
        WeightType::Int4 => rows(7),
        WeightType::Float => TensorData::F32(values),
        WeightType::Ternary => {
            let (trits, scale) = ternary(&values);
            TensorData::Ternary {
                trits,
                scale,
                dtype: packed,
            }
        }
    }
}

/// Record of layer `layer`; the writer fills in its place in the tensor table.
fn layer_config(c: &ModelConfig, layer: usize) -> LayerConfig {
    let mixer = c.mixer_of(layer);
    let kind = match mixer {
        Mixer::TttLinear => format::Mixer::TttLinear,
        Mixer::TttMlp => format::Mixer::TttMlp,
        Mixer::TttLite => format::Mixer::TttLite,
        Mixer::Attention => format::Mixer::Attention,
    };
    let common = LayerConfig {
        conv: c.conv,
        ffn_conv: c.ffn_conv,
        gate: c.gates(mixer),
        ..LayerConfig::of(kind)
    };
    match mixer {
        Mixer::Attention => LayerConfig {
            kv_f32: c.kv_cache == KvCache::F32,
            kv_heads: c.n_kv_heads() as u16,
            window: c.window as u32,
            ..common
        },
        _ => LayerConfig {
            decay: c.anchor_decay,
            identity: mixer == Mixer::TttLinear && c.fast_start == FastStart::Identity,
            head_rates: mixer != Mixer::TttLite && c.inner_rate == InnerRate::Head,
            ..common
        },
    }
}

/// The core's form of a model's layers.
pub fn layer_records(config: &ModelConfig) -> Vec<LayerConfig> {
    (0..config.n_layers)
        .map(|layer| layer_config(config, layer))
        .collect()
}

/// The core's form of a model's dimensions; `context` is what attention without a window remembers.
pub fn core_config(c: &ModelConfig, context: u32) -> Config {
    Config {
        vocab_size: c.vocab_size as u32,
        d_model: c.d_model as u32,
        n_layers: c.n_layers as u32,
        d_ffn: c.d_ffn as u32,
        norm_eps: c.norm_eps,
        rope_theta: c.rope_theta,
        ln_eps: LN_EPS,
        ttt_base_lr: c.ttt_base_lr,
        mini_batch: c.mini_batch as u16,
        n_heads: c.n_heads as u16,
        activation: match c.activation {
            Activation::Silu => format::Activation::Silu,
            Activation::Relu2 => format::Activation::Relu2,
        },
        tied: c.tie_embeddings,
        float_activations: false,
        document_token: 0,
        context,
    }
}

/// The tokenizer as the blob holds it.
pub fn vocabulary(tokenizer: &Tokenizer) -> Vocabulary {
    let tokens = (0..tokenizer.vocab_size() as u32)
        .map(|id| tokenizer.token_bytes(id).to_vec())
        .collect();
    Vocabulary {
        tokens,
        merges: tokenizer.merges().to_vec(),
    }
}
