//! A session: one stream of tokens through a model, in the caller's memory, learning as it reads.
//!
//! Invariant: whatever the split into [`Session::prefill`] and [`Session::step`] calls, the batch and the backend,
//! the same tokens leave the same bits in logits and state.

use crate::block::Block;
use crate::format::{Config, DType, IMPORTED, Role};
use crate::kernel::{Alone, Backend, Parallel};
use crate::math::{finite, rope_frequency, rope_row};
use crate::memory::{Batch, MemoryPlan, layer_state};
use crate::model::{Model, Weights};
use crate::pieces::Cut;
use crate::workspace::{Cutter, Pass, Workspace};
use crate::{ffn, kernel::lanes, mixer};
use core::fmt;

/// Whether tokens that are read train the fast weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learning {
    /// Every token is learned from.
    On,
    /// Fast weights are read only: tokens get an inner learning rate of zero.
    Frozen,
}

/// Why a session refused a call. The session is left as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// The memory is shorter than the plan.
    Memory {
        /// Words of f32 needed: [`MemoryPlan::words`].
        needed: usize,
        /// Words given.
        given: usize,
    },
    /// A token is not in the vocabulary.
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: u32,
    },
    /// There is no token to read.
    EmptyPrompt,
    /// An attention layer without a window has no room for the tokens.
    Context {
        /// Tokens that there is room for: [`Batch::context`].
        capacity: usize,
        /// Tokens read so far.
        position: u64,
        /// Tokens to read.
        tokens: usize,
    },
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Memory { needed, given } => {
                write!(
                    f,
                    "session memory has {given} f32 words, {needed} are needed: ask Model::memory for the size"
                )
            }
            Self::Token { token, vocab_size } => {
                write!(
                    f,
                    "token {token} is out of range: this model has {vocab_size} tokens; use its own tokenizer"
                )
            }
            Self::EmptyPrompt => f.write_str("the prompt is empty: give at least one token"),
            Self::Context {
                capacity,
                position,
                tokens,
            } => write!(
                f,
                "the context has room for {capacity} tokens, {position} are read and {tokens} more were given: make the session with a larger Batch::with_context, or reset it"
            ),
        }
    }
}

impl core::error::Error for SessionError {}

/// One stream of tokens. Dropping it leaves the learned state in the caller's memory, unreachable; take a
/// snapshot to keep it.
#[derive(Debug)]
pub struct Session<'m, 's> {
    pub(crate) model: Model<'m>,
    plan: MemoryPlan,
    backend: Backend,
    #[cfg(feature = "threads")]
    parallel: &'s dyn Parallel,
    pub(crate) batch: Batch,
    learning: Learning,
    pub(crate) state: &'s mut [f32],
    scratch: &'s mut [f32],
    pub(crate) position: u64,
    pub(crate) dropped: u32,
    /// Tokens that the layers without a window have room for; `usize::MAX` where there are no such layers.
    capacity: usize,
    /// Places of a cache from here on are zeros.
    pub(crate) touched: u64,
}

impl<'m, 's> Session<'m, 's> {
    /// A session at the start of a document, on the fastest backend of this machine.
    ///
    /// `memory` needs [`MemoryPlan::words`] words for this batch; its content does not matter.
    ///
    /// # Errors
    /// [`SessionError::Memory`].
    pub fn new(
        model: Model<'m>,
        batch: Batch,
        memory: &'s mut [f32],
    ) -> Result<Self, SessionError> {
        Self::with_backend(model, batch, memory, Backend::detect())
    }

    /// [`Session::new`] on a chosen backend.
    ///
    /// # Errors
    /// [`SessionError::Memory`].
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn with_backend(
        model: Model<'m>,
        batch: Batch,
        memory: &'s mut [f32],
        backend: Backend,
    ) -> Result<Self, SessionError> {
        let plan = model.memory(batch);
        let (needed, given) = (plan.words(), memory.len());
        if given < needed {
            return Err(SessionError::Memory { needed, given });
        }
        let mut cutter = Cutter(memory);
        let state = cutter.take(plan.state);
        let scratch = cutter.take(plan.scratch());
        let mut session = Self {
            model,
            plan,
            backend,
            #[cfg(feature = "threads")]
            parallel: &Alone,
            batch,
            learning: Learning::On,
            state,
            scratch,
            position: 0,
            dropped: 0,
            capacity: capacity(&model, batch),
            touched: u64::MAX,
        };
        session.fill_rope();
        session.reset();
        Ok(session)
    }

    /// Forgets everything: fast weights as the model was trained, position 0. Call it between documents.
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn reset(&mut self) {
        let Self {
            model,
            state,
            batch,
            ..
        } = self;
        let touched = self.touched.max(self.position);
        let batch = *batch;
        for_each_layer(model, batch, state, |block, state, config| {
            mixer::reset(block, config, batch, state, touched)
        });
        self.touched = 0;
        self.position = 0;
        self.dropped = 0;
    }

    /// Reads a prompt, learning from it, and returns the logits `[V]` that follow its last token.
    ///
    /// # Errors
    /// [`SessionError::Token`], [`SessionError::EmptyPrompt`] or [`SessionError::Context`]; nothing has been read
    /// then.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&mut [f32], SessionError> {
        self.check(tokens)?;
        let mut last = 0;
        for chunk in tokens.parts(self.batch.tokens()) {
            self.pass(chunk);
            last = chunk.len();
        }
        self.head(last, last.saturating_sub(1));
        Ok(self.logits())
    }

    /// Reads one token, learning from it, and returns the logits `[V]` that follow it.
    ///
    /// # Errors
    /// [`SessionError::Token`] or [`SessionError::Context`]; nothing has been read then.
    pub fn step(&mut self, token: u32) -> Result<&mut [f32], SessionError> {
        self.prefill(&[token])
    }

    /// [`Session::prefill`] that shows the logits after every token: `each(index, logits)`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn prefill_with(
        &mut self,
        tokens: &[u32],
        each: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<(), SessionError> {
        self.check(tokens)?;
        let batch = self.batch.tokens().max(1);
        for (c, chunk) in tokens.parts(batch).enumerate() {
            self.pass(chunk);
            for t in 0..chunk.len() {
                self.head(chunk.len(), t);
                each(c * batch + t, self.logits());
            }
        }
        Ok(())
    }

    /// Lends the session threads (feature `threads`). Without it it runs on its caller's alone; the results are the same bits.
    #[cfg(feature = "threads")]
    pub fn set_parallel(&mut self, parallel: &'s dyn Parallel) {
        self.parallel = parallel;
    }

    /// Turns learning on or off from the next token on.
    pub fn set_learning(&mut self, learning: Learning) {
        self.learning = learning;
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// The backend that runs it.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Tokens read since the start of the document.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Updates of a head that were dropped because they were not finite, since the start of the document.
    pub fn dropped_updates(&self) -> u32 {
        self.dropped
    }

    /// The learned state as numbers: what a snapshot holds.
    pub fn state(&self) -> &[f32] {
        self.state
    }

    /// CRC-32 of the learned state and the position: equal on every target after the same tokens.
    pub fn state_hash(&self) -> u32 {
        let mut digest = crate::Crc32::new();
        digest.update(&self.position.to_le_bytes());
        digest.update(bytemuck::cast_slice(self.state));
        digest.finalize()
    }

    /// Whoever runs parts of the work.
    fn helpers(&self) -> &'s dyn Parallel {
        #[cfg(feature = "threads")]
        return self.parallel;
        #[cfg(not(feature = "threads"))]
        &Alone
    }

    /// Whether these tokens can be read now: what [`Session::prefill`] asks before it reads.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn check(&self, tokens: &[u32]) -> Result<(), SessionError> {
        let vocab_size = self.model.config().vocab_size;
        match tokens.iter().find(|&&token| token >= vocab_size) {
            Some(&token) => Err(SessionError::Token { token, vocab_size }),
            None if tokens.is_empty() => Err(SessionError::EmptyPrompt),
            None => self.check_context(tokens.len()),
        }
    }

    fn check_context(&self, tokens: usize) -> Result<(), SessionError> {
        let end = self.position.saturating_add(tokens as u64);
        match self.capacity {
            capacity if capacity != usize::MAX && end > capacity as u64 => {
                Err(SessionError::Context {
                    capacity,
                    position: self.position,
                    tokens,
                })
            }
            _ => Ok(()),
        }
    }

    /// All blocks over one chunk of checked tokens; leaves the residual stream in scratch.
    #[cfg_attr(bitttt_micro, inline(never))]
    fn pass(&mut self, tokens: &[u32]) {
        self.fill_angles(tokens.len());
        let parallel = self.helpers();
        let Self {
            model,
            state,
            scratch,
            plan,
            backend,
            learning,
            dropped,
            batch,
            ..
        } = self;
        let (config, backend) = (model.config(), *backend);
        let pass = Pass {
            config,
            backend,
            parallel,
            tokens: tokens.len(),
            position: self.position,
            batch: *batch,
            learning: *learning == Learning::On,
        };
        let mut space = Workspace::cut(scratch, plan, config, tokens.len());
        embed(model, tokens, space.h);
        for_each_layer(model, *batch, state, |block, state, _| {
            let (state, ffn_history) = mixer::split_history(config, block.record.ffn_conv, state);
            let state = match block.record.pre_conv {
                true if IMPORTED => {
                    mixer::pre_conv(block, &pass, state, [&mut *space.h, &mut *space.x])
                }
                _ => state,
            };
            pass.normed(block, Role::MixerNorm, space.h, space.x);
            *dropped = dropped.saturating_add(mixer::forward(block, &pass, state, &mut space));
            backend.add(space.h, space.hidden);
            pass.normed(block, Role::FfnNorm, space.h, space.x);
            pass.convolve(space.x, ffn_history, block.floats(Role::FfnConv));
            ffn::forward(block, &pass, &mut space);
            backend.add(space.h, space.x);
        });
        self.position += tokens.len() as u64;
    }

    /// Logits after token `t` of the `n` in the last pass.
    #[cfg_attr(bitttt_micro, inline(never))]
    fn head(&mut self, n: usize, t: usize) {
        let (parallel, backend) = (self.helpers(), self.backend);
        let config = self.model.config();
        let d_model = config.d_model as usize;
        let mut space = Workspace::cut(self.scratch, &self.plan, config, n);
        let row = space.h.get(t * d_model..(t + 1) * d_model).unwrap_or(&[]);
        let Some(x) = space.x.get_mut(..d_model) else {
            return;
        };
        lanes::copy(x, row);
        backend.rms_norm(x, self.model.norm(), config.norm_eps);
        space.quantised.fill(backend, parallel, x, d_model);
        backend.matmul(
            parallel,
            &space.quantised.view(),
            x,
            [(&self.model.head(), &mut *space.logits)],
        );
        lanes::hold(space.logits);
    }

    fn logits(&mut self) -> &mut [f32] {
        let from = self.scratch.len().saturating_sub(self.plan.logits);
        self.scratch.get_mut(from..).unwrap_or_default()
    }

    /// What of the rotary angles does not depend on the tokens.
    #[cfg_attr(bitttt_micro, inline(never))]
    fn fill_rope(&mut self) {
        let config = *self.model.config();
        let d = (config.d_head() as usize).max(1);
        let frequency = |j| rope_frequency(config.rope_theta, j, d);
        let mut cutter = Cutter(&mut *self.scratch);
        for (i, row) in cutter.take(self.plan.rope).pieces_mut(d).enumerate() {
            rope_row(i as f32, row, frequency);
        }
        let angles = cutter.take(self.plan.angles).iter_mut();
        for (j, to) in angles.take(d / 2).enumerate() {
            *to = frequency(j);
        }
    }

    /// Rotary angles of the next `n` tokens.
    #[cfg_attr(bitttt_micro, inline(never))]
    fn fill_angles(&mut self, n: usize) {
        let d = (self.model.config().d_head() as usize).max(1);
        let mut cutter = Cutter(&mut *self.scratch);
        cutter.take(self.plan.rope);
        let angles = cutter.take(self.plan.angles);
        let Some((frequencies, rows)) = angles.split_at_mut_checked(d / 2) else {
            return;
        };
        for (row, position) in rows.pieces_mut(d).take(n).zip(self.position..) {
            rope_row(position as f32, row, |j| {
                frequencies.get(j).copied().unwrap_or(0.0)
            });
        }
    }
}

/// Tokens that there is room for, if some layer remembers all of them; else `usize::MAX`.
fn capacity(model: &Model<'_>, batch: Batch) -> usize {
    let mut layers =
        (0..model.config().n_layers).filter_map(|layer| model.layer_config(layer).ok());
    match layers.any(|record| record.needs_context()) {
        true => batch.context(model.config()),
        false => usize::MAX,
    }
}

/// Walks blocks together with their slices of the state.
fn for_each_layer<'m>(
    model: &Model<'m>,
    batch: Batch,
    state: &mut [f32],
    mut run: impl FnMut(&Block<'_, 'm>, &mut [f32], &Config),
) {
    let config = model.config();
    let mut cutter = Cutter(state);
    for layer in 0..config.n_layers {
        // by reference: to move it out takes its size again of a device's stack
        let Some(block) = &model.block(layer) else {
            return;
        };
        let own = cutter.take(layer_state(config, &block.record, batch));
        run(block, own, config);
    }
}

/// Rows of the embedding `[n, D]`.
#[cfg_attr(bitttt_micro, inline(never))]
fn embed(model: &Model<'_>, tokens: &[u32], h: &mut [f32]) {
    let table = model.embed();
    let d = table.cols.max(1);
    for (&token, h) in tokens.iter().zip(h.pieces_mut(d)) {
        let token = token as usize;
        match table.weights {
            Weights::I8(codes, scales) => {
                let scale = scales.get(token).copied().unwrap_or(0.0);
                let row = codes.get(token * d..).unwrap_or(&[]);
                h.iter_mut()
                    .zip(row)
                    .for_each(|(h, &code)| *h = finite(f32::from(code) * scale));
            }
            Weights::Float(all) if DType::F32.is_built(true) => all.row(token, d).copy_to(h),
            _ => {} // refused when the model was read
        }
    }
}
