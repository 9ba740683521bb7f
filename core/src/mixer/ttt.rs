//! TTT-Linear and TTT-MLP (Sun et al. 2024, arXiv 2407.04620): per head a small model, linear or of two layers, that is
//! trained on the stream itself, by one gradient step a mini-batch, in the dual form that needs no weights per token.

use super::{Heads, Rows};
use crate::block::{Block, Ttt};
use crate::format::{Config, Mixer, Role};
use crate::kernel::parallel::{self, Divided, split};
use crate::kernel::row;
use crate::kernel::ttt::{FastLayer, InnerNorm, TttHead, TttToken, start_over};
use crate::math::sigmoid;
use crate::memory::{head_state, ttt_temp};
use crate::model::Floats;
use crate::pieces::Cut;
use crate::workspace::{Cutter, Pass};

/// Steps every head through the pass's tokens. Returns how many updates were dropped.
#[cfg_attr(bitttt_micro, inline(never))]
pub(super) fn learn(
    block: &Block<'_, '_>,
    pass: &Pass<'_>,
    state: &mut [f32],
    heads: Heads<'_>,
    rows: Rows<'_>,
) -> u32 {
    let Some(mixer) = &block.ttt() else {
        return 0;
    };
    let (config, record) = (pass.config, &block.record);
    let (d, h) = (config.d_head() as usize, config.n_heads as usize);
    let Some((rates, temp)) = heads.temp.split_at_mut_checked(pass.tokens * h) else {
        return 0;
    };
    inner_rates(block, pass, rows[3], rates);
    let Some((drops, temp)) = temp.split_at_mut_checked(h) else {
        return 0;
    };
    drops.fill(0.0);
    let rates = &*rates;
    split(
        pass.parallel,
        h,
        &mut [
            Divided::new(state, head_state(config, record)),
            Divided::new(temp, ttt_temp(config, record)),
            Divided::new(&mut *drops, 1),
        ],
        &mut rows.map(|rows| Divided::new(rows, d)),
        &|h, [state, temp, drops], rows| {
            let dropped = run_head(h, mixer, pass, state, rates, heads.rope, temp, rows);
            drops.fill(dropped as f32);
        },
    );
    drops.iter().sum::<f32>() as u32
}

/// One head over the pass's tokens; returns how many of its updates were dropped.
#[allow(clippy::too_many_arguments)] // what a part of the work owns
#[cfg_attr(bitttt_micro, inline(never))]
fn run_head(
    h: usize,
    mixer: &Ttt<'_>,
    pass: &Pass<'_>,
    state: &mut [f32],
    rates: &[f32],
    rope: &[f32],
    temp: &mut [f32],
    mut rows: parallel::Rows<'_, 4>,
) -> u32 {
    let (d, heads) = (pass.config.d_head() as usize, pass.config.n_heads as usize);
    let head = &mut head(mixer, pass.config, state, h);
    let mut dropped = 0;
    for t in 0..pass.tokens {
        let i = pass.place(t);
        let angles = row(rope, i, d);
        let [q, k, v, out] = rows.rows(t);
        pass.backend.rotate(q, angles);
        pass.backend.rotate(k, angles);
        let rate = rates.get(t * heads + h).copied();
        let token = TttToken {
            q,
            k,
            v,
            i,
            rate: rate.filter(|_| pass.learning),
            tau: tau(mixer, i),
        };
        pass.backend.ttt_step(head, &token, temp, out);
        let full = i + 1 == usize::from(pass.config.mini_batch);
        if full && !pass.backend.ttt_close(head, token.tau, temp) {
            dropped += 1;
        }
    }
    dropped
}

/// `lr = base_lr * sigmoid(w_lr . x + b_lr) / d` of every head `[n, H]` for `x [n, D]`.
#[cfg_attr(bitttt_micro, inline(never))]
fn inner_rates(block: &Block<'_, '_>, pass: &Pass<'_>, x: &[f32], rates: &mut [f32]) {
    let (lr, bias) = (block.floats(Role::Lr), block.vector(Role::LrBias));
    let bias = bias.unwrap_or(&[]);
    let x = x.pieces(pass.config.d_model as usize);
    for (rates, x) in rates.pieces_mut(bias.len()).zip(x) {
        for (h, (rate, &bias)) in rates.iter_mut().zip(bias).enumerate() {
            let logit = match lr {
                Some(lr) => pass.backend.dot_stored(lr.row(h, x.len()), x) + bias,
                None => bias,
            };
            *rate = (pass.config.ttt_base_lr * sigmoid(logit)) / pass.config.d_head() as f32;
        }
    }
}

/// `tau_i = max(0, 1 / (i + 1) + c_i)`.
fn tau(mixer: &Ttt<'_>, i: usize) -> f32 {
    let tau = 1.0 / (i + 1) as f32 + mixer.tau.get(i).copied().unwrap_or(0.0);
    if tau > 0.0 { tau } else { 0.0 }
}

/// Head `h` of the layer's tensors over its own slice of the state.
fn head<'s, 'w>(mixer: &Ttt<'w>, config: &Config, own: &'s mut [f32], h: usize) -> TttHead<'s, 'w> {
    let (d, b) = (config.d_head() as usize, usize::from(config.mini_batch));
    let second = mixer.second.filter(|_| Mixer::TttMlp.is_built());
    let width = match second {
        Some(_) => config.d_inner() as usize,
        None => d,
    };
    let mut cutter = Cutter(own);
    let fast = cutter.take(d * width + width);
    let second_fast = second.map(|_| cutter.take(width * d + d));
    let first = FastLayer {
        fast,
        inputs: cutter.take(b * d),
        grads: cutter.take(b * width),
        start: rows_of(mixer.start, h, d, width),
        width,
    };
    let second = second.zip(second_fast).map(|(start, fast)| FastLayer {
        fast,
        inputs: cutter.take(b * width),
        grads: cutter.take(b * d),
        start: rows_of(Some(start), h, width, d),
        width: d,
    });
    TttHead {
        first,
        second,
        rates: cutter.take(b),
        norm: InnerNorm {
            scale: row(mixer.ln_scale, h, d),
            bias: row(mixer.ln_bias, h, d),
            eps: config.ln_eps,
        },
        decay: mixer.decay.and_then(|decay| decay.get(h).copied()),
    }
}

/// Head `h`'s part of where fast weights of these inputs and outputs start.
fn rows_of(
    start: Option<[Floats<'_>; 2]>,
    h: usize,
    inputs: usize,
    width: usize,
) -> Option<[Floats<'_>; 2]> {
    start.map(|[w, u]| [w.row(h, inputs * width), u.row(h, width)])
}

/// Puts a layer's state back to the start of a document.
pub(super) fn reset(block: &Block<'_, '_>, config: &Config, state: &mut [f32]) {
    let d = config.d_head() as usize;
    let (first, second) = (block.start(), block.second_start());
    let width = match second {
        Some(_) => config.d_inner() as usize,
        None => d,
    };
    state.fill(0.0);
    let heads = state.pieces_mut(head_state(config, &block.record));
    for (h, own) in heads.enumerate() {
        let mut cutter = Cutter(own);
        start_over(
            cutter.take(d * width + width),
            rows_of(first, h, d, width),
            width,
        );
        if second.is_some() {
            start_over(cutter.take(width * d + d), rows_of(second, h, width, d), d);
        }
    }
}
