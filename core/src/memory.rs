//! How much memory a session needs, to the byte, before it runs; usable in const context.
//!
//! A session's memory is one slice of f32 words: first the *state* (what survives a token and goes into a
//! snapshot), then the *scratch*. The plan is the only place that knows the sizes; the session cuts its slices
//! by the same functions.

use crate::format::config::CONV_TAPS;
use crate::format::tensor::ENTRY_BYTES;
use crate::format::{BlobError, Config, DType, Entry, LayerConfig, Layout, Mixer, Section};
use crate::kernel::TABLE_WORDS;

/// How many tokens prefill takes through a layer at once, and how many attention has room for. More is faster and
/// needs more scratch; a longer context needs more state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    tokens: usize,
    /// [`Self::OF_MODEL`], or room for so many.
    context: usize,
}

impl Batch {
    /// The model's own figure.
    const OF_MODEL: usize = usize::MAX;

    /// One token at a time: the least memory.
    pub const ONE: Self = Self::new(1);

    /// `tokens` at a time; zero counts as one.
    pub const fn new(tokens: usize) -> Self {
        Self {
            tokens: if tokens == 0 { 1 } else { tokens },
            context: Self::OF_MODEL,
        }
    }

    /// Room for `tokens` tokens in attention layers without a window, instead of the model's own figure
    /// ([`Config::context`]). Nothing changes for models without such layers.
    pub const fn with_context(self, tokens: usize) -> Self {
        Self {
            context: match tokens {
                Self::OF_MODEL => tokens - 1, // as absurd
                _ => tokens,
            },
            ..self
        }
    }

    /// Tokens at a time.
    pub const fn tokens(self) -> usize {
        self.tokens
    }

    /// Tokens that attention layers without a window have room for.
    pub const fn context(self, config: &Config) -> usize {
        match self.context {
            Self::OF_MODEL => config.context as usize,
            tokens => tokens,
        }
    }
}

/// Sizes of a session's memory, in f32 words. Sums saturate, so that an absurd config asks for more memory than
/// there is instead of wrapping around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// State of all layers: fast weights, open mini-batch, keys and values, convolution history. This is what a
    /// snapshot holds.
    pub state: usize,
    /// Rotary table of the TTT mixers, `[b, d_head]`.
    pub rope: usize,
    /// Attention's rotary frequencies `[d_head / 2]` and the angles of a batch `[batch, d_head]`.
    pub angles: usize,
    /// Residual stream and one normed copy, `2 * [batch, D]`.
    pub residual: usize,
    /// The larger of the mixer's and the feed-forward network's intermediates.
    pub hidden: usize,
    /// Quantised activations with their scales and sums.
    pub quantised: usize,
    /// Look-up tables for products with `t5` weights, which microcontrollers fill; the same on every machine.
    pub tables: usize,
    /// The most that a mixer's heads take besides: inner learning rates `[batch, H]`, each TTT head's temporaries
    /// and count of dropped updates; running maxima and sums `[batch, 2 H]` of attention and one widened tile of
    /// keys and values for each of its heads.
    pub head: usize,
    /// Logits, `[V]`.
    pub logits: usize,
}

impl MemoryPlan {
    /// Plan for a blob, without building a [`crate::Model`]: for `const` sizes of statics.
    ///
    /// ```
    /// use bitttt_core::{Batch, MemoryPlan};
    /// # const BLOB: &[u8] = &[];
    /// const WORDS: usize = match MemoryPlan::of_blob(BLOB, Batch::ONE) {
    ///     Ok(plan) => plan.words(),
    ///     Err(_) => 0, // or panic!("not a blob"): then it does not compile
    /// };
    /// static mut MEMORY: [f32; WORDS] = [0.0; WORDS];
    /// ```
    ///
    /// # Errors
    /// What is wrong with header or config.
    pub const fn of_blob(blob: &[u8], batch: Batch) -> Result<Self, BlobError> {
        let layout = match Layout::parse(blob) {
            Ok(layout) => layout,
            Err(error) => return Err(error),
        };
        let section = layout.section(Section::Config);
        let config = match Config::parse(section) {
            Ok(config) => config,
            Err(error) => return Err(error),
        };
        let mut layer = 0;
        while layer < config.n_layers {
            if let Err(error) = LayerConfig::parse(section, &config, layer) {
                return Err(error);
            }
            layer += 1;
        }
        Ok(Self::new(&config, &layout, batch))
    }

    /// Plan for a blob whose config section has been checked.
    pub const fn new(config: &Config, layout: &Layout<'_>, batch: Batch) -> Self {
        let section = layout.section(Section::Config);
        let n = batch.tokens();
        let (d, f) = (config.d_model as usize, config.d_ffn as usize);
        let mut plan = Self {
            state: 0,
            rope: 0,
            angles: 0,
            residual: n.saturating_mul(2 * d),
            hidden: n.saturating_mul(2 * f),
            quantised: n.saturating_mul(quantised_words(if d > f { d } else { f })),
            tables: table_words(layout.section(Section::Table)),
            head: 0,
            logits: config.vocab_size as usize,
        };
        let mut layer = 0;
        while layer < config.n_layers {
            if let Ok(record) = LayerConfig::parse(section, config, layer) {
                plan.add_layer(config, &record, batch);
            }
            layer += 1;
        }
        plan
    }

    /// State adds up over layers; scratch is that of the layer which needs most.
    const fn add_layer(&mut self, config: &Config, record: &LayerConfig, batch: Batch) {
        let (n, d) = (batch.tokens(), config.d_head() as usize);
        self.state = self
            .state
            .saturating_add(layer_state(config, record, batch));
        self.hidden = max(
            self.hidden,
            n.saturating_mul(projected_words(config, record)),
        );
        self.head = max(self.head, head_words(config, record, n));
        match record.kind() {
            Mixer::TttLinear | Mixer::TttMlp => {
                self.rope = (config.mini_batch as usize).saturating_mul(d);
            }
            Mixer::Attention => self.angles = (d / 2).saturating_add(n.saturating_mul(d)),
            Mixer::TttLite => {}
        }
    }

    /// Words of scratch.
    pub const fn scratch(&self) -> usize {
        self.rope
            .saturating_add(self.angles)
            .saturating_add(self.residual)
            .saturating_add(self.hidden)
            .saturating_add(self.quantised)
            .saturating_add(self.tables)
            .saturating_add(self.head)
            .saturating_add(self.logits)
    }

    /// Length of the `[f32]` that a session takes.
    pub const fn words(&self) -> usize {
        self.state.saturating_add(self.scratch())
    }

    /// The same in bytes.
    pub const fn bytes(&self) -> usize {
        self.words().saturating_mul(4)
    }

    /// Bytes of a snapshot.
    pub const fn snapshot_bytes(&self) -> usize {
        crate::snapshot::HEADER_BYTES.saturating_add(self.state.saturating_mul(4))
    }
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Slots of a tile of keys: tiles are stored `[d, 64]`.
pub(crate) const TILE: usize = 64;

/// State of one layer in words: the mixer's heads one after the other, then the last three inputs `[3, D]` of each of
/// its convolutions, in the order of docs/FORMAT.md.
pub(crate) const fn layer_state(config: &Config, layer: &LayerConfig, batch: Batch) -> usize {
    let mixer = match layer.kind() {
        Mixer::TttLinear | Mixer::TttMlp => {
            (config.n_heads as usize).saturating_mul(head_state(config, layer))
        }
        Mixer::TttLite => (config.d_lite() as usize).saturating_mul(config.d_lite() as usize),
        Mixer::Attention => {
            (layer.kv_heads as usize).saturating_mul(cache_words(config, layer, batch))
        }
    };
    mixer.saturating_add(histories_words(config, layer))
}

/// The convolutions' part of a layer's state.
pub(crate) const fn histories_words(config: &Config, layer: &LayerConfig) -> usize {
    layer.convolutions() * history_words(config)
}

/// One convolution's part.
pub(crate) const fn history_words(config: &Config) -> usize {
    (CONV_TAPS - 1) * config.d_model as usize
}

/// State of one TTT head: its fast weights, then the open mini-batch's `2` or `4` rows a token and learning rates.
pub(crate) const fn head_state(config: &Config, layer: &LayerConfig) -> usize {
    let (d, m) = (config.d_head() as usize, config.d_inner() as usize);
    let b = config.mini_batch as usize;
    let (fast, open) = match layer.kind() {
        Mixer::TttMlp => (
            (2 * d).saturating_mul(m).saturating_add(m + d),
            2 * (d + m) + 1,
        ),
        _ => (d.saturating_mul(d).saturating_add(d), 2 * d + 1),
    };
    fast.saturating_add(b.saturating_mul(open))
}

/// Tokens that an attention layer has room for.
pub(crate) const fn slots(config: &Config, layer: &LayerConfig, batch: Batch) -> usize {
    if layer.window == 0 {
        batch.context(config)
    } else {
        layer.window as usize
    }
}

/// Cache of one head of keys and values: keys in whole tiles, then values.
pub(crate) const fn cache_words(config: &Config, layer: &LayerConfig, batch: Batch) -> usize {
    let slots = slots(config, layer, batch);
    let rows = slots
        .div_ceil(TILE)
        .saturating_mul(TILE)
        .saturating_add(slots);
    let pairs = (config.d_head() as usize / 2).saturating_mul(rows);
    if layer.kv_f32 {
        pairs.saturating_mul(2)
    } else {
        pairs
    }
}

/// Words a token that a mixer keeps between its projections.
const fn projected_words(config: &Config, layer: &LayerConfig) -> usize {
    let d = config.d_model as usize;
    let words = match layer.kind() {
        Mixer::TttLinear | Mixer::TttMlp => 3 * d,
        Mixer::TttLite => d + 2 * config.d_lite() as usize,
        Mixer::Attention => d + 2 * layer.kv_heads as usize * config.d_head() as usize,
    };
    if layer.gate { words + d } else { words }
}

/// Temporaries of one TTT head.
pub(crate) const fn ttt_temp(config: &Config, layer: &LayerConfig) -> usize {
    let d = config.d_head() as usize;
    match layer.kind() {
        Mixer::TttMlp => 2 * (d + config.d_inner() as usize),
        _ => 2 * d,
    }
}

/// One head's keys and values of a tile as f32, where many tokens share the work of widening them.
pub(crate) const fn widened_words(config: &Config, layer: &LayerConfig, n: usize) -> usize {
    if n > 1 && !layer.kv_f32 {
        2 * TILE * config.d_head() as usize
    } else {
        0
    }
}

/// What a layer's heads need besides, for `n` tokens.
const fn head_words(config: &Config, layer: &LayerConfig, n: usize) -> usize {
    let heads = config.n_heads as usize;
    match layer.kind() {
        Mixer::TttLinear | Mixer::TttMlp => n
            .saturating_add(1)
            .saturating_mul(heads)
            .saturating_add(heads * ttt_temp(config, layer)),
        Mixer::TttLite => 0,
        Mixer::Attention => n
            .saturating_mul(2 * heads)
            .saturating_add(layer.kv_heads as usize * widened_words(config, layer, n)),
    }
}

/// Eight tables of 256 halves, where some tensor is `t5`.
const fn table_words(table: &[u8]) -> usize {
    let mut index = 0;
    while (index as usize) < table.len() / ENTRY_BYTES {
        if let Ok(entry) = Entry::parse(table, index)
            && matches!(entry.dtype, DType::T5)
        {
            return TABLE_WORDS;
        }
        index += 1;
    }
    0
}

/// Words of one quantised row: codes padded to whole SIMD blocks, one scale, one sum.
pub(crate) const fn quantised_words(width: usize) -> usize {
    padded(width) / 4 + 2
}

/// Codes are followed by zeros up to a multiple of 64, plus one block that a kernel may read ahead.
pub(crate) const fn padded(width: usize) -> usize {
    width.next_multiple_of(64) + 64
}
