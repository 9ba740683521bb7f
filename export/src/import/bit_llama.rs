//! Checkpoints of Bit-TTT Engine, the project that this one grew from: a directory with `config.json`,
//! `tokenizer.json` and `model.safetensors`, or all of it in one `.bitt` file.
//!
//! Its ternary layers are not multiplied by their scale and take activations as they are: the blob has unit scales and
//! float activations. Its fast weights start as zeros.

use super::directory::{HEAD, check_names};
use super::rows::{Elements, Rows, Tensor, Ternarised, in_runs};
use super::safetensors::Tensors;
use super::{Activations, Fields, Foreign, ImportError, Metadata, Options, Source, text};
use crate::stream::{Place, Scale};
use bitttt_core::format::{Activation, Config, DType, LayerConfig, Mixer, Role};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

const MAGIC: &[u8; 4] = b"BITT";
/// Longest header of a `.bitt` file that is believed.
const MOST_HEADER: u64 = 1 << 28;
const HINT: &str = "give the checkpoint's directory, or its .bitt file";

struct BitLlama(Tensors);

/// Opens a checkpoint, a directory or a file.
///
/// # Errors
/// Files that are missing or damaged, and whatever cannot be represented.
pub fn open(path: &Path, options: &Options) -> Result<Foreign<'static>, ImportError> {
    let (fields, tokenizer, tensors) = match path.is_dir() {
        true => {
            let fields = Fields::open(&path.join("config.json"), HINT)?;
            let tokenizer = text::tokenizer(path, options)?;
            (fields, tokenizer, Tensors::in_directory(path)?)
        }
        false => one_file(path, options)?,
    };
    let config = dimensions(&fields, options)?;
    let layer = LayerConfig {
        plain: true,
        ..LayerConfig::of(Mixer::TttLite)
    };
    check_names(&tensors, &config, &layer, name_of)?;
    Ok(Foreign {
        layers: vec![layer; config.n_layers as usize],
        config,
        metadata: Metadata {
            source: "bit-llama".to_owned(),
            tokenizer,
            ..Metadata::default()
        },
        source: Box::new(BitLlama(tensors)),
    })
}

type Parts = (Fields, Option<Value>, Tensors);

/// Magic, length of a JSON header with config and tokenizer, header, safetensors.
fn one_file(path: &Path, options: &Options) -> Result<Parts, ImportError> {
    let unreadable = |fault| ImportError::read(path, fault, HINT);
    let mut file = File::open(path).map_err(unreadable)?;
    let mut front = [0; 12];
    let whole = file.read_exact(&mut front).is_ok() && front.starts_with(MAGIC);
    let (_, length) = front.split_at(4);
    let length = length
        .try_into()
        .map(u64::from_le_bytes)
        .unwrap_or(u64::MAX);
    if !whole || length > MOST_HEADER {
        return Err(ImportError::file(path, format!("is no .bitt file; {HINT}")));
    }
    let mut text = Vec::new();
    file.take(length)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    let header = Fields::parse(path, &text)?;
    let config = header
        .object("config")?
        .ok_or_else(|| header.wrong("config", "is missing: export the .bitt file again"))?;
    let own = match header.get("tokenizer") {
        Some(Value::String(text)) => serde_json::from_str(text).ok(),
        other => other.cloned(),
    };
    let tokenizer = match own.filter(Value::is_object) {
        own @ Some(_) if options.needs_tokenizer => own,
        None if options.needs_tokenizer => {
            let what = "is missing: import without text by --no-tokenizer";
            return Err(header.wrong("tokenizer", what));
        }
        _ => None,
    };
    Ok((config, tokenizer, Tensors::in_file(path, 12 + length)?))
}

fn dimensions(fields: &Fields, options: &Options) -> Result<Config, ImportError> {
    let d_model = fields.size("hidden_dim")?;
    if !d_model.is_multiple_of(4) || d_model > u32::MAX / 4 {
        let what = format!("is {d_model}, which cannot be cut into quarters");
        return Err(fields.wrong("hidden_dim", what));
    }
    let layers = match fields.has("n_layers") {
        true => "n_layers",
        false => "num_layers",
    };
    let rate = match options.inner_lr {
        Some(rate) => rate,
        None => fields.number("inner_lr", None)?,
    };
    Ok(Config {
        vocab_size: fields.size("vocab_size")?,
        d_model,
        n_layers: fields.size(layers)?,
        d_ffn: 4 * d_model,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        ln_eps: 1e-6,
        ttt_base_lr: rate,
        mini_batch: 32,
        n_heads: 1,
        activation: Activation::Silu,
        tied: false,
        float_activations: options.activations != Some(Activations::I8),
        document_token: 0,
        context: 0,
    })
}

impl Source for BitLlama {
    fn tensor(&self, place: &Place) -> Result<Tensor<'_>, ImportError> {
        let name = name_of(place.layer, place.role);
        let (rows, cols) = (place.rows as usize, place.cols as usize);
        match place.role {
            Role::Embed | Role::Head => self.0.shaped(&name, &[rows, cols])?.float_tensor(cols),
            role if role.allows(DType::T2) => {
                let stored = self.0.shaped(&name, &[rows, cols])?;
                let (values, _) = stored.floats(cols)?;
                let weights = Ternarised {
                    inverse: inverse_scale(&values, rows)?,
                    rows: values,
                    round: f32::round,
                };
                Ok(Tensor {
                    elements: Elements::Ternary(Box::new(weights), Scale::Tensor(1.0)),
                    bytes: stored.bytes,
                    loss: None,
                })
            }
            _ => self.0.shaped(&name, &[cols])?.float_tensor(cols),
        }
    }

    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}

/// One by the mean of all absolute weights, summed one after the other in f32: borderline weights flip with the order.
fn inverse_scale(values: &dyn Rows<f32>, rows: usize) -> Result<f32, ImportError> {
    let mut sum = 0f32;
    in_runs(values, rows, |_, values| {
        sum = values.iter().fold(sum, |sum, x| sum + x.abs());
        Ok(())
    })?;
    let scale = sum * (1.0 / (rows * values.cols()) as f64) as f32;
    Ok(if scale > 0.0 { 1.0 / scale } else { 0.0 })
}

/// Name in the checkpoint.
fn name_of(layer: Option<u32>, role: Role) -> String {
    let own = match role {
        Role::Embed => return "embed.weight".to_owned(),
        Role::Head => return HEAD.to_owned(),
        Role::Norm => return "norm_f.weight".to_owned(),
        Role::MixerNorm => "norm1",
        Role::Down => "ttt.down",
        Role::Up => "ttt.up",
        Role::FfnNorm => "norm2",
        Role::FfnGate => "mlp.gate_proj",
        Role::FfnUp => "mlp.up_proj",
        Role::FfnDown => "mlp.down_proj",
        _ => return String::new(),
    };
    format!("layers.{}.{own}.weight", layer.unwrap_or_default())
}
