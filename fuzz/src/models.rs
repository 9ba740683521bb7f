//! Small models, and what every model must hold to.

use bitttt_core::format::{Config, DType, LayerConfig, Mixer};
use bitttt_core::{Batch, Model};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{FULL_LAYER, blueprint};

/// Dimensions at which a blob has a few kilobytes.
pub fn tiny_config() -> Config {
    Config {
        d_model: 12,
        d_ffn: 20,
        n_heads: 3,
        mini_batch: 4,
        context: 24,
        ..bitttt_export::random::small_config()
    }
}

/// One layer of each kind, options on.
pub fn layers() -> [LayerConfig; 5] {
    let imported = LayerConfig {
        plain: true,
        layer_norm: true,
        pre_conv: true,
        shared_qk: true,
        ..LayerConfig::of(Mixer::TttLinear)
    };
    let mlp = LayerConfig {
        mixer: Mixer::TttMlp,
        ffn_conv: true,
        ..FULL_LAYER
    };
    let lite = LayerConfig {
        decay: true,
        ..LayerConfig::of(Mixer::TttLite)
    };
    let attention = LayerConfig {
        kv_heads: 1,
        ..LayerConfig::of(Mixer::Attention)
    };
    [FULL_LAYER, mlp, lite, attention, imported]
}

/// A blob of one such layer, aligned.
pub fn tiny_blob(layer: usize, dtype: DType) -> AlignedCopy {
    let layers = [layers()[layer]];
    let blueprint = blueprint(&tiny_config(), &layers, dtype, layer as u64);
    AlignedCopy::of(&blueprint.to_bytes().expect("a tiny model is valid"))
}

/// Memory for a session, unless the model asks for more than a target should spend.
pub fn memory(model: &Model<'_>, batch: Batch) -> Option<Vec<f32>> {
    let words = model.memory(batch).words();
    (words <= 1 << 18).then(|| vec![f32::NAN; words])
}

/// Bits of logits, all NaN alike: which one comes out of an operation on two is the machine's choice.
pub fn bits(logits: &[f32]) -> Vec<u32> {
    let canonical = |x: &f32| {
        if x.is_nan() {
            f32::NAN.to_bits()
        } else {
            x.to_bits()
        }
    };
    logits.iter().map(canonical).collect()
}
