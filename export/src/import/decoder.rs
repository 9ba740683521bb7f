//! What the Hugging Face decoders that can be imported have in common: one config, one set of tensor names, attention
//! with rotary positions in two halves.

use super::directory::{activation, check_head, check_names, config};
use super::linear::Linears;
use super::rows::{Elements, HalfSplit, Tensor, Width};
use super::safetensors::Tensors;
use super::{Activations, Fields, Foreign, ImportError, Options, Source, text};
use crate::stream::Place;
use bitttt_core::format::{Config, DType, LayerConfig, Mixer, Role};
use std::path::Path;

/// What tells one decoder from another.
pub(super) struct Family {
    /// Name of the importer.
    pub source: &'static str,
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// `hidden_act` where the config says nothing.
    pub activation: &'static str,
    pub norm_eps: f32,
    pub rope_theta: f32,
    /// Whether norms stand before `o_proj` and `down_proj`.
    pub sub_norms: bool,
}

struct Decoder {
    tensors: Tensors,
    linears: Linears,
    d_head: usize,
}

/// Opens the checkpoint in a directory.
pub(super) fn open(
    directory: &Path,
    options: &Options,
    family: &Family,
) -> Result<Foreign<'static>, ImportError> {
    let fields = config(directory, family.model_type)?;
    let tensors = Tensors::in_directory(directory)?;
    let (mut config, kv_heads) = dimensions(&fields, options, family)?;
    let linears = Linears::of(&fields, options)?;
    config.float_activations = match options.activations {
        Some(activations) => activations == Activations::F32,
        None => !linears.quantises_activations(),
    };
    let text = text::read(
        directory,
        &fields,
        family.source,
        config.vocab_size,
        options,
    )?;
    config.document_token = text.document_token;
    let (_, width) = tensors.get(EMBED)?.floats(config.d_model as usize)?;
    let mut layer = LayerConfig {
        kv_heads: kv_heads as u16,
        plain: !family.sub_norms,
        ..LayerConfig::of(Mixer::Attention)
    };
    options.keep(&mut layer, width == Width::F32);
    let layers = vec![layer; config.n_layers as usize];
    check_head(&fields, &tensors, EMBED, config.tied)?;
    if config.tied && linears.converts(HEAD) {
        let what =
            "leaves out lm_head: a quantised head that is also the embedding cannot be represented";
        return Err(fields.wrong("quantization_config.modules_to_not_convert", what));
    }
    check_names(&tensors, &config, &layer, name_of)?;
    Ok(Foreign {
        config,
        layers,
        metadata: text.metadata,
        source: Box::new(Decoder {
            tensors,
            linears,
            d_head: config.d_head() as usize,
        }),
    })
}

impl Source for Decoder {
    fn tensor(&self, place: &Place) -> Result<Tensor<'_>, ImportError> {
        let name = name_of(place.layer, place.role);
        let (rows, cols) = (place.rows as usize, place.cols as usize);
        let float = |shape: &[usize]| self.tensors.shaped(&name, shape)?.float_tensor(cols);
        match place.role {
            Role::Embed => float(&[rows, cols]),
            Role::Head if !self.linears.converts(HEAD) => float(&[rows, cols]),
            Role::Query | Role::Key => {
                let tensor = self.linears.tensor(&self.tensors, &name, [rows, cols])?;
                Ok(side_by_side(tensor, self.d_head))
            }
            role if role.allows(DType::T2) => {
                self.linears.tensor(&self.tensors, &name, [rows, cols])
            }
            _ => float(&[cols]),
        }
    }

    fn bytes(&self) -> u64 {
        self.tensors.bytes()
    }
}

/// The rotary pairs of each head put side by side.
fn side_by_side(tensor: Tensor<'_>, d_head: usize) -> Tensor<'_> {
    let elements = match tensor.elements {
        Elements::Ternary(rows, scale) => Elements::Ternary(
            Box::new(HalfSplit { rows, d_head }),
            scale.half_split(d_head),
        ),
        Elements::Float(rows, width) => {
            Elements::Float(Box::new(HalfSplit { rows, d_head }), width)
        }
    };
    Tensor { elements, ..tensor }
}

const EMBED: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head";

/// Name in the checkpoint; roles that no decoder has have none.
fn name_of(layer: Option<u32>, role: Role) -> String {
    let own = match role {
        Role::Embed => return EMBED.to_owned(),
        Role::Head => return format!("{HEAD}.weight"),
        Role::Norm => return "model.norm.weight".to_owned(),
        Role::MixerNorm => "input_layernorm",
        Role::Query => "self_attn.q_proj",
        Role::Key => "self_attn.k_proj",
        Role::Value => "self_attn.v_proj",
        Role::Output => "self_attn.o_proj",
        Role::OutNorm => "self_attn.attn_sub_norm",
        Role::FfnNorm => "post_attention_layernorm",
        Role::FfnGate => "mlp.gate_proj",
        Role::FfnUp => "mlp.up_proj",
        Role::FfnSubNorm => "mlp.ffn_sub_norm",
        Role::FfnDown => "mlp.down_proj",
        _ => return String::new(),
    };
    format!("model.layers.{}.{own}.weight", layer.unwrap_or_default())
}

fn dimensions(
    fields: &Fields,
    options: &Options,
    family: &Family,
) -> Result<(Config, u32), ImportError> {
    let n_heads = fields.size("num_attention_heads")?;
    let kv_heads = fields.size_or("num_key_value_heads", Some(n_heads))?;
    let d_model = fields.size("hidden_size")?;
    if n_heads > u32::from(u16::MAX) || !d_model.is_multiple_of(2 * n_heads) {
        let what = format!(
            "is {n_heads}, which does not divide a hidden_size of {d_model} into even heads"
        );
        return Err(fields.wrong("num_attention_heads", what));
    }
    if !n_heads.is_multiple_of(kv_heads) {
        let what = format!("is {kv_heads}, which does not divide {n_heads} heads");
        return Err(fields.wrong("num_key_value_heads", what));
    }
    let d_head = fields.size_or("head_dim", Some(d_model / n_heads))?;
    if d_head != d_model / n_heads {
        let what = format!(
            "is {d_head}, not hidden_size / num_attention_heads = {}: such heads cannot be represented",
            d_model / n_heads
        );
        return Err(fields.wrong("head_dim", what));
    }
    refuse_what_is_not_represented(fields)?;
    let config = Config {
        vocab_size: fields.size("vocab_size")?,
        d_model,
        n_layers: fields.size("num_hidden_layers")?,
        d_ffn: fields.size("intermediate_size")?,
        norm_eps: fields.number("rms_norm_eps", Some(family.norm_eps))?,
        rope_theta: rope_theta(fields, family.rope_theta)?,
        ln_eps: 1e-6,
        ttt_base_lr: 0.0,
        mini_batch: 1,
        n_heads: n_heads as u16,
        activation: activation(fields, family.activation)?,
        tied: fields.flag("tie_word_embeddings", false)?,
        float_activations: false,
        document_token: 0,
        context: options.context(fields.size_or("max_position_embeddings", Some(2048))?),
    };
    Ok((config, kv_heads))
}

/// Fields that would make another model of it.
fn refuse_what_is_not_represented(fields: &Fields) -> Result<(), ImportError> {
    let biases = "linear layers with biases cannot be represented";
    fields.refuse_flag("attention_bias", biases)?;
    fields.refuse_flag("mlp_bias", biases)?;
    if let Some(window) = fields.get("sliding_window") {
        let what = format!("is {window}: a model of this kind attends to everything");
        return Err(fields.wrong("sliding_window", what));
    }
    let rotated = fields.number("partial_rotary_factor", Some(1.0))?;
    if rotated != 1.0 {
        let what = format!("is {rotated}: heads that are rotated in part cannot be represented");
        return Err(fields.wrong("partial_rotary_factor", what));
    }
    Ok(())
}

/// Base of the rotary frequencies, which newer configs keep in `rope_parameters`.
fn rope_theta(fields: &Fields, default: f32) -> Result<f32, ImportError> {
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(scaling) = fields.object(name)? else {
            continue;
        };
        let kind = scaling.text("rope_type")?.or(scaling.text("type")?);
        if let Some(kind) = kind.filter(|&kind| kind != "default") {
            let what = format!("is `{kind}`: scaled rotary frequencies cannot be represented");
            return Err(fields.wrong(name, what));
        }
        if scaling.has("rope_theta") {
            return scaling.number("rope_theta", None);
        }
    }
    fields.number("rope_theta", Some(default))
}
