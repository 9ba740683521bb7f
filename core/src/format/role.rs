//! Roles: what tensors are for, their names, shapes and types.

use super::{Config, DType, LayerConfig, Mixer};

/// What a tensor is for. The order of the codes is the order in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // the names are those of docs/FORMAT.md
pub enum Role {
    Embed = 1,
    Head = 2,
    Norm = 3,
    MixerNorm = 16,
    Conv = 17,
    Query = 18,
    Key = 19,
    Value = 20,
    Output = 21,
    Gate = 22,
    Lr = 23,
    LrBias = 24,
    Tau = 25,
    LnScale = 26,
    LnBias = 27,
    W0 = 28,
    U0 = 29,
    Decay = 30,
    OutNorm = 31,
    FfnNorm = 32,
    FfnGate = 33,
    FfnUp = 34,
    FfnSubNorm = 35,
    FfnDown = 36,
    W1 = 37,
    U1 = 38,
    Down = 39,
    Up = 40,
    FfnConv = 41,
    OutNormBias = 42,
    PreNorm = 43,
    PreConv = 44,
    PreConvBias = 45,
    QueryConv = 46,
    QueryConvBias = 47,
    KeyConv = 48,
    KeyConvBias = 49,
}

impl Role {
    /// Roles of the whole model, in table order.
    pub const GLOBAL: [Self; 3] = [Self::Embed, Self::Head, Self::Norm];
    /// Roles of a layer, in table order.
    pub const LAYER: [Self; 34] = [
        Self::MixerNorm,
        Self::Conv,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Lr,
        Self::LrBias,
        Self::Tau,
        Self::LnScale,
        Self::LnBias,
        Self::W0,
        Self::U0,
        Self::Decay,
        Self::OutNorm,
        Self::FfnNorm,
        Self::FfnGate,
        Self::FfnUp,
        Self::FfnSubNorm,
        Self::FfnDown,
        Self::W1,
        Self::U1,
        Self::Down,
        Self::Up,
        Self::FfnConv,
        Self::OutNormBias,
        Self::PreNorm,
        Self::PreConv,
        Self::PreConvBias,
        Self::QueryConv,
        Self::QueryConvBias,
        Self::KeyConv,
        Self::KeyConvBias,
    ];

    /// Name in errors, in `inspect` and in checkpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Head => "head",
            Self::Norm => "norm",
            Self::MixerNorm => "mixer_norm",
            Self::Conv => "mixer.conv",
            Self::Query => "mixer.q",
            Self::Key => "mixer.k",
            Self::Value => "mixer.v",
            Self::Output => "mixer.o",
            Self::Gate => "mixer.gate",
            Self::Lr => "mixer.lr",
            Self::LrBias => "mixer.lr.bias",
            Self::Tau => "mixer.tau.bias",
            Self::LnScale => "mixer.ln.weight",
            Self::LnBias => "mixer.ln.bias",
            Self::W0 => "mixer.w0",
            Self::U0 => "mixer.u0",
            Self::Decay => "mixer.decay",
            Self::OutNorm => "mixer.out_norm",
            Self::FfnNorm => "ffn_norm",
            Self::FfnGate => "ffn.gate",
            Self::FfnUp => "ffn.up",
            Self::FfnSubNorm => "ffn.sub_norm",
            Self::FfnDown => "ffn.down",
            Self::W1 => "mixer.w1",
            Self::U1 => "mixer.u1",
            Self::Down => "mixer.down",
            Self::Up => "mixer.up",
            Self::FfnConv => "ffn.conv",
            Self::OutNormBias => "mixer.out_norm.bias",
            Self::PreNorm => "pre_norm",
            Self::PreConv => "pre_conv",
            Self::PreConvBias => "pre_conv.bias",
            Self::QueryConv => "mixer.q_conv",
            Self::QueryConvBias => "mixer.q_conv.bias",
            Self::KeyConv => "mixer.k_conv",
            Self::KeyConvBias => "mixer.k_conv.bias",
        }
    }

    /// `[rows, cols]` of a tensor of this role: of a layer with that record, or of the whole model.
    pub const fn shape(self, config: &Config, layer: Option<&LayerConfig>) -> [u32; 2] {
        let (d, f, heads) = (config.d_model, config.d_ffn, config.n_heads as u32);
        match self {
            Self::Embed | Self::Head => [config.vocab_size, d],
            Self::Norm
            | Self::MixerNorm
            | Self::FfnNorm
            | Self::OutNorm
            | Self::OutNormBias
            | Self::PreNorm
            | Self::PreConvBias
            | Self::QueryConvBias
            | Self::KeyConvBias => [1, d],
            Self::Conv | Self::FfnConv | Self::PreConv | Self::QueryConv | Self::KeyConv => {
                [super::config::CONV_TAPS as u32, d]
            }
            Self::Key | Self::Value => [kv_width(config, layer), d],
            Self::Query | Self::Output | Self::Gate => [d, d],
            Self::Lr => [heads, d],
            Self::Decay if is(layer, Mixer::TttLite) => [1, 1],
            Self::LrBias | Self::Decay => [1, heads],
            Self::Tau => [1, config.mini_batch as u32],
            Self::LnScale | Self::LnBias | Self::U1 => [heads, config.d_head()],
            Self::W0 => [d, first_width(config, layer)],
            Self::U0 => [heads, first_width(config, layer)],
            Self::W1 => [4 * d, config.d_head()],
            Self::Down => [config.d_lite(), d],
            Self::Up => [d, config.d_lite()],
            Self::FfnGate | Self::FfnUp => [f, d],
            Self::FfnSubNorm => [1, f],
            Self::FfnDown => [d, f],
        }
    }

    /// Whether a tensor of this role is a matrix that vectors are multiplied with, or whose rows are.
    pub(crate) const fn is_matrix(self) -> bool {
        self.allows(DType::I8)
    }

    /// Whether a tensor of this role may be stored in this type.
    pub const fn allows(self, dtype: DType) -> bool {
        match self {
            Self::Embed => !matches!(dtype, DType::T2 | DType::T5),
            Self::Head
            | Self::Query
            | Self::Key
            | Self::Value
            | Self::Output
            | Self::Gate
            | Self::FfnGate
            | Self::FfnUp
            | Self::FfnDown
            | Self::Down
            | Self::Up => true,
            Self::W0
            | Self::U0
            | Self::W1
            | Self::U1
            | Self::Lr
            | Self::Conv
            | Self::FfnConv
            | Self::Norm
            | Self::MixerNorm
            | Self::OutNorm
            | Self::FfnNorm
            | Self::FfnSubNorm
            | Self::OutNormBias
            | Self::PreNorm
            | Self::PreConv
            | Self::PreConvBias
            | Self::QueryConv
            | Self::QueryConvBias
            | Self::KeyConv
            | Self::KeyConvBias => matches!(dtype, DType::F16 | DType::F32),
            _ => matches!(dtype, DType::F32),
        }
    }
}

const fn is(layer: Option<&LayerConfig>, mixer: Mixer) -> bool {
    match layer {
        Some(layer) => layer.kind() as u8 == mixer as u8,
        None => false,
    }
}

/// Width of all keys, or all values.
pub(crate) const fn kv_width(config: &Config, layer: Option<&LayerConfig>) -> u32 {
    match layer {
        Some(layer) if is(Some(layer), Mixer::Attention) => layer.kv_heads as u32 * config.d_head(),
        _ => config.d_model,
    }
}

/// Outputs of a TTT head's first matrix.
const fn first_width(config: &Config, layer: Option<&LayerConfig>) -> u32 {
    if is(layer, Mixer::TttMlp) {
        config.d_inner()
    } else {
        config.d_head()
    }
}
