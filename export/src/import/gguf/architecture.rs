//! What a file's metadata says of the model: its architecture's name and the fields under it.

use super::file::Gguf;
use super::outline;
use super::value::Value;
use crate::import::{Activations, ImportError, Options};
use bitttt_core::format::config::MAX_LAYERS;
use bitttt_core::format::{Activation, BlobError, Config, LayerConfig, Mixer};

/// Architectures that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `bitnet`: norms before `o` and `down`, SiLU (1bitLLM's reproductions).
    Bitnet,
    /// `bitnet-b1.58`, or `bitnet-25` as it was called first: the same with a squared ReLU (BitNet b1.58 2B4T).
    BitnetB158,
    /// `llama`.
    Llama,
}

impl Architecture {
    fn of(name: &str) -> Option<Self> {
        match name {
            "bitnet" => Some(Self::Bitnet),
            "bitnet-b1.58" | "bitnet-25" => Some(Self::BitnetB158),
            "llama" => Some(Self::Llama),
            _ => None,
        }
    }

    /// Whether there are norms before `o` and `down`.
    pub fn sub_norms(self) -> bool {
        self != Self::Llama
    }

    /// Whether rows of queries and keys stand as in Hugging Face checkpoints, rotary pairs half a head apart. Those of
    /// `llama` are brought side by side when such files are made.
    pub fn half_split(self) -> bool {
        self != Self::Llama
    }

    /// Llamas are run as they are; the others were trained with activations of 8 bits.
    fn activations(self) -> Activations {
        match self {
            Self::Llama => Activations::F32,
            _ => Activations::I8,
        }
    }
}

/// Fields of the metadata.
pub struct Keys<'a> {
    file: &'a Gguf,
    /// Name of the architecture, which the names of its fields begin with.
    name: &'a str,
    pub architecture: Architecture,
}

impl<'a> Keys<'a> {
    /// Finds out the architecture.
    ///
    /// # Errors
    /// One that is not read.
    pub fn of(file: &'a Gguf) -> Result<Self, ImportError> {
        let key = "general.architecture";
        let wrong = |what: String| ImportError::field(file.path(), key, what);
        let value = file.value(key);
        let value = value.ok_or_else(|| wrong("is missing: this is no model".to_owned()))?;
        let name = value.as_text().unwrap_or_default();
        let architecture = Architecture::of(name).ok_or_else(|| {
            wrong(format!(
                "is {value}, which is not read; `bitnet`, `bitnet-b1.58` and `llama` are"
            ))
        })?;
        Ok(Self {
            file,
            name,
            architecture,
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn wrong(&self, name: &str, what: impl Into<String>) -> ImportError {
        ImportError::field(self.file.path(), self.key(name), what)
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.file.value(&self.key(name))
    }

    /// A whole number above 0, the same for all layers where there is one a layer.
    fn size(&self, name: &str, default: Option<u32>) -> Result<u32, ImportError> {
        let Some(value) = self.get(name) else {
            let missing = || self.wrong(name, "is missing: the file is incomplete");
            return default.ok_or_else(missing);
        };
        let one = match value.as_array() {
            Some([first, rest @ ..]) if rest.iter().all(|other| other == first) => first,
            Some(_) => {
                return Err(self.wrong(name, "differs from layer to layer, which cannot be"));
            }
            None => value,
        };
        let number = one.as_u64().and_then(|n| u32::try_from(n).ok());
        number
            .filter(|&n| n > 0)
            .ok_or_else(|| self.wrong(name, format!("is {one}, not a whole number above 0")))
    }

    fn number(&self, name: &str, default: Option<f32>) -> Result<f32, ImportError> {
        let Some(value) = self.get(name) else {
            let missing = || self.wrong(name, "is missing: the file is incomplete");
            return default.ok_or_else(missing);
        };
        let number = value.as_f64().map(|x| x as f32);
        number
            .filter(|x| x.is_finite())
            .ok_or_else(|| self.wrong(name, format!("is {value}, not a number")))
    }

    /// Refuses what would have to be computed otherwise than it is here.
    fn refuse_others(&self, d_head: u32) -> Result<(), ImportError> {
        for name in [
            "attention.key_length",
            "attention.value_length",
            "rope.dimension_count",
        ] {
            let found = self.size(name, Some(d_head))?;
            if found != d_head {
                let what = format!(
                    "is {found}, but a head is {d_head} wide: heads of embedding_length / head_count are needed"
                );
                return Err(self.wrong(name, what));
            }
        }
        if self
            .get("expert_count")
            .is_some_and(|n| n.as_u64() != Some(0))
        {
            return Err(self.wrong("expert_count", "is not 0: mixtures of experts are not read"));
        }
        let scaling = self.get("rope.scaling.type").and_then(Value::as_text);
        if !matches!(scaling, None | Some("none" | "linear")) {
            let what = "is neither none nor linear: other scaled rotary positions are not read";
            return Err(self.wrong("rope.scaling.type", what));
        }
        for name in [
            "rope.scaling.factor",
            "rope.scale_linear",
            "attention.scale",
            "logit_scale",
        ] {
            let factor = self.number(name, Some(1.0))?;
            let unset = factor == 0.0 && !name.starts_with("rope");
            if factor != 1.0 && !unset {
                let what = format!("is {factor}: only models without such a factor are read");
                return Err(self.wrong(name, what));
            }
        }
        Ok(())
    }

    /// The model's dimensions.
    ///
    /// # Errors
    /// A field that is missing or cannot be represented.
    pub fn config(
        &self,
        options: &Options,
        vocab_size: u32,
        tied: bool,
        document_token: u32,
    ) -> Result<Config, ImportError> {
        let heads = self.size("attention.head_count", None)?;
        let n_heads = u16::try_from(heads)
            .map_err(|_| self.wrong("attention.head_count", format!("is {heads}: too many")))?;
        let d_model = self.size("embedding_length", None)?;
        let own = self.size("context_length", None)?;
        let activations = options
            .activations
            .unwrap_or(self.architecture.activations());
        let config = Config {
            vocab_size,
            d_model,
            n_layers: self.size("block_count", None)?,
            d_ffn: self.size("feed_forward_length", None)?,
            norm_eps: self.number("attention.layer_norm_rms_epsilon", None)?,
            rope_theta: self.number("rope.freq_base", Some(10_000.0))?,
            ln_eps: 1e-6,
            ttt_base_lr: 1.0,
            mini_batch: 16,
            n_heads,
            activation: match self.architecture {
                Architecture::BitnetB158 => Activation::Relu2,
                _ => Activation::Silu,
            },
            tied,
            document_token,
            context: options.context(own),
            float_activations: activations == Activations::F32,
        };
        if let Some(name) = impossible(&config) {
            let what = "has a value that cannot be: the file is damaged, or the model too large";
            return Err(self.wrong(name, what));
        }
        self.refuse_others(config.d_head())?;
        Ok(config)
    }

    /// A layer; they are all alike.
    ///
    /// # Errors
    /// A number of heads that cannot be.
    pub fn layer(&self, config: &Config) -> Result<LayerConfig, ImportError> {
        let name = "attention.head_count_kv";
        let heads = self.size(name, Some(u32::from(config.n_heads)))?;
        let kv_heads = u16::try_from(heads)
            .ok()
            .filter(|&heads| config.n_heads.is_multiple_of(heads))
            .ok_or_else(|| self.wrong(name, format!("is {heads}, no divisor of the heads")))?;
        Ok(LayerConfig {
            kv_heads,
            plain: !self.architecture.sub_norms(),
            ..LayerConfig::of(Mixer::Attention)
        })
    }
}

/// The field that makes the core refuse a config.
fn impossible(config: &Config) -> Option<&'static str> {
    let layers = vec![LayerConfig::of(Mixer::TttLinear); config.n_layers.min(MAX_LAYERS) as usize];
    let outline = outline(config, &layers);
    match Config::parse(&outline.config_section()) {
        Ok(_) => None,
        Err(BlobError::Config("d_model")) => Some("embedding_length"),
        Err(BlobError::Config("n_layers")) => Some("block_count"),
        Err(BlobError::Config("d_ffn")) => Some("feed_forward_length"),
        Err(BlobError::Config("n_heads")) => Some("attention.head_count"),
        Err(BlobError::Config("norm_eps")) => Some("attention.layer_norm_rms_epsilon"),
        Err(BlobError::Config("rope_theta")) => Some("rope.freq_base"),
        Err(_) => Some("vocab_size"),
    }
}
