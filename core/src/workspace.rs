//! A session's scratch memory, cut for one pass.

use crate::format::Config;
use crate::kernel::{Backend, Quantised};
use crate::memory::{MemoryPlan, padded};

/// What a pass over `n` tokens needs to know.
pub(crate) struct Pass<'a> {
    pub config: &'a Config,
    pub backend: Backend,
    /// Tokens in this pass.
    pub tokens: usize,
    /// Place of the first token in its mini-batch.
    pub start: usize,
    pub learning: bool,
}

impl Pass<'_> {
    /// Place in its mini-batch of the pass's token `t`.
    pub fn place(&self, t: usize) -> usize {
        (self.start + t) % usize::from(self.config.mini_batch).max(1)
    }
}

/// Scratch for `n` tokens.
pub(crate) struct Workspace<'s> {
    /// Rotary angles `[b, d_head]`.
    pub rope: &'s [f32],
    /// Residual stream `[n, D]`.
    pub h: &'s mut [f32],
    /// Input or output of a mixer or network `[n, D]`.
    pub x: &'s mut [f32],
    /// Intermediates; at least `n * max(3 D or 4 D, 2 F)`.
    pub hidden: &'s mut [f32],
    /// Activations as a BitLinear takes them.
    pub quantised: Activations<'s>,
    /// Temporaries of one token's heads.
    pub head: &'s mut [f32],
    /// `[V]`.
    pub logits: &'s mut [f32],
}

/// Quantised activations in the making.
pub(crate) struct Activations<'s> {
    stride: usize,
    codes: &'s mut [i8],
    scales: &'s mut [f32],
    sums: &'s mut [i32],
}

impl Activations<'_> {
    /// Quantises `x [n, width]`, a token a row.
    pub fn fill(&mut self, backend: Backend, x: &[f32], width: usize) {
        let rows = self
            .codes
            .chunks_exact_mut(self.stride.max(1))
            .zip(self.scales.iter_mut())
            .zip(self.sums.iter_mut());
        for (((codes, scale), sum), x) in rows.zip(x.chunks_exact(width.max(1))) {
            (*scale, *sum) = backend.quantise(x, codes);
        }
    }

    pub fn view(&self) -> Quantised<'_> {
        Quantised {
            stride: self.stride,
            codes: self.codes,
            scales: self.scales,
            sums: self.sums,
        }
    }
}

/// Cuts pieces off the front; too short a slice gives empty pieces, which the session's size check excludes.
pub(crate) struct Cutter<'s>(pub &'s mut [f32]);

impl<'s> Cutter<'s> {
    pub fn take(&mut self, words: usize) -> &'s mut [f32] {
        let all = core::mem::take(&mut self.0);
        let (piece, rest) = all.split_at_mut_checked(words).unwrap_or_default();
        self.0 = rest;
        piece
    }
}

impl<'s> Workspace<'s> {
    /// Cuts `scratch` for `n` tokens; `n` is at most the batch that `plan` is for.
    pub fn cut(scratch: &'s mut [f32], plan: &MemoryPlan, config: &Config, n: usize) -> Self {
        let (d_model, widest) = (
            config.d_model as usize,
            config.d_model.max(config.d_ffn) as usize,
        );
        let mut cutter = Cutter(scratch);
        let rope = cutter.take(plan.rope);
        let mut residual = Cutter(cutter.take(plan.residual));
        let hidden = cutter.take(plan.hidden);
        let mut quantised = Cutter(cutter.take(plan.quantised));
        let stride = padded(widest);
        Self {
            rope,
            h: residual.take(n * d_model),
            x: residual.take(n * d_model),
            hidden,
            quantised: Activations {
                stride,
                codes: bytemuck::try_cast_slice_mut(quantised.take(n * stride / 4))
                    .unwrap_or_default(),
                scales: quantised.take(n),
                sums: bytemuck::try_cast_slice_mut(quantised.take(n)).unwrap_or_default(),
            },
            head: cutter.take(plan.head),
            logits: cutter.take(plan.logits),
        }
    }
}
