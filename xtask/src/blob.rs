//! The models that firmware is tried with.

use crate::command::root;
use anyhow::{Context, Result};
use bitttt_core::format::{Config, DType};
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
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
    save(&config, 3, dtype, "random")
}

/// A random model for a board with 16 KiB of RAM, every part of a layer in use.
pub fn small() -> Result<PathBuf> {
    let config = Config {
        d_model: 32,
        d_ffn: 72,
        n_heads: 4,
        mini_batch: 4,
        ..small_config()
    };
    save(&config, 1, DType::T5, "small")
}

fn save(config: &Config, layers: usize, dtype: DType, name: &str) -> Result<PathBuf> {
    let folder = root().join("target/xtask");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{name}-{dtype:?}.bttt").to_lowercase());
    blueprint(config, &vec![FULL_LAYER; layers], dtype, 1).save(&path)?;
    Ok(path)
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
