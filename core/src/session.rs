//! A session: one stream of tokens through a model, in the caller's memory, learning as it reads.
//!
//! Invariant: whatever the split into [`Session::prefill`] and [`Session::step`] calls, the batch and the backend,
//! the same tokens leave the same bits in logits and state.

use crate::format::Config;
use crate::kernel::Backend;
use crate::math::rope_row;
use crate::memory::{Batch, MemoryPlan, layer_state};
use crate::mixer::ttt_linear;
use crate::model::{Matrix, Model, Weights};
use crate::workspace::{Cutter, Pass, Workspace};
use crate::{ffn, kernel::lanes};
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
    batch: Batch,
    learning: Learning,
    pub(crate) state: &'s mut [f32],
    scratch: &'s mut [f32],
    pub(crate) position: u64,
    pub(crate) dropped: u32,
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
            batch,
            learning: Learning::On,
            state,
            scratch,
            position: 0,
            dropped: 0,
        };
        session.fill_rope();
        session.reset();
        Ok(session)
    }

    /// Forgets everything: fast weights as the model was trained, position 0. Call it between documents.
    pub fn reset(&mut self) {
        let Self { model, state, .. } = self;
        for_each_layer(model, state, |block, state, config| {
            ttt_linear::reset(&block.mixer, config, state)
        });
        self.position = 0;
        self.dropped = 0;
    }

    /// Reads a prompt, learning from it, and returns the logits `[V]` that follow its last token.
    ///
    /// # Errors
    /// [`SessionError::Token`] or [`SessionError::EmptyPrompt`]; nothing has been read then.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&mut [f32], SessionError> {
        self.check(tokens)?;
        let mut last = 0;
        for chunk in tokens.chunks(self.batch.tokens().max(1)) {
            self.pass(chunk);
            last = chunk.len();
        }
        self.head(last, last.saturating_sub(1));
        Ok(self.logits())
    }

    /// Reads one token, learning from it, and returns the logits `[V]` that follow it.
    ///
    /// # Errors
    /// [`SessionError::Token`]; nothing has been read then.
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
        for (c, chunk) in tokens.chunks(batch).enumerate() {
            self.pass(chunk);
            for t in 0..chunk.len() {
                self.head(chunk.len(), t);
                each(c * batch + t, self.logits());
            }
        }
        Ok(())
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
        let mut digest = crate::checksum::digest();
        digest.update(&self.position.to_le_bytes());
        digest.update(bytemuck::cast_slice(self.state));
        digest.finalize()
    }

    fn check(&self, tokens: &[u32]) -> Result<(), SessionError> {
        let vocab_size = self.model.config().vocab_size;
        match tokens.iter().find(|&&token| token >= vocab_size) {
            Some(&token) => Err(SessionError::Token { token, vocab_size }),
            None if tokens.is_empty() => Err(SessionError::EmptyPrompt),
            None => Ok(()),
        }
    }

    /// All blocks over one chunk of checked tokens; leaves the residual stream in scratch.
    fn pass(&mut self, tokens: &[u32]) {
        let Self {
            model,
            state,
            scratch,
            plan,
            backend,
            learning,
            dropped,
            ..
        } = self;
        let (config, backend) = (*model.config(), *backend);
        let mini_batch = u64::from(config.mini_batch).max(1);
        let pass = Pass {
            config: &config,
            backend,
            tokens: tokens.len(),
            start: (self.position % mini_batch) as usize,
            learning: *learning == Learning::On,
        };
        let mut space = Workspace::cut(scratch, plan, &config, tokens.len());
        embed(&model.embed(), tokens, space.h);
        for_each_layer(model, state, |block, state, config| {
            normed(backend, space.h, space.x, block.mixer_norm, config);
            *dropped =
                dropped.saturating_add(ttt_linear::forward(&block.mixer, &pass, state, &mut space));
            backend.add(space.h, space.hidden);
            normed(backend, space.h, space.x, block.ffn_norm, config);
            ffn::forward(&block.ffn, &pass, &mut space);
            backend.add(space.h, space.x);
        });
        self.position += tokens.len() as u64;
    }

    /// Logits after token `t` of the `n` in the last pass.
    fn head(&mut self, n: usize, t: usize) {
        let (config, backend) = (*self.model.config(), self.backend);
        let d_model = config.d_model as usize;
        let mut space = Workspace::cut(self.scratch, &self.plan, &config, n);
        let row = space.h.get(t * d_model..(t + 1) * d_model).unwrap_or(&[]);
        let Some(x) = space.x.get_mut(..d_model) else {
            return;
        };
        normed(backend, row, x, self.model.norm(), &config);
        space.quantised.fill(backend, x, d_model);
        backend.matmul(&self.model.head(), &space.quantised.view(), x, space.logits);
    }

    fn logits(&mut self) -> &mut [f32] {
        let from = self.scratch.len().saturating_sub(self.plan.logits);
        self.scratch.get_mut(from..).unwrap_or_default()
    }

    fn fill_rope(&mut self) {
        let config = self.model.config();
        let d = (config.d_head() as usize).max(1);
        if let Some(rope) = self.scratch.get_mut(..self.plan.rope) {
            for (i, row) in rope.chunks_exact_mut(d).enumerate() {
                rope_row(i, config.rope_theta, row);
            }
        }
    }
}

/// Walks blocks together with their slices of the state.
fn for_each_layer<'m>(
    model: &Model<'m>,
    state: &mut [f32],
    mut run: impl FnMut(&crate::model::Block<'m>, &mut [f32], &Config),
) {
    let config = *model.config();
    let mut cutter = Cutter(state);
    for layer in 0..config.n_layers {
        let (Some(block), Ok(record)) = (model.block(layer), model.layer_config(layer)) else {
            return;
        };
        run(&block, cutter.take(layer_state(&config, &record)), &config);
    }
}

fn normed(backend: Backend, h: &[f32], x: &mut [f32], gain: &[f32], config: &Config) {
    lanes::copy(x, h);
    for row in x.chunks_exact_mut((config.d_model as usize).max(1)) {
        backend.rms_norm(row, gain, config.norm_eps);
    }
}

/// Rows of the embedding `[n, D]`.
fn embed(table: &Matrix<'_>, tokens: &[u32], h: &mut [f32]) {
    let d = table.cols.max(1);
    for (&token, h) in tokens.iter().zip(h.chunks_exact_mut(d)) {
        let token = token as usize;
        match table.weights {
            Weights::I8(codes, scales) => {
                let scale = scales.get(token).copied().unwrap_or(0.0);
                let row = codes.get(token * d..).unwrap_or(&[]);
                h.iter_mut()
                    .zip(row)
                    .for_each(|(h, &code)| *h = f32::from(code) * scale);
            }
            Weights::Float(all) => all.row(token, d).copy_to(h),
            Weights::T2(..) | Weights::T5(..) => {} // refused by the table check
        }
    }
}
