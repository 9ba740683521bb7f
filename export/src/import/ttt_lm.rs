//! Checkpoints of the reference TTT-LM (Sun et al. 2024, arXiv 2407.04620; its PyTorch code): TTT-Linear and TTT-MLP,
//! with and without the convolutions and the gate of its Mamba backbone. Rotary pairs are adjacent there as here.

use super::directory::{HEAD, activation, check_head, check_names, config};
use super::linear::Linears;
use super::rows::{Elements, InMemory, Tensor, Width};
use super::safetensors::Tensors;
use super::{Activations, Fields, Foreign, ImportError, Matrices, Options, Source, text};
use crate::stream::Place;
use bitttt_core::format::config::CONV_TAPS;
use bitttt_core::format::{Config, DType, LayerConfig, Mixer, Role};
use std::path::Path;

/// Epsilon of both layer norms, which the reference does not let configs choose.
const LN_EPS: f32 = 1e-6;
const EMBED: &str = "model.embed_tokens.weight";

struct TttLm {
    tensors: Tensors,
    linears: Linears,
}

/// Opens a checkpoint's directory. Matrices stay floats unless they are to be ternarised.
///
/// # Errors
/// Files that are missing or damaged, and whatever cannot be represented.
pub fn open(directory: &Path, options: &Options) -> Result<Foreign<'static>, ImportError> {
    let fields = config(directory, "ttt")?;
    let tensors = Tensors::in_directory(directory)?;
    let mut config = dimensions(&fields, options)?;
    let text = text::read(directory, &fields, "ttt-lm", config.vocab_size, options)?;
    config.document_token = text.document_token;
    let layer = layer(&fields)?;
    check_head(&fields, &tensors, EMBED, config.tied)?;
    check_names(&tensors, &config, &layer, name_of)?;
    let matrices = match options.matrices {
        Matrices::AsTheyAre => Matrices::Float,
        chosen => chosen,
    };
    Ok(Foreign {
        layers: vec![layer; config.n_layers as usize],
        config,
        metadata: text.metadata,
        source: Box::new(TttLm {
            tensors,
            linears: Linears::plain(matrices),
        }),
    })
}

impl Source for TttLm {
    fn tensor(&self, place: &Place) -> Result<Tensor<'_>, ImportError> {
        let name = name_of(place.layer, place.role);
        let (rows, cols) = (place.rows as usize, place.cols as usize);
        let heads = |shape: &[usize]| self.tensors.shaped(&name, shape)?.float_tensor(cols);
        match place.role {
            Role::Embed | Role::Head | Role::LnScale | Role::LnBias => heads(&[rows, cols]),
            role if role.allows(DType::T2) => {
                self.linears.tensor(&self.tensors, &name, [rows, cols])
            }
            Role::PreConv | Role::QueryConv | Role::KeyConv => self.taps(&name, cols),
            Role::Lr | Role::U0 | Role::U1 => heads(&[rows, 1, cols]),
            Role::LrBias => heads(&[cols, 1]),
            Role::W0 | Role::W1 => self.fast(&name, rows, cols),
            _ => heads(&[cols]),
        }
    }

    fn bytes(&self) -> u64 {
        self.tensors.bytes()
    }
}

impl TttLm {
    /// Taps `[D, 1, 4]` of a depthwise convolution as `[4, D]`.
    fn taps(&self, name: &str, channels: usize) -> Result<Tensor<'_>, ImportError> {
        let stored = self.tensors.shaped(name, &[channels, 1, CONV_TAPS])?;
        let taps = stored.to_vec()?;
        let turned =
            (0..CONV_TAPS * channels).map(|i| taps[i % channels * CONV_TAPS + i / channels]);
        let rows = InMemory::new(turned.collect(), channels);
        Ok(Tensor {
            elements: Elements::Float(Box::new(rows), Width::F32),
            bytes: stored.bytes,
            loss: None,
        })
    }

    /// Where the fast weights of all heads start, `[heads, inputs, outputs]`, as rows of `outputs`.
    fn fast(&self, name: &str, rows: usize, cols: usize) -> Result<Tensor<'_>, ImportError> {
        let stored = self.tensors.get(name)?;
        match *stored.shape {
            [heads, inputs, outputs] if heads * inputs == rows && outputs == cols => {
                stored.float_tensor(cols)
            }
            _ => {
                let what = format!(
                    "has shape {:?}; heads of {cols} outputs, {rows} rows in all, were expected",
                    stored.shape
                );
                Err(stored.wrong(what))
            }
        }
    }
}

/// Name in the checkpoint; roles that these models do not have have none.
fn name_of(layer: Option<u32>, role: Role) -> String {
    let own = match role {
        Role::Embed => return EMBED.to_owned(),
        Role::Head => return HEAD.to_owned(),
        Role::Norm => return "model.norm.weight".to_owned(),
        Role::MixerNorm => "seq_norm.weight",
        Role::Query => "seq_modeling_block.q_proj.weight",
        Role::Key => "seq_modeling_block.k_proj.weight",
        Role::Value => "seq_modeling_block.v_proj.weight",
        Role::Output => "seq_modeling_block.o_proj.weight",
        Role::Gate => "seq_modeling_block.g_proj.weight",
        Role::Lr => "seq_modeling_block.learnable_ttt_lr_weight",
        Role::LrBias => "seq_modeling_block.learnable_ttt_lr_bias",
        Role::Tau => "seq_modeling_block.learnable_token_idx",
        Role::LnScale => "seq_modeling_block.ttt_norm_weight",
        Role::LnBias => "seq_modeling_block.ttt_norm_bias",
        Role::W0 => "seq_modeling_block.W1",
        Role::U0 => "seq_modeling_block.b1",
        Role::W1 => "seq_modeling_block.W2",
        Role::U1 => "seq_modeling_block.b2",
        Role::OutNorm => "seq_modeling_block.post_norm.weight",
        Role::OutNormBias => "seq_modeling_block.post_norm.bias",
        Role::QueryConv => "seq_modeling_block.conv_q.weight",
        Role::QueryConvBias => "seq_modeling_block.conv_q.bias",
        Role::KeyConv => "seq_modeling_block.conv_k.weight",
        Role::KeyConvBias => "seq_modeling_block.conv_k.bias",
        Role::PreNorm => "conv.norm.weight",
        Role::PreConv => "conv.conv.weight",
        Role::PreConvBias => "conv.conv.bias",
        Role::FfnNorm => "ffn_norm.weight",
        Role::FfnGate => "mlp.gate_proj.weight",
        Role::FfnUp => "mlp.up_proj.weight",
        Role::FfnDown => "mlp.down_proj.weight",
        _ => return String::new(),
    };
    format!("model.layers.{}.{own}", layer.unwrap_or_default())
}

fn dimensions(fields: &Fields, options: &Options) -> Result<Config, ImportError> {
    let (n_heads, d_model) = (
        fields.size("num_attention_heads")?,
        fields.size("hidden_size")?,
    );
    if n_heads > u32::from(u16::MAX) || !d_model.is_multiple_of(2 * n_heads) {
        let what = format!(
            "is {n_heads}, which does not divide a hidden_size of {d_model} into even heads"
        );
        return Err(fields.wrong("num_attention_heads", what));
    }
    let mini_batch = fields.size_or("mini_batch_size", Some(16))?;
    if fields.has("rope_scaling") {
        let what = "is set: the reference has no scaled rotary frequencies";
        return Err(fields.wrong("rope_scaling", what));
    }
    let float_activations = options.activations != Some(Activations::I8);
    Ok(Config {
        vocab_size: fields.size("vocab_size")?,
        d_model,
        n_layers: fields.size("num_hidden_layers")?,
        d_ffn: fields.size("intermediate_size")?,
        norm_eps: fields.number("rms_norm_eps", Some(1e-6))?,
        rope_theta: fields.number("rope_theta", Some(10_000.0))?,
        ln_eps: LN_EPS,
        ttt_base_lr: fields.number("ttt_base_lr", Some(1.0))?,
        mini_batch: u16::try_from(mini_batch).map_err(|_| {
            fields.wrong("mini_batch_size", format!("is {mini_batch}, above 65535"))
        })?,
        n_heads: n_heads as u16,
        activation: activation(fields, "silu")?,
        tied: fields.flag("tie_word_embeddings", true)?,
        float_activations,
        document_token: 0,
        context: 0,
    })
}

fn layer(fields: &Fields) -> Result<LayerConfig, ImportError> {
    let mixer = match fields.text("ttt_layer_type")?.unwrap_or("linear") {
        "linear" => Mixer::TttLinear,
        "mlp" => Mixer::TttMlp,
        other => {
            let what = format!("is `{other}`, not linear or mlp");
            return Err(fields.wrong("ttt_layer_type", what));
        }
    };
    let gate = fields.flag("use_gate", false)?;
    let layer = LayerConfig {
        plain: true,
        layer_norm: true,
        gate,
        gelu_gate: gate,
        pre_conv: fields.flag("pre_conv", false)?,
        shared_qk: fields.flag("share_qk", false)?,
        ..LayerConfig::of(mixer)
    };
    let taps = fields.size_or("conv_kernel", Some(CONV_TAPS as u32))?;
    if taps != CONV_TAPS as u32 && (layer.pre_conv || layer.shared_qk) {
        let what = format!("is {taps}; convolutions have 4 taps");
        return Err(fields.wrong("conv_kernel", what));
    }
    Ok(layer)
}
