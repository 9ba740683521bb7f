//! The models that firmware is tried with.

use crate::command::root;
use anyhow::{Context, Result};
use bitttt_core::format::{Config, DType, LayerConfig, Mixer};
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use bitttt_export::{AlignedCopy, Blueprint, TensorData};
use std::path::{Path, PathBuf};

/// The model that the repository carries, if it is there.
pub fn demo() -> Option<PathBuf> {
    Some(root().join("demo/demo.bttt")).filter(|path| path.is_file())
}

/// A random model of the size of the demo, every part of a layer in use.
pub fn random(dtype: DType) -> Result<PathBuf> {
    let config = Config {
        d_model: 128,
        d_ffn: 320,
        n_heads: 4,
        mini_batch: 16,
        ..small_config()
    };
    let blueprint = blueprint(&config, &[FULL_LAYER; 3], dtype, 1);
    save(&blueprint, &format!("random-{}", dtype.name()))
}

/// A random model with a layer of each mixer.
pub fn mixers() -> Result<PathBuf> {
    let config = Config {
        d_model: 64,
        d_ffn: 144,
        n_heads: 4,
        mini_batch: 8,
        ..small_config()
    };
    let layers = Mixer::ALL.map(|mixer| match mixer {
        Mixer::TttLinear => FULL_LAYER,
        Mixer::Attention => LayerConfig {
            kv_heads: 2,
            window: 24,
            ..LayerConfig::of(mixer)
        },
        _ => LayerConfig::of(mixer),
    });
    save(&blueprint(&config, &layers, DType::T5, 1), "mixers")
}

/// A random model for a board with 16 KiB of RAM, every part of a layer in use, stored as every firmware reads it.
pub fn small() -> Result<PathBuf> {
    let config = Config {
        d_model: 32,
        d_ffn: 72,
        n_heads: 4,
        mini_batch: 4,
        ..small_config()
    };
    let mut blueprint = blueprint(&config, &[FULL_LAYER], DType::T5, 1);
    for tensor in blueprint.tensors.values_mut() {
        if let TensorData::F16(values) = tensor {
            *tensor = TensorData::F32(std::mem::take(values));
        }
    }
    save(&blueprint, "small")
}

fn save(blueprint: &Blueprint, name: &str) -> Result<PathBuf> {
    let folder = root().join("target/xtask");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(name).with_extension("bttt");
    blueprint.save(&path)?;
    Ok(path)
}

/// A model's file, aligned as a session needs it.
pub fn read(path: &Path) -> Result<AlignedCopy> {
    let bytes =
        std::fs::read(path).with_context(|| format!("cannot read the model {}", path.display()))?;
    Ok(AlignedCopy::of(&bytes))
}

/// The file named on the command line, else the demo, else a random model; absolute, because builds run elsewhere.
pub fn choose(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("cannot read the model {}", path.display())),
        None => demo().map_or_else(|| random(DType::T2), Ok),
    }
}

#[cfg(test)]
mod tests {
    /// For measurements by hand: `cargo xtask firmware --blob target/xtask/mixers.bttt`.
    #[test]
    fn a_model_has_every_mixer() {
        let blob = super::read(&super::mixers().unwrap()).unwrap();
        let model = bitttt_core::Model::from_bytes(blob.bytes()).unwrap();
        let mixers = (0..4).map(|layer| model.layer_config(layer).unwrap().mixer);
        assert!(mixers.eq(super::Mixer::ALL));
    }
}
