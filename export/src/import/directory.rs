//! A Hugging Face directory: what is the same in every kind of model, and checks that config and tensors agree.

use super::safetensors::Tensors;
use super::{Fields, ImportError};
use bitttt_core::format::{Activation, Config, LayerConfig, Role};
use std::collections::BTreeSet;
use std::path::Path;

/// Name of a head that is not the embedding.
pub(super) const HEAD: &str = "lm_head.weight";

/// `config.json`, of the right kind.
pub(super) fn config(directory: &Path, model_type: &str) -> Result<Fields, ImportError> {
    let path = directory.join("config.json");
    let hint = "give the directory of the checkpoint, with its config.json";
    let fields = Fields::open(&path, hint)?;
    match fields.text("model_type")? {
        Some(found) if found == model_type => Ok(fields),
        Some(found) => {
            let what = format!(
                "is `{found}`, this importer reads `{model_type}`{}",
                other(found)
            );
            Err(fields.wrong("model_type", what))
        }
        None => Err(fields.wrong("model_type", format!("is missing, not `{model_type}`"))),
    }
}

/// Which importer reads a `model_type`.
fn other(model_type: &str) -> &'static str {
    match model_type {
        "bitnet" => ": use `import hf-bitnet`",
        "llama" => ": use `import hf-llama`",
        "ttt" => ": use `import ttt-lm`",
        _ => "; models of this kind cannot be imported",
    }
}

/// The activation in `hidden_act`.
pub(super) fn activation(fields: &Fields, default: &str) -> Result<Activation, ImportError> {
    match fields.text("hidden_act")?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "relu2" => Ok(Activation::Relu2),
        other => {
            let what = format!("is `{other}`; there are silu and relu2");
            Err(fields.wrong("hidden_act", what))
        }
    }
}

/// That the config and the tensors agree on whether the head is the embedding.
pub(super) fn check_head(
    fields: &Fields,
    tensors: &Tensors,
    embedding: &str,
    tied: bool,
) -> Result<(), ImportError> {
    let wrong = |what: &str| Err(fields.wrong("tie_word_embeddings", what));
    match (tied, tensors.has(HEAD)) {
        (false, false) => wrong(
            "is false, but there is no tensor `lm_head.weight`: set it to true if the head is the embedding",
        ),
        (true, true) if !tensors.get(HEAD)?.equals(&tensors.get(embedding)?)? => wrong(
            "is true, but tensor `lm_head.weight` is not the embedding: set it to false if it is the head",
        ),
        _ => Ok(()),
    }
}

/// That there is no tensor that a model of this kind does not have.
pub(super) fn check_names(
    tensors: &Tensors,
    config: &Config,
    layer: &LayerConfig,
    name_of: impl Fn(Option<u32>, Role) -> String,
) -> Result<(), ImportError> {
    let mut known: BTreeSet<String> = Role::GLOBAL.map(|role| name_of(None, role)).into();
    for index in 0..config.n_layers {
        let own = Role::LAYER.into_iter().filter(|&role| layer.has(role));
        known.extend(own.map(|role| name_of(Some(index), role)));
    }
    let is_known = |name: &str| {
        let weight = name.strip_suffix("_scale").unwrap_or(name);
        known.contains(weight) || name.ends_with("rotary_emb.inv_freq")
    };
    match tensors.names().find(|name| !is_known(name)) {
        None => Ok(()),
        Some(name) => Err(ImportError::tensor(
            tensors.path_of(name),
            name,
            "is no part of such a model: the checkpoint is of another kind than its config.json says",
        )),
    }
}
