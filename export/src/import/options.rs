//! What the user may choose.

use bitttt_core::format::{DType, LayerConfig};

/// Tokens that attention has room for unless the user says otherwise: memory is planned for all of them.
const MOST_CONTEXT: u32 = 4096;

/// How embedding and head are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Embedding {
    /// f32 as f32, f16 as f16, bf16 as f16 where its values fit.
    #[default]
    AsIs,
    /// Codes with a scale a row.
    I8,
    /// Rounded to binary16.
    F16,
    /// Widened.
    F32,
}

/// What matrices multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Rounded to 8 bits, a scale a token.
    I8,
    /// As they are.
    F32,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCache {
    /// Binary16.
    F16,
    /// Binary32.
    F32,
}

/// What becomes of matrices that are not ternary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matrices {
    /// What the format does by default: most refuse them.
    #[default]
    AsTheyAre,
    /// Rounded to ternary, with the loss in the summary.
    Ternarise,
    /// Kept as f16 or f32.
    Float,
}

/// How weights of the type `I2_S` of Microsoft's fork of llama.cpp lie in their bytes, which a GGUF file does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum I2sLayout {
    /// 128 weights in 32 bytes: made on x86, as published files are.
    #[default]
    X86,
    /// 64 weights in 16 bytes: made on ARM.
    Arm,
}

/// All choices.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Storage of ternary weights: `t2` or `t5`.
    pub weights: DType,
    /// Storage of embedding and head.
    pub embedding: Embedding,
    /// `None`: as the model was trained.
    pub activations: Option<Activations>,
    /// `None`: f32 if the checkpoint is f32, else f16.
    pub kv: Option<KvCache>,
    /// `None`: the model's own context, at most 4096.
    pub context: Option<u32>,
    /// Whether a model without a tokenizer is refused.
    pub needs_tokenizer: bool,
    /// Matrices that are not ternary.
    pub matrices: Matrices,
    /// Inner learning rate instead of the one in the config (`bit-llama`).
    pub inner_lr: Option<f32>,
    /// Layout of `I2_S` weights (`gguf`).
    pub i2s: I2sLayout,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            weights: DType::T2,
            embedding: Embedding::default(),
            activations: None,
            kv: None,
            context: None,
            needs_tokenizer: true,
            matrices: Matrices::default(),
            inner_lr: None,
            i2s: I2sLayout::default(),
        }
    }
}

impl Options {
    /// Tokens that attention has room for, of a model that was made for `own`.
    pub fn context(&self, own: u32) -> u32 {
        self.context.unwrap_or(own.min(MOST_CONTEXT))
    }

    /// Sets how an attention layer keeps keys and values.
    pub fn keep(&self, layer: &mut LayerConfig, source_is_f32: bool) {
        layer.kv_f32 = match self.kv {
            Some(kv) => kv == KvCache::F32,
            None => source_is_f32,
        };
    }
}
