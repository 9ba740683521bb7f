//! Shapes of models that need no training: the named ones, whose matrices are those of a Llama of that size, and files.

use crate::config::{Config, ModelConfig, one_line};
use crate::engine::export::{core_config, layer_records};
use anyhow::{Context as _, Result, bail, ensure};
use bitttt_core::format::{self, Activation, LayerConfig, Mixer};
use std::path::Path;

/// Names that [`Shape::of`] knows.
pub const NAMES: [&str; 4] = ["tiny", "small", "1b", "2b4t"];

/// What decides a model's tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Dimensions.
    pub config: format::Config,
    /// One record a layer.
    pub layers: Vec<LayerConfig>,
}

/// Dimensions in which the named shapes differ.
struct Size {
    d_model: u32,
    n_layers: u32,
    n_heads: u16,
    kv_heads: u16,
    d_ffn: u32,
    vocab_size: u32,
    tied: bool,
    rope_theta: f32,
}

impl Shape {
    /// The named shape, or the one in a file.
    ///
    /// # Errors
    /// Neither a name nor a readable file, or a file that describes no model.
    pub fn of(name: &str) -> Result<Self> {
        match Self::named(name) {
            Some(shape) => Ok(shape),
            None => Self::load(Path::new(name)),
        }
    }

    fn named(name: &str) -> Option<Self> {
        let small = Size {
            d_model: 768,
            n_layers: 12,
            n_heads: 12,
            kv_heads: 12,
            d_ffn: 2048,
            vocab_size: 32_000,
            tied: false,
            rope_theta: 10_000.0,
        };
        let size = match name {
            "tiny" => Size {
                d_model: 256,
                n_layers: 4,
                n_heads: 4,
                kv_heads: 4,
                d_ffn: 1024,
                vocab_size: 4096,
                ..small
            },
            "small" => small,
            "1b" => Size {
                d_model: 2048,
                n_layers: 24,
                n_heads: 32,
                kv_heads: 8,
                d_ffn: 5632,
                ..small
            },
            "2b4t" => Size {
                d_model: 2560,
                n_layers: 30,
                n_heads: 20,
                kv_heads: 5,
                d_ffn: 6912,
                vocab_size: 128_256,
                tied: true,
                rope_theta: 500_000.0,
            },
            _ => return None,
        };
        Some(size.shape())
    }

    /// Reads a TOML file: the fields of `[model]` in a training config, or a whole training config.
    ///
    /// # Errors
    /// An unreadable file, an unknown field, or an impossible value.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            let (names, name) = (NAMES.join(", "), path.display());
            format!("--shape {name} is neither a shape ({names}) nor a file that can be read")
        })?;
        Self::parse(&text).with_context(|| format!("shape {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(e) => bail!("{}", one_line(&e, text)),
        };
        let model = if table.contains_key("model") {
            Config::parse(text)?.model
        } else {
            let model: ModelConfig = match toml::from_str(text) {
                Ok(model) => model,
                Err(e) => bail!("{}", one_line(&e, text)),
            };
            model.validate()?;
            model
        };
        ensure!(
            model.vocab_size > 0,
            "vocab_size is missing, and there is no tokenizer to take it from; give it"
        );
        let layers = layer_records(&model);
        let context = match (layers.iter().any(LayerConfig::needs_context), model.context) {
            (false, _) => 0,
            (true, 0) => CONTEXT,
            (true, context) => context as u32,
        };
        Ok(Self {
            config: core_config(&model, context),
            layers,
        })
    }

    /// The same dimensions with this mixer in every layer.
    pub fn with_mixer(mut self, mixer: Mixer) -> Self {
        for layer in &mut self.layers {
            let attention = mixer == Mixer::Attention;
            let kv_heads = match layer.kv_heads {
                _ if !attention => 0,
                0 => self.config.n_heads,
                given => given,
            };
            *layer = LayerConfig {
                mixer,
                gate: layer.gate && mixer != Mixer::TttLite,
                decay: layer.decay && !attention,
                plain: layer.plain && mixer != Mixer::TttLite,
                kv_f32: layer.kv_f32 && attention,
                kv_heads,
                window: if attention { layer.window } else { 0 },
                ..*layer
            };
        }
        if mixer == Mixer::Attention && self.config.context == 0 {
            self.config.context = CONTEXT;
        }
        self
    }

    /// Names of the mixers in the order of the layers; equal neighbours count once.
    pub fn mixers(&self) -> String {
        let mut names: Vec<_> = self.layers.iter().map(|layer| layer.mixer.name()).collect();
        names.dedup();
        names.join(" ")
    }
}

/// Tokens of context that shapes are made for.
const CONTEXT: u32 = 4096;

impl Size {
    /// Llama's layer: attention without sub-norms, SwiGLU.
    fn shape(&self) -> Shape {
        let layer = LayerConfig {
            plain: true,
            kv_heads: self.kv_heads,
            ..LayerConfig::of(Mixer::Attention)
        };
        Shape {
            config: format::Config {
                vocab_size: self.vocab_size,
                d_model: self.d_model,
                n_layers: self.n_layers,
                d_ffn: self.d_ffn,
                norm_eps: 1e-5,
                rope_theta: self.rope_theta,
                ln_eps: 1e-6,
                ttt_base_lr: 1.0,
                mini_batch: 16,
                n_heads: self.n_heads,
                activation: Activation::Silu,
                tied: self.tied,
                float_activations: false,
                document_token: 0,
                context: CONTEXT,
            },
            layers: vec![layer; self.n_layers as usize],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitttt_core::format::{DType, Role};
    use bitttt_export::Outline;

    /// Ternary weights of a shape.
    fn ternary(shape: &Shape) -> u64 {
        let outline = Outline {
            config: &shape.config,
            layers: &shape.layers,
            tokenizer: None,
            metadata: "",
        };
        let places = outline.places().into_iter();
        let packed = places.filter(|p| p.role != Role::Head && p.role.allows(DType::T2));
        packed.map(|p| u64::from(p.rows) * u64::from(p.cols)).sum()
    }

    #[test]
    fn named_shapes_hold_as_many_ternary_weights_as_a_llama_of_their_size() {
        let llama = |d: u64, layers: u64, kv: u64, ffn: u64| {
            layers * (2 * d * d + 2 * d * kv + 3 * d * ffn)
        };
        for (name, expected) in [
            ("tiny", llama(256, 4, 256, 1024)),
            ("small", llama(768, 12, 768, 2048)),
            ("1b", llama(2048, 24, 512, 5632)),
            ("2b4t", llama(2560, 30, 640, 6912)),
        ] {
            assert_eq!(ternary(&Shape::of(name).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn a_mixer_keeps_only_what_it_knows() {
        let shape = Shape::of("1b").unwrap();
        for mixer in Mixer::ALL {
            let other = shape.clone().with_mixer(mixer);
            assert_eq!(other.mixers(), mixer.name());
            let flags = other
                .layers
                .iter()
                .fold(0, |all, layer| all | layer.flags());
            assert_eq!(flags & !mixer.allowed_flags(), 0, "{mixer:?}");
            assert_eq!(other.with_mixer(Mixer::Attention).layers[0].window, 0);
        }
        assert_eq!(shape.clone().with_mixer(Mixer::Attention), shape);
    }

    #[test]
    fn files_take_the_trainer_s_fields_with_or_without_their_heading() {
        let bare = Shape::parse("vocab_size = 300\nd_model = 64\nn_heads = 2\n").unwrap();
        let whole = "[model]\nvocab_size = 300\nd_model = 64\nn_heads = 2\n[train]\nsteps = 5\n";
        assert_eq!(Shape::parse(whole).unwrap(), bare);
        assert_eq!((bare.config.d_model, bare.layers.len()), (64, 4));
        for (text, word) in [
            ("d_modle = 3", "d_modle"),
            ("d_model = 64", "vocab_size"),
            ("vocab_size = 300\nd_model = 65", "n_heads"),
            ("[model]\nvocab_size = 300\nd_model = 65", "n_heads"),
            ("d_model = [", "line 1"),
        ] {
            let error = format!("{:#}", Shape::parse(text).unwrap_err());
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
