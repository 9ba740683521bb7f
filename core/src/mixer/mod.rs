//! Mixers: what carries information over time. One file a family; here is what they share.
//!
//! A mixer takes its normed input from `space.x`, which is free afterwards, and leaves its result in
//! `space.hidden[..n * D]`.

mod attention;
mod cache;
mod ttt;
mod ttt_lite;

use crate::block::Block;
use crate::format::role::kv_width;
use crate::format::{Config, IMPORTED, Mixer, Role};
use crate::memory::{Batch, histories_words, history_words};
use crate::workspace::{Cutter, Pass, Workspace};

/// Runs the pass's tokens through a block's mixer. Returns the number of updates that were dropped.
pub(crate) fn forward(
    block: &Block<'_, '_>,
    pass: &Pass<'_>,
    state: &mut [f32],
    space: &mut Workspace<'_>,
) -> u32 {
    let record = &block.record;
    let (state, history) = split_history(pass.config, record.conv, state);
    pass.convolve(space.x, history, block.floats(Role::Conv));
    if record.kind() == Mixer::TttLite {
        return ttt_lite::forward(block, pass, state, space);
    }
    project(block, pass, space);
    let (mut rows, heads) = between(block, pass, space);
    let dropped = match record.kind() {
        Mixer::Attention => {
            attention::attend(record, pass, state, heads, rows);
            0
        }
        _ if IMPORTED && record.shared_qk => {
            let state = share(block, pass, state, &mut rows);
            ttt::learn(block, pass, state, heads, rows)
        }
        _ => ttt::learn(block, pass, state, heads, rows),
    };
    finish(block, pass, space);
    dropped
}

/// Puts a layer's state back to the start of a document. At most the first `touched` tokens' places may hold anything.
pub(crate) fn reset(
    block: &Block<'_, '_>,
    config: &Config,
    batch: Batch,
    state: &mut [f32],
    touched: u64,
) {
    let own = state
        .len()
        .saturating_sub(histories_words(config, &block.record));
    let (state, histories) = state.split_at_mut_checked(own).unwrap_or_default();
    histories.fill(0.0);
    match block.record.kind() {
        Mixer::TttLinear | Mixer::TttMlp => ttt::reset(block, config, state),
        Mixer::Attention => attention::reset(&block.record, config, batch, state, touched),
        Mixer::TttLite => state.fill(0.0),
    }
}

/// Splits the history of a convolution, if there is one, from the end of a layer's state.
pub(crate) fn split_history<'s>(
    config: &Config,
    convolved: bool,
    state: &'s mut [f32],
) -> (&'s mut [f32], &'s mut [f32]) {
    let history = if convolved { history_words(config) } else { 0 };
    let own = state.len().saturating_sub(history);
    state.split_at_mut_checked(own).unwrap_or_default()
}

/// Queries and keys from the one projection that stands in the queries' place (Sun et al. 2024, `share_qk`). Returns the
/// state without the convolutions' histories.
fn share<'s>(
    block: &Block<'_, '_>,
    pass: &Pass<'_>,
    state: &'s mut [f32],
    [q, k, ..]: &mut Rows<'_>,
) -> &'s mut [f32] {
    let (state, k_history) = split_history(pass.config, true, state);
    let (state, q_history) = split_history(pass.config, true, state);
    crate::kernel::lanes::copy(k, q);
    let (taps, bias) = (block.gain(Role::QueryConv), block.gain(Role::QueryConvBias));
    pass.convolve_biased(q, q_history, taps, bias);
    let (taps, bias) = (block.gain(Role::KeyConv), block.gain(Role::KeyConvBias));
    pass.convolve_biased(k, k_history, taps, bias);
    state
}

/// The convolution at the start of a block that has one: `h += conv(RMSNorm(h))`. `x` is room for `[n, D]`. Returns the
/// state without its history.
pub(crate) fn pre_conv<'s>(
    block: &Block<'_, '_>,
    pass: &Pass<'_>,
    state: &'s mut [f32],
    [h, x]: [&mut [f32]; 2],
) -> &'s mut [f32] {
    let (state, history) = split_history(pass.config, true, state);
    pass.normed(block, Role::PreNorm, h, x);
    let (taps, bias) = (block.gain(Role::PreConv), block.gain(Role::PreConvBias));
    pass.convolve_biased(x, history, taps, bias);
    pass.backend.add(h, x);
    state
}

/// What a mixer with heads finds between its projections: queries, keys, values and its input, which its output
/// replaces; `[n, width]` each.
type Rows<'a> = [&'a mut [f32]; 4];

/// Rotary angles and the memory of a mixer's heads.
struct Heads<'a> {
    rope: &'a [f32],
    angles: &'a [f32],
    temp: &'a mut [f32],
}

/// The way into a mixer with heads: `q, k, v` and the gate's projection, one behind the other in `space.hidden`.
#[cfg_attr(bitttt_micro, inline(never))]
fn project(block: &Block<'_, '_>, pass: &Pass<'_>, space: &mut Workspace<'_>) {
    pass.quantise(&mut space.quantised, space.x, pass.config.d_model as usize);
    let [q, k, v, gate] = parts(block, pass, space.hidden);
    let products = [(Role::Query, q), (Role::Key, k), (Role::Value, v)];
    pass.matmul(block, &space.quantised, space.x, products);
    if block.record.gate {
        pass.matmul(block, &space.quantised, space.x, [(Role::Gate, gate)]);
    }
}

/// Queries, keys, values and the gate's projection.
#[cfg_attr(bitttt_micro, inline(never))]
fn parts<'s>(block: &Block<'_, '_>, pass: &Pass<'_>, hidden: &'s mut [f32]) -> [&'s mut [f32]; 4] {
    let n = pass.tokens * pass.config.d_model as usize;
    let n_kv = pass.tokens * kv_width(pass.config, Some(&block.record)) as usize;
    let mut cutter = Cutter(hidden);
    [n, n_kv, n_kv, n].map(|words| cutter.take(words))
}

/// What is between the projections: rows and heads.
fn between<'s>(
    block: &Block<'_, '_>,
    pass: &Pass<'_>,
    space: &'s mut Workspace<'_>,
) -> (Rows<'s>, Heads<'s>) {
    let [q, k, v, _] = parts(block, pass, space.hidden);
    let heads = Heads {
        rope: space.rope,
        angles: space.angles,
        temp: space.head,
    };
    ([q, k, v, space.x], heads)
}

/// The way out of it: norm, gate, `o`.
#[cfg_attr(bitttt_micro, inline(never))]
fn finish(block: &Block<'_, '_>, pass: &Pass<'_>, space: &mut Workspace<'_>) {
    let [out, _, _, gate] = parts(block, pass, space.hidden);
    if let Some(gain) = block.floats(Role::OutNorm) {
        if IMPORTED && block.record.layer_norm {
            pass.layer_norm(space.x, gain, block.gain(Role::OutNormBias));
        } else {
            pass.rms_norm(space.x, gain);
        }
    }
    if block.record.gate {
        match block.record.gelu_gate {
            true if IMPORTED => pass.backend.gelu_gate(space.x, gate),
            _ => pass.backend.gate(space.x, gate),
        }
    }
    pass.quantise(&mut space.quantised, space.x, pass.config.d_model as usize);
    pass.matmul(block, &space.quantised, space.x, [(Role::Output, out)]);
}
