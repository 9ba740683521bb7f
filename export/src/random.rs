//! Models with random weights: speed and correctness can be measured without training.

use crate::{Blueprint, TensorData, Vocabulary};
use bitttt_core::format::{Activation, Config, DType, LayerConfig, Mixer, Role};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

/// Small dimensions, for tests: vocabulary 257 (the `bytes` tokenizer), two layers.
pub fn small_config() -> Config {
    Config {
        vocab_size: 257,
        d_model: 48,
        n_layers: 2,
        d_ffn: 104,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        ln_eps: 1e-6,
        ttt_base_lr: 1.0,
        mini_batch: 8,
        n_heads: 3,
        activation: Activation::Silu,
        tied: false,
        float_activations: false,
        document_token: 0,
        context: 128,
    }
}

/// A TTT-Linear layer with everything on.
pub const FULL_LAYER: LayerConfig = LayerConfig {
    conv: true,
    gate: true,
    decay: true,
    ..LayerConfig::of(Mixer::TttLinear)
};

/// A model of these dimensions and layers, of which there are as many as records, whatever the config says;
/// matrices stored as `dtype`. The same seed gives the same model everywhere.
pub fn blueprint(config: &Config, layers: &[LayerConfig], dtype: DType, seed: u64) -> Blueprint {
    let mut blueprint = Blueprint {
        config: Config {
            n_layers: layers.len() as u32,
            ..*config
        },
        layers: layers.to_vec(),
        tensors: Default::default(),
        tokenizer: (config.vocab_size == 257).then(Vocabulary::bytes),
        metadata: format!("{{\"random\":{seed}}}"),
    };
    let mut random = Random::new(seed);
    for (layer, role) in blueprint.required() {
        let record = layer.and_then(|layer| layers.get(layer as usize));
        let [rows, cols] = role.shape(config, record).map(|n| n as usize);
        blueprint
            .tensors
            .insert((layer, role), random.tensor(role, rows, cols, dtype));
    }
    blueprint
}

/// Draws tensors.
pub(crate) struct Random(Pcg32);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(Pcg32::new(seed, 54))
    }

    /// Weight scale of a ternary matrix of `cols` inputs: its outputs are about as large as its inputs.
    pub fn spread(cols: usize) -> f32 {
        1.7 / (cols as f32).sqrt()
    }

    /// Row scales of an int8 matrix.
    pub fn scales(&mut self, rows: usize) -> Vec<f32> {
        self.values(rows, 0.01, 0.002)
    }

    /// Uniform in `-1..1`.
    fn next(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0
    }

    fn values(&mut self, count: usize, centre: f32, spread: f32) -> Vec<f32> {
        (0..count).map(|_| centre + spread * self.next()).collect()
    }

    pub fn tensor(&mut self, role: Role, rows: usize, cols: usize, dtype: DType) -> TensorData {
        let count = rows * cols;
        match role {
            Role::Embed | Role::Head => self.int8(rows, cols),
            Role::W0 | Role::U0 | Role::W1 | Role::U1 => {
                TensorData::F16(self.values(count, 0.0, 0.2))
            }
            Role::Lr => TensorData::F16(self.values(count, 0.0, 0.3)),
            Role::Conv | Role::FfnConv | Role::PreConv | Role::QueryConv | Role::KeyConv => {
                TensorData::F32(self.values(count, 0.25, 0.5))
            }
            Role::LrBias
            | Role::LnBias
            | Role::Tau
            | Role::OutNormBias
            | Role::PreConvBias
            | Role::QueryConvBias
            | Role::KeyConvBias => TensorData::F32(self.values(count, 0.0, 0.1)),
            Role::Decay => TensorData::F32(self.values(count, 0.01, 0.01)),
            _ if role.allows(DType::T2) => self.matrix(rows, cols, dtype),
            _ => TensorData::F32(self.values(count, 1.0, 0.2)),
        }
    }

    fn int8(&mut self, rows: usize, cols: usize) -> TensorData {
        let codes = (0..rows * cols)
            .map(|_| (self.next() * 127.0) as i8)
            .collect();
        TensorData::Int8 {
            codes,
            scales: self.scales(rows),
        }
    }

    fn matrix(&mut self, rows: usize, cols: usize, dtype: DType) -> TensorData {
        let spread = Self::spread(cols);
        match dtype {
            DType::T2 | DType::T5 => {
                let trits = (0..rows * cols)
                    .map(|_| (self.next() * 1.5).round().max(-1.0) as i8)
                    .collect();
                TensorData::Ternary {
                    trits,
                    scale: spread,
                    dtype,
                }
            }
            DType::I8 => self.int8(rows, cols),
            DType::F16 => TensorData::F16(self.values(rows * cols, 0.0, spread)),
            DType::F32 => TensorData::F32(self.values(rows * cols, 0.0, spread)),
        }
    }
}
