//! How much memory a session needs, to the byte, before it runs; usable in const context.
//!
//! A session's memory is one slice of f32 words: first the *state* (what survives a token and goes into a
//! snapshot), then the *scratch*. The plan is the only place that knows the sizes; the session cuts its slices
//! by the same functions.

use crate::format::config::CONV_TAPS;
use crate::format::{BlobError, Config, LayerConfig, Layout, Section};

/// How many tokens prefill takes through a layer at once. More is faster and needs more scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch(usize);

impl Batch {
    /// One token at a time: the least memory.
    pub const ONE: Self = Self(1);

    /// `tokens` at a time; zero counts as one.
    pub const fn new(tokens: usize) -> Self {
        Self(if tokens == 0 { 1 } else { tokens })
    }

    /// Tokens at a time.
    pub const fn tokens(self) -> usize {
        self.0
    }
}

/// Sizes of a session's memory, in f32 words. Sums saturate, so that an absurd config asks for more memory than
/// there is instead of wrapping around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Learned state of all layers: fast weights, open mini-batch, convolution history. This is what a snapshot
    /// holds.
    pub state: usize,
    /// Rotary table, `[b, d_head]`.
    pub rope: usize,
    /// Residual stream and one normed copy, `2 * [batch, D]`.
    pub residual: usize,
    /// The larger of the mixer's and the feed-forward network's intermediates.
    pub hidden: usize,
    /// Quantised activations with their scales and sums.
    pub quantised: usize,
    /// Inner learning rates `[H]` and one head's temporaries `2 * [d]`.
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
        match Config::parse(section) {
            Ok(config) => Ok(Self::new(&config, section, batch)),
            Err(error) => Err(error),
        }
    }

    /// Plan for a config section.
    pub const fn new(config: &Config, section: &[u8], batch: Batch) -> Self {
        let n = batch.tokens();
        let (d, f) = (config.d_model as usize, config.d_ffn as usize);
        let mut state = 0usize;
        let mut gated = false;
        let mut layer = 0;
        while layer < config.n_layers {
            if let Ok(record) = LayerConfig::parse(section, layer) {
                state = state.saturating_add(layer_state(config, &record));
                gated |= record.gate;
            }
            layer += 1;
        }
        let mixer = if gated { 4 * d } else { 3 * d };
        let widest = if d > f { d } else { f };
        Self {
            state,
            rope: (config.mini_batch as usize).saturating_mul(config.d_head() as usize),
            residual: n.saturating_mul(2 * d),
            hidden: n.saturating_mul(if mixer > 2 * f { mixer } else { 2 * f }),
            quantised: n.saturating_mul(quantised_words(widest)),
            head: config.n_heads as usize + 2 * config.d_head() as usize,
            logits: config.vocab_size as usize,
        }
    }

    /// Words of scratch.
    pub const fn scratch(&self) -> usize {
        self.rope
            .saturating_add(self.residual)
            .saturating_add(self.hidden)
            .saturating_add(self.quantised)
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

/// State of one layer in words, in the order in which [`crate::mixer`] cuts it:
/// per head `W [d, d]`, `u [d]`, keys `[b, d]`, gradients `[b, d]`, learning rates `[b]`; then the convolution's
/// last three inputs `[3, D]`.
pub(crate) const fn layer_state(config: &Config, layer: &LayerConfig) -> usize {
    let d = config.d_model as usize;
    let heads = (config.n_heads as usize).saturating_mul(head_state(config));
    heads.saturating_add(if layer.conv { (CONV_TAPS - 1) * d } else { 0 })
}

/// State of one head in words.
pub(crate) const fn head_state(config: &Config) -> usize {
    let d = config.d_head() as usize;
    let b = config.mini_batch as usize;
    (d.saturating_mul(d) + d).saturating_add(b * (2 * d + 1))
}

/// Words of one quantised row: codes padded to whole SIMD blocks, one scale, one sum.
pub(crate) const fn quantised_words(width: usize) -> usize {
    padded(width) / 4 + 2
}

/// Codes are followed by zeros up to a multiple of 64, plus one block that a kernel may read ahead.
pub(crate) const fn padded(width: usize) -> usize {
    width.next_multiple_of(64) + 64
}
