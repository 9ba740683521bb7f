//! Mixers: what carries information over time. One file a family; here is what they share.
//!
//! A mixer takes its normed input from `space.x`, which is free afterwards, and leaves its result in
//! `space.hidden[..n * D]`.

mod attention;
mod cache;
mod ttt;
mod ttt_lite;

use crate::block::Block;
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
    match record.mixer {
        mixer if !mixer.is_built() => 0, // refused when the model was read
        Mixer::TttLinear | Mixer::TttMlp => projected(block, pass, space, &mut |rows, heads| {
            let (mut state, mut rows) = (&mut *state, rows);
            if IMPORTED && record.shared_qk {
                state = share(block, pass, state, &mut rows);
            }
            ttt::learn(block, pass, state, heads, rows)
        }),
        Mixer::Attention => projected(block, pass, space, &mut |rows, heads| {
            attention::attend(record, pass, state, heads, rows);
            0
        }),
        Mixer::TttLite => ttt_lite::forward(block, pass, state, space),
    }
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
    match block.record.mixer {
        mixer if !mixer.is_built() => {}
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
    pass.normed(h, x, block.gain(Role::PreNorm));
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

/// The way in and out of a mixer with heads: `q, k, v` and the gate's projections, `mix`, norm, gate, `o`.
fn projected(
    block: &Block<'_, '_>,
    pass: &Pass<'_>,
    space: &mut Workspace<'_>,
    mix: &mut dyn FnMut(Rows<'_>, Heads<'_>) -> u32,
) -> u32 {
    let config = pass.config;
    let d_model = (config.d_model as usize).max(1);
    pass.quantise(&mut space.quantised, space.x, d_model);
    let (query, key, value) = (
        block.own(Role::Query),
        block.own(Role::Key),
        block.own(Role::Value),
    );
    let (n, n_kv) = (pass.tokens * d_model, pass.tokens * value.rows);
    let mut cutter = Cutter(&mut *space.hidden);
    let (q, k, v) = (cutter.take(n), cutter.take(n_kv), cutter.take(n_kv));
    let products = [(&query, &mut *q), (&key, &mut *k), (&value, &mut *v)];
    pass.matmul(&space.quantised, space.x, products);
    let gate = block.matrix(Role::Gate).map(|matrix| {
        let out = cutter.take(n);
        pass.matmul(&space.quantised, space.x, [(&matrix, &mut *out)]);
        out
    });
    let heads = Heads {
        rope: space.rope,
        angles: space.angles,
        temp: space.head,
    };
    let dropped = mix([&mut *q, k, v, space.x], heads);
    if let Some(gain) = block.floats(Role::OutNorm) {
        if IMPORTED && block.record.layer_norm {
            pass.layer_norm(space.x, gain, block.gain(Role::OutNormBias));
        } else {
            pass.rms_norm(space.x, gain);
        }
    }
    if let Some(gate) = gate {
        match block.record.gelu_gate {
            true if IMPORTED => pass.backend.gelu_gate(space.x, gate),
            _ => pass.backend.gate(space.x, gate),
        }
    }
    pass.quantise(&mut space.quantised, space.x, d_model);
    pass.matmul(&space.quantised, space.x, [(&block.own(Role::Output), q)]);
    dropped
}
