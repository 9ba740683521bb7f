//! The fixed part of the config section: the model's dimensions. The layer records behind it are in [`super::layer`].

use super::layer::LAYER_BYTES;
use super::read::{f32_at, u8_at, u16_at, u32_at};
use super::{BlobError, IMPORTED};

/// Size of the fixed part.
pub const CONFIG_BYTES: usize = 64;

/// Byte offsets of the fixed part's fields.
pub mod field {
    #![allow(missing_docs)]
    pub const VOCAB_SIZE: usize = 0;
    pub const D_MODEL: usize = 4;
    pub const N_LAYERS: usize = 8;
    pub const D_FFN: usize = 12;
    pub const NORM_EPS: usize = 16;
    pub const ROPE_THETA: usize = 20;
    pub const LN_EPS: usize = 24;
    pub const TTT_BASE_LR: usize = 28;
    pub const MINI_BATCH: usize = 32;
    pub const N_HEADS: usize = 34;
    pub const ACTIVATION: usize = 36;
    pub const FLAGS: usize = 37;
    pub const DOCUMENT_TOKEN: usize = 40;
    pub const CONTEXT: usize = 44;
}

/// `FLAGS`: the head shares the embedding's matrix.
pub const FLAG_TIED: u8 = 1;
/// `FLAGS`: matrices take activations as f32, not quantised to int8.
pub const FLAG_FLOAT_ACTIVATIONS: u8 = 2;
/// Widest matrix: an i32 holds the sum of this many int8 products.
pub const MAX_WIDTH: u32 = 131_072;
/// Largest vocabulary.
pub const MAX_VOCAB: u32 = 1 << 24;

/// Most layers.
pub const MAX_LAYERS: u32 = 4096;

/// Taps of the causal convolution.
pub const CONV_TAPS: usize = 4;

/// Gate activation of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)` (SwiGLU; Shazeer 2020).
    Silu,
    /// `max(0, x)^2` (squared ReLU; So et al. 2021).
    Relu2,
}

/// The model's dimensions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Number of tokens `V`.
    pub vocab_size: u32,
    /// Width of the residual stream `D`.
    pub d_model: u32,
    /// Number of layers.
    pub n_layers: u32,
    /// Hidden width of the feed-forward network `F`.
    pub d_ffn: u32,
    /// Epsilon of RMSNorm.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Epsilon of the layer norm inside TTT.
    pub ln_eps: f32,
    /// Inner learning rate before the learned gate.
    pub ttt_base_lr: f32,
    /// Tokens in a TTT mini-batch `b`.
    pub mini_batch: u16,
    /// Heads `H` of the TTT mixers, query heads of attention.
    pub n_heads: u16,
    /// Gate activation of the feed-forward network.
    pub activation: Activation,
    /// The head is the embedding's matrix.
    pub tied: bool,
    /// Matrices of every type take activations as f32, not quantised to int8: for models that were trained so. Needs feature
    /// `imported`.
    pub float_activations: bool,
    /// Token that starts and separates documents.
    pub document_token: u32,
    /// Tokens that an attention layer without a window has room for, unless [`crate::Batch::with_context`] says
    /// otherwise. May be 0 where there is no such layer.
    pub context: u32,
}

impl Config {
    /// Width of a head, `D / H`.
    #[cfg_attr(bitttt_micro, inline(never))]
    pub const fn d_head(&self) -> u32 {
        match self.d_model.checked_div(self.n_heads as u32) {
            Some(d) => d,
            None => 0,
        }
    }

    /// Hidden width of a `ttt-mlp` head's inner network, `4 D / H`.
    pub const fn d_inner(&self) -> u32 {
        4 * self.d_head()
    }

    /// Width of a `ttt-lite` layer's matrix, `D / 4`.
    pub const fn d_lite(&self) -> u32 {
        self.d_model / 4
    }

    /// Reads and checks the fixed part.
    ///
    /// # Errors
    /// [`BlobError::Config`] naming the field.
    pub const fn parse(bytes: &[u8]) -> Result<Self, BlobError> {
        let activation = match u8_at(bytes, field::ACTIVATION) {
            0 => Activation::Silu,
            1 => Activation::Relu2,
            _ => return Err(BlobError::Config("activation")),
        };
        let flags = u8_at(bytes, field::FLAGS);
        if flags & !(FLAG_TIED | FLAG_FLOAT_ACTIVATIONS) != 0 {
            return Err(BlobError::Config("flags"));
        }
        if flags & FLAG_FLOAT_ACTIVATIONS != 0 && !IMPORTED {
            return Err(BlobError::LeftOut {
                what: "activations kept as f32",
                feature: "imported",
            });
        }
        let config = Self {
            vocab_size: u32_at(bytes, field::VOCAB_SIZE),
            d_model: u32_at(bytes, field::D_MODEL),
            n_layers: u32_at(bytes, field::N_LAYERS),
            d_ffn: u32_at(bytes, field::D_FFN),
            norm_eps: f32_at(bytes, field::NORM_EPS),
            rope_theta: f32_at(bytes, field::ROPE_THETA),
            ln_eps: f32_at(bytes, field::LN_EPS),
            ttt_base_lr: f32_at(bytes, field::TTT_BASE_LR),
            mini_batch: u16_at(bytes, field::MINI_BATCH),
            n_heads: u16_at(bytes, field::N_HEADS),
            activation,
            tied: flags & FLAG_TIED != 0,
            float_activations: IMPORTED && flags & FLAG_FLOAT_ACTIVATIONS != 0,
            document_token: u32_at(bytes, field::DOCUMENT_TOKEN),
            context: u32_at(bytes, field::CONTEXT),
        };
        match config.fault() {
            Some(name) => Err(BlobError::Config(name)),
            None if bytes.len() as u64
                != CONFIG_BYTES as u64 + config.n_layers as u64 * LAYER_BYTES as u64 =>
            {
                Err(BlobError::Config("n_layers"))
            }
            None => Ok(config),
        }
    }

    /// The first field with an impossible value.
    const fn fault(&self) -> Option<&'static str> {
        if self.vocab_size == 0 || self.vocab_size > MAX_VOCAB {
            return Some("vocab_size");
        }
        if self.d_model == 0 || self.d_model > MAX_WIDTH {
            return Some("d_model");
        }
        if self.n_layers == 0 || self.n_layers > MAX_LAYERS {
            return Some("n_layers");
        }
        if self.d_ffn == 0 || self.d_ffn > MAX_WIDTH {
            return Some("d_ffn");
        }
        if self.n_heads == 0
            || !self.d_model.is_multiple_of(self.n_heads as u32)
            || !self.d_head().is_multiple_of(2)
        {
            return Some("n_heads");
        }
        if self.mini_batch == 0 {
            return Some("mini_batch");
        }
        if self.document_token >= self.vocab_size {
            return Some("document_token");
        }
        self.float_fault()
    }

    const fn float_fault(&self) -> Option<&'static str> {
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Some("norm_eps");
        }
        if !(self.ln_eps > 0.0 && self.ln_eps < 1.0) {
            return Some("ln_eps");
        }
        if !(self.rope_theta > 1.0 && self.rope_theta.is_finite()) {
            return Some("rope_theta");
        }
        if !(self.ttt_base_lr >= 0.0 && self.ttt_base_lr.is_finite()) {
            return Some("ttt_base_lr");
        }
        None
    }
}
