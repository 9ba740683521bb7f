//! Layer records: what each layer is made of, and which tensors it therefore has.

use super::config::CONFIG_BYTES;
use super::read::{u8_at, u16_at, u32_at};
use super::{BlobError, Config, IMPORTED, Role};

/// Size of one layer record.
pub const LAYER_BYTES: usize = 16;

/// Byte offsets within a layer record.
pub mod layer_field {
    #![allow(missing_docs)]
    pub const MIXER: usize = 0;
    pub const FLAGS: usize = 1;
    pub const KV_HEADS: usize = 2;
    pub const FIRST_TENSOR: usize = 4;
    pub const WINDOW: usize = 8;
    pub const MORE_FLAGS: usize = 12;
    pub const RESERVED: usize = 13;
}

/// `FLAGS`: a causal depthwise convolution stands before the mixer.
pub const LAYER_CONV: u16 = 1;
/// `FLAGS`: the mixer's output is gated.
pub const LAYER_GATE: u16 = 2;
/// `FLAGS`: fast weights decay towards their anchor at each mini-batch end.
pub const LAYER_DECAY: u16 = 4;
/// `FLAGS`: keys and values are kept as f32, not f16.
pub const LAYER_KV_F32: u16 = 8;
/// `FLAGS`: no norm before `o` and none before `down`.
pub const LAYER_PLAIN: u16 = 16;
/// `FLAGS`: a causal depthwise convolution stands before the feed-forward network too.
pub const LAYER_FFN_CONV: u16 = 32;
/// `FLAGS`: fast weights start as the identity and zeros, which are not stored.
pub const LAYER_IDENTITY: u16 = 64;
/// `FLAGS`: a head's inner learning rate is one number, not a function of the token.
pub const LAYER_HEAD_RATES: u16 = 128;
/// `MORE_FLAGS` from here on: a layer norm with gains and biases stands before `o`, even if the layer is plain.
pub const LAYER_LAYER_NORM: u16 = 1 << 8;
/// The block begins with `h += conv(RMSNorm(h))`, a causal depthwise convolution with biases.
pub const LAYER_PRE_CONV: u16 = 1 << 9;
/// Queries and keys are two causal depthwise convolutions, with biases, of one projection.
pub const LAYER_SHARED_QK: u16 = 1 << 10;
/// The gate goes through GELU in its tanh form, not SiLU.
pub const LAYER_GELU_GATE: u16 = 1 << 11;

const BOTH_CONVS: u16 = LAYER_CONV | LAYER_FFN_CONV;

/// What mixes information over time in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mixer {
    /// TTT-Linear in its dual form (Sun et al. 2024, arXiv 2407.04620): a head's fast weights are one matrix.
    TttLinear = 1,
    /// TTT-MLP in its dual form (the same paper): a head's fast weights are two layers, `4 d` wide between them.
    TttMlp = 2,
    /// One small matrix a layer, trained by the delta rule at each token.
    TttLite = 3,
    /// Grouped-query attention (Ainslie et al. 2023) with rotary positions, over the whole context or a window.
    Attention = 4,
}

impl Mixer {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::TttLinear,
        Self::TttMlp,
        Self::TttLite,
        Self::Attention,
    ];

    const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::TttLinear),
            2 => Some(Self::TttMlp),
            3 => Some(Self::TttLite),
            4 => Some(Self::Attention),
            _ => None,
        }
    }

    /// Name in configs and in `inspect`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TttLinear => "ttt-linear",
            Self::TttMlp => "ttt-mlp",
            Self::TttLite => "ttt-lite",
            Self::Attention => "attention",
        }
    }

    /// Whether this build has the mixer: all but `ttt-linear` are features of the crate, which a firmware may leave out.
    pub const fn is_built(self) -> bool {
        match self {
            Self::TttLinear => true,
            Self::TttMlp => cfg!(feature = "ttt-mlp"),
            Self::TttLite => cfg!(feature = "ttt-lite"),
            Self::Attention => cfg!(feature = "attention"),
        }
    }

    /// The flags that a layer of this kind may have, `FLAGS` in the lower byte, `MORE_FLAGS` in the upper one.
    pub const fn allowed_flags(self) -> u16 {
        match self {
            Self::TttLinear => Self::TttMlp.allowed_flags() | LAYER_IDENTITY,
            Self::TttMlp => {
                BOTH_CONVS
                    | LAYER_GATE
                    | LAYER_DECAY
                    | LAYER_PLAIN
                    | LAYER_HEAD_RATES
                    | LAYER_LAYER_NORM
                    | LAYER_PRE_CONV
                    | LAYER_SHARED_QK
                    | LAYER_GELU_GATE
            }
            Self::TttLite => BOTH_CONVS | LAYER_DECAY | LAYER_PLAIN,
            Self::Attention => BOTH_CONVS | LAYER_GATE | LAYER_KV_F32 | LAYER_PLAIN,
        }
    }
}

/// One layer's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Kind of mixer.
    pub mixer: Mixer,
    /// Causal convolution of width 4 before the mixer.
    pub conv: bool,
    /// The same before the feed-forward network.
    pub ffn_conv: bool,
    /// Fast weights start as the identity, biases as zeros. `ttt-linear` only.
    pub identity: bool,
    /// One inner learning rate a head for all tokens. `ttt-linear` and `ttt-mlp` only.
    pub head_rates: bool,
    /// Gate on the mixer's output. Not for `ttt-lite`.
    pub gate: bool,
    /// Anchor decay of the fast weights. Not for attention.
    pub decay: bool,
    /// No norms before `o` and `down`: the shape of Llama and its kin.
    pub plain: bool,
    /// A layer norm with gains and biases before `o`, even if the layer is plain. `ttt-linear` and `ttt-mlp` only, like the
    /// three that follow; all four need the feature `imported`.
    pub layer_norm: bool,
    /// The block begins with `h += conv(RMSNorm(h))`, the convolution with biases.
    pub pre_conv: bool,
    /// Queries and keys are two convolutions, with biases, of one projection, which is that of the queries.
    pub shared_qk: bool,
    /// The gate goes through GELU in its tanh form, not SiLU.
    pub gelu_gate: bool,
    /// Keys and values kept as f32, not f16. Attention only.
    pub kv_f32: bool,
    /// Heads of keys and values, a divisor of [`Config::n_heads`]; 0 unless attention.
    pub kv_heads: u16,
    /// Tokens that attention sees, the current one included; 0 for all of them and where there is no attention.
    pub window: u32,
    /// Index of the layer's first entry in the tensor table.
    pub first_tensor: u32,
}

impl LayerConfig {
    /// A layer of this kind with nothing optional. Attention needs [`LayerConfig::kv_heads`] too.
    pub const fn of(mixer: Mixer) -> Self {
        Self {
            mixer,
            conv: false,
            ffn_conv: false,
            identity: false,
            head_rates: false,
            gate: false,
            decay: false,
            plain: false,
            layer_norm: false,
            pre_conv: false,
            shared_qk: false,
            gelu_gate: false,
            kv_f32: false,
            kv_heads: 0,
            window: 0,
            first_tensor: 0,
        }
    }

    /// Reads and checks layer `layer`'s record out of the config section.
    ///
    /// # Errors
    /// [`BlobError::Layer`] naming the field.
    pub const fn parse(section: &[u8], config: &Config, layer: u32) -> Result<Self, BlobError> {
        let at = CONFIG_BYTES + layer as usize * LAYER_BYTES;
        let Some(mixer) = Mixer::of(u8_at(section, at + layer_field::MIXER)) else {
            return Err(wrong(layer, "mixer"));
        };
        if !mixer.is_built() {
            let layer = layer as u16;
            return Err(BlobError::MixerLeftOut { layer, mixer });
        }
        let flags = u8_at(section, at + layer_field::FLAGS) as u16
            | (u8_at(section, at + layer_field::MORE_FLAGS) as u16) << 8;
        if flags & !mixer.allowed_flags() != 0 {
            return Err(wrong(layer, "flags"));
        }
        if flags >> 8 != 0 && !IMPORTED {
            return Err(BlobError::LeftOut {
                what: "layers of another project's shape",
                feature: "imported",
            });
        }
        let record = Self {
            mixer,
            conv: flags & LAYER_CONV != 0,
            ffn_conv: flags & LAYER_FFN_CONV != 0,
            identity: flags & LAYER_IDENTITY != 0,
            head_rates: flags & LAYER_HEAD_RATES != 0,
            gate: flags & LAYER_GATE != 0,
            decay: flags & LAYER_DECAY != 0,
            plain: flags & LAYER_PLAIN != 0,
            layer_norm: IMPORTED && flags & LAYER_LAYER_NORM != 0,
            pre_conv: IMPORTED && flags & LAYER_PRE_CONV != 0,
            shared_qk: IMPORTED && flags & LAYER_SHARED_QK != 0,
            gelu_gate: IMPORTED && flags & LAYER_GELU_GATE != 0,
            kv_f32: flags & LAYER_KV_F32 != 0,
            kv_heads: u16_at(section, at + layer_field::KV_HEADS),
            window: u32_at(section, at + layer_field::WINDOW),
            first_tensor: u32_at(section, at + layer_field::FIRST_TENSOR),
        };
        match record.fault(config) {
            Some(field) => Err(wrong(layer, field)),
            None => Ok(record),
        }
    }

    /// The first field with an impossible value, other than the flags.
    const fn fault(&self, config: &Config) -> Option<&'static str> {
        match self.mixer {
            Mixer::Attention => {
                if self.kv_heads == 0 || !config.n_heads.is_multiple_of(self.kv_heads) {
                    return Some("kv_heads");
                }
                if self.needs_context() && config.context == 0 {
                    return Some("window (0 needs a context in the config)");
                }
            }
            _ if self.kv_heads != 0 => return Some("kv_heads"),
            _ if self.window != 0 => return Some("window"),
            Mixer::TttLite if !config.d_model.is_multiple_of(4) => {
                return Some("mixer (ttt-lite needs a d_model that is a multiple of 4)");
            }
            _ => {}
        }
        None
    }

    /// The flags of the record, `FLAGS` in the lower byte, `MORE_FLAGS` in the upper one.
    pub const fn flags(&self) -> u16 {
        let mut flags = 0;
        let bits = [
            (self.conv, LAYER_CONV),
            (self.ffn_conv, LAYER_FFN_CONV),
            (self.identity, LAYER_IDENTITY),
            (self.head_rates, LAYER_HEAD_RATES),
            (self.gate, LAYER_GATE),
            (self.decay, LAYER_DECAY),
            (self.kv_f32, LAYER_KV_F32),
            (self.plain, LAYER_PLAIN),
            (self.layer_norm, LAYER_LAYER_NORM),
            (self.pre_conv, LAYER_PRE_CONV),
            (self.shared_qk, LAYER_SHARED_QK),
            (self.gelu_gate, LAYER_GELU_GATE),
        ];
        let mut i = 0;
        while i < bits.len() {
            if bits[i].0 {
                flags |= bits[i].1;
            }
            i += 1;
        }
        flags
    }

    /// The mixer. One that this build leaves out is none, since its layers have been refused: so that the compiler leaves
    /// out what is only for it.
    pub(crate) const fn kind(&self) -> Mixer {
        if self.mixer.is_built() {
            self.mixer
        } else {
            Mixer::TttLinear
        }
    }

    /// Whether the layer remembers every token, so that a session's context is limited by its memory.
    pub const fn needs_context(&self) -> bool {
        matches!(self.kind(), Mixer::Attention) && self.window == 0
    }

    /// Causal convolutions of the layer, each with a history of its own.
    pub const fn convolutions(&self) -> usize {
        self.conv as usize
            + self.ffn_conv as usize
            + (IMPORTED && self.pre_conv) as usize
            + 2 * (IMPORTED && self.shared_qk) as usize
    }

    /// The roles of the layer's tensors, role code `c` as bit `c`.
    const fn roles(&self) -> u64 {
        let mut roles = bits(&[
            Role::MixerNorm,
            Role::FfnNorm,
            Role::FfnGate,
            Role::FfnUp,
            Role::FfnDown,
        ]);
        roles |= match self.kind() {
            Mixer::TttLinear => TTT_LINEAR,
            Mixer::TttMlp => TTT_LINEAR | bits(&[Role::W1, Role::U1]),
            Mixer::TttLite => bits(&[Role::Down, Role::Up]),
            Mixer::Attention => ATTENTION,
        };
        let optional = [
            (self.conv, Role::Conv),
            (self.ffn_conv, Role::FfnConv),
            (self.gate, Role::Gate),
            (self.decay, Role::Decay),
            (!self.plain, Role::FfnSubNorm),
            (
                (!self.plain && !matches!(self.kind(), Mixer::TttLite))
                    || (IMPORTED && self.layer_norm),
                Role::OutNorm,
            ),
        ];
        let mut i = 0;
        while i < optional.len() {
            if optional[i].0 {
                roles |= bits(&[optional[i].1]);
            }
            i += 1;
        }
        if IMPORTED && self.layer_norm {
            roles |= bits(&[Role::OutNormBias]);
        }
        if IMPORTED && self.pre_conv {
            roles |= bits(&[Role::PreNorm, Role::PreConv, Role::PreConvBias]);
        }
        if IMPORTED && self.shared_qk {
            roles = (roles & !bits(&[Role::Key])) | SHARED_QK;
        }
        if self.identity {
            roles &= !bits(&[Role::W0, Role::U0]);
        }
        if self.head_rates {
            roles &= !bits(&[Role::Lr]);
        }
        roles
    }

    /// Whether the layer has a tensor of this role.
    pub const fn has(&self, role: Role) -> bool {
        self.roles() & bits(&[role]) != 0
    }

    /// How many entries of the tensor table the layer has.
    pub const fn tensors(&self) -> u32 {
        self.roles().count_ones()
    }

    /// Place of a role's entry among the layer's, if the layer has it: entries ascend by role.
    pub(crate) const fn place(&self, role: Role) -> Option<u32> {
        let (roles, own) = (self.roles(), bits(&[role]));
        if roles & own == 0 {
            return None;
        }
        Some((roles & (own - 1)).count_ones())
    }
}

const fn wrong(layer: u32, field: &'static str) -> BlobError {
    BlobError::Layer {
        layer: layer as u16,
        field,
    }
}

const ATTENTION: u64 = bits(&[Role::Query, Role::Key, Role::Value, Role::Output]);

const TTT_LINEAR: u64 = ATTENTION
    | bits(&[
        Role::Lr,
        Role::LrBias,
        Role::Tau,
        Role::LnScale,
        Role::LnBias,
        Role::W0,
        Role::U0,
    ]);

const SHARED_QK: u64 = bits(&[
    Role::QueryConv,
    Role::QueryConvBias,
    Role::KeyConv,
    Role::KeyConvBias,
]);

const fn bits(roles: &[Role]) -> u64 {
    let (mut all, mut i) = (0, 0);
    while i < roles.len() {
        all |= 1 << roles[i] as u32;
        i += 1;
    }
    all
}
