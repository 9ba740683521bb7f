//! A session's scratch memory, cut for one pass.

use crate::block::Block;
use crate::format::{Config, IMPORTED, Role};
use crate::kernel::parallel::{Shared, nothing, split_tokens};
use crate::kernel::{Backend, Parallel, Quantised, lanes};
use crate::math::modulo;
use crate::memory::{Batch, MemoryPlan, padded};
use crate::model::Floats;
#[cfg(feature = "threads")]
use crate::model::Matrix;
use crate::pieces::Cut;

/// What a pass over `n` tokens needs to know.
pub(crate) struct Pass<'a> {
    pub config: &'a Config,
    pub backend: Backend,
    pub parallel: &'a dyn Parallel,
    /// Tokens in this pass.
    pub tokens: usize,
    /// Position of the first token.
    pub position: u64,
    /// Tokens at a time and room for a context, as the session's memory was planned.
    pub batch: Batch,
    pub learning: bool,
}

impl Pass<'_> {
    /// A block's matrices times the same activations, see [`Backend::matmul`]. One hand-off to the threads for all of them;
    /// without threads one after the other, which takes less stack.
    #[inline(always)]
    pub fn matmul<const N: usize>(
        &self,
        block: &Block<'_, '_>,
        quantised: &Activations<'_>,
        x: &[f32],
        products: [(Role, &mut [f32]); N],
    ) {
        #[cfg(feature = "threads")]
        {
            let matrices = products.each_ref().map(|(role, _)| block.own(*role));
            let mut own = matrices.iter();
            let products = products.map(|(_, out)| (own.next().unwrap_or(&Matrix::EMPTY), out));
            self.backend
                .matmul(self.parallel, &quantised.view(), x, products);
        }
        #[cfg(not(feature = "threads"))]
        for (role, out) in products {
            self.product(block, quantised, x, role, out);
        }
    }

    /// One matrix times activations.
    #[cfg(not(feature = "threads"))]
    #[cfg_attr(bitttt_micro, inline(never))]
    fn product(
        &self,
        block: &Block<'_, '_>,
        quantised: &Activations<'_>,
        x: &[f32],
        role: Role,
        out: &mut [f32],
    ) {
        let matrix = block.own(role);
        self.backend
            .matmul(self.parallel, &quantised.view(), x, [(&matrix, out)]);
    }

    /// Quantises `x [n, width]`, see [`Activations::fill`].
    pub fn quantise(&self, quantised: &mut Activations<'_>, x: &[f32], width: usize) {
        quantised.fill(self.backend, self.parallel, x, width);
    }

    /// RMSNorm of each row of `x [n, width]`.
    pub fn rms_norm(&self, x: &mut [f32], gain: Floats<'_>) {
        let width = gain.len();
        split_tokens(
            self.parallel,
            self.tokens,
            [(x, width), nothing(), nothing()],
            &|_, [x, ..]| {
                for row in x.pieces_mut(width) {
                    self.backend.rms_norm(row, gain, self.config.norm_eps);
                }
            },
        );
    }

    /// `x = RMSNorm(h)` for rows of `h [n, D]`, with a block's gains.
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn normed(&self, block: &Block<'_, '_>, gain: Role, h: &[f32], x: &mut [f32]) {
        lanes::copy(x, h);
        self.rms_norm(x, block.gain(gain));
    }

    /// Causal convolution of the rows of `x [n, D]`, where there is one; `history` is `[3, D]`.
    pub fn convolve(&self, x: &mut [f32], history: &mut [f32], taps: Option<Floats<'_>>) {
        if let Some(taps) = taps {
            x.pieces_mut(self.config.d_model as usize)
                .for_each(|x| self.backend.conv(x, history, taps));
        }
    }

    /// `rows of x = conv(rows of x) + bias`, both stored; `history` is `[3, D]`.
    pub fn convolve_biased(
        &self,
        x: &mut [f32],
        history: &mut [f32],
        taps: Floats<'_>,
        bias: Floats<'_>,
    ) {
        for x in x.pieces_mut(self.config.d_model as usize) {
            self.backend.conv(x, history, taps);
            self.backend.add_stored(x, bias);
        }
    }

    /// Layer norm of each row of `x [n, D]`.
    pub fn layer_norm(&self, x: &mut [f32], gain: Floats<'_>, bias: Floats<'_>) {
        for x in x.pieces_mut(gain.len()) {
            self.backend.layer_norm(x, gain, bias, self.config.ln_eps);
        }
    }

    /// Place in its mini-batch of the pass's token `t`.
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn place(&self, t: usize) -> usize {
        let mini_batch = u32::from(self.config.mini_batch);
        modulo(self.position.wrapping_add(t as u64), mini_batch) as usize
    }
}

/// Scratch for `n` tokens.
pub(crate) struct Workspace<'s> {
    /// Rotary angles of the places in a mini-batch `[b, d_head]`.
    pub rope: &'s [f32],
    /// Rotary angles of the pass's tokens `[n, d_head]`.
    pub angles: &'s [f32],
    /// Residual stream `[n, D]`.
    pub h: &'s mut [f32],
    /// Input or output of a mixer or network `[n, D]`.
    pub x: &'s mut [f32],
    /// Intermediates of a mixer or network.
    pub hidden: &'s mut [f32],
    /// Activations as a BitLinear takes them.
    pub quantised: Activations<'s>,
    /// Temporaries of a mixer's heads.
    pub head: &'s mut [f32],
    /// `[V]`.
    pub logits: &'s mut [f32],
}

/// Quantised activations in the making.
pub(crate) struct Activations<'s> {
    tokens: usize,
    stride: usize,
    codes: &'s mut [i8],
    scales: &'s mut [f32],
    sums: &'s mut [i32],
    /// They stay as they are.
    wide: bool,
    tables: Shared<'s, f32>,
}

impl Activations<'_> {
    /// Quantises `x [n, width]`, a token a row.
    pub fn fill(&mut self, backend: Backend, parallel: &dyn Parallel, x: &[f32], width: usize) {
        if IMPORTED && self.wide {
            return;
        }
        let stride = self.stride;
        self.tokens = x.len() / width.max(1);
        let codes = words(self.codes);
        let sums = words(self.sums);
        let owned = [(codes, stride / 4), (&mut *self.scales, 1), (sums, 1)];
        split_tokens(
            parallel,
            self.tokens,
            owned,
            &|first, [codes, scales, sums]| {
                let codes = bytemuck::cast_slice_mut::<f32, i8>(codes).pieces_mut(stride);
                let sums = bytemuck::cast_slice_mut::<f32, i32>(sums);
                let x = x.get(first * width..).unwrap_or(&[]);
                let rows = codes.zip(scales).zip(sums).zip(x.pieces(width));
                for (((codes, scale), sum), x) in rows {
                    (*scale, *sum) = backend.quantise(x, codes);
                }
            },
        );
    }

    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn view(&self) -> Quantised<'_> {
        Quantised {
            stride: self.stride,
            codes: self.codes,
            scales: self.scales.get(..self.tokens).unwrap_or(self.scales),
            sums: self.sums.get(..self.tokens).unwrap_or(self.sums),
            wide: self.wide,
            tables: self.tables,
        }
    }
}

/// Memory that was cut from words, as words again.
fn words<T: bytemuck::Pod>(of: &mut [T]) -> &mut [f32] {
    bytemuck::try_cast_slice_mut(of).unwrap_or_default()
}

/// Cuts pieces off the front; too short a slice gives empty pieces, which the session's size check excludes.
pub(crate) struct Cutter<'s>(pub &'s mut [f32]);

impl<'s> Cutter<'s> {
    #[cfg_attr(bitttt_micro, inline(never))]
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
        let angles = cutter.take(plan.angles);
        let mut residual = Cutter(cutter.take(plan.residual));
        let hidden = cutter.take(plan.hidden);
        let mut quantised = Cutter(cutter.take(plan.quantised));
        let tables = Shared::new(cutter.take(plan.tables));
        let stride = padded(widest);
        Self {
            rope,
            angles: angles.get(config.d_head() as usize / 2..).unwrap_or(&[]),
            h: residual.take(n * d_model),
            x: residual.take(n * d_model),
            hidden,
            quantised: Activations {
                tokens: n,
                stride,
                codes: bytemuck::try_cast_slice_mut(quantised.take(n * stride / 4))
                    .unwrap_or_default(),
                scales: quantised.take(n),
                sums: bytemuck::try_cast_slice_mut(quantised.take(n)).unwrap_or_default(),
                wide: config.float_activations,
                tables,
            },
            head: cutter.take(plan.head),
            logits: cutter.take(plan.logits),
        }
    }
}
