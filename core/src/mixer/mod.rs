//! Mixers: what carries information over time. One file a family; here is what they share.
//!
//! A mixer takes its normed input from `space.x`, which is free afterwards, and leaves its result in
//! `space.hidden[..n * D]`.

mod attention;
mod cache;
mod ttt;
mod ttt_lite;

use crate::format::Config;
use crate::memory::{Batch, history_words};
use crate::model::{Block, MixerTensors, Projections};
use crate::workspace::{Cutter, Pass, Workspace};

/// Runs the pass's tokens through a block's mixer. Returns the number of updates that were dropped.
pub(crate) fn forward(
    block: &Block<'_>,
    pass: &Pass<'_>,
    state: &mut [f32],
    space: &mut Workspace<'_>,
) -> u32 {
    let (state, history) = split_history(pass.config, block.record.conv, state);
    pass.convolve(space.x, history, block.conv);
    let record = &block.record;
    match &block.mixer {
        MixerTensors::Ttt(around, mixer) => projected(around, pass, space, &mut |rows, heads| {
            ttt::learn(mixer, record, pass, state, heads, rows)
        }),
        MixerTensors::Attention(around) => projected(around, pass, space, &mut |rows, heads| {
            attention::attend(record, pass, state, heads, rows);
            0
        }),
        MixerTensors::TttLite(mixer) => ttt_lite::forward(mixer, pass, state, space),
    }
}

/// Puts a layer's state back to the start of a document. At most the first `touched` tokens' places may hold anything.
pub(crate) fn reset(
    block: &Block<'_>,
    config: &Config,
    batch: Batch,
    state: &mut [f32],
    touched: u64,
) {
    let (state, ffn_history) = split_history(config, block.record.ffn_conv, state);
    ffn_history.fill(0.0);
    let (state, history) = split_history(config, block.record.conv, state);
    history.fill(0.0);
    match &block.mixer {
        MixerTensors::Ttt(_, mixer) => ttt::reset(mixer, &block.record, config, state),
        MixerTensors::Attention(_) => {
            attention::reset(&block.record, config, batch, state, touched)
        }
        MixerTensors::TttLite(_) => state.fill(0.0),
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
    around: &Projections<'_>,
    pass: &Pass<'_>,
    space: &mut Workspace<'_>,
    mix: &mut dyn FnMut(Rows<'_>, Heads<'_>) -> u32,
) -> u32 {
    let config = pass.config;
    let d_model = (config.d_model as usize).max(1);
    pass.quantise(&mut space.quantised, space.x, d_model);
    let (n, n_kv) = (pass.tokens * d_model, pass.tokens * around.key.rows);
    let mut cutter = Cutter(&mut *space.hidden);
    let (q, k, v) = (cutter.take(n), cutter.take(n_kv), cutter.take(n_kv));
    let (query, key, value) = (&around.query, &around.key, &around.value);
    let products = [(query, &mut *q), (key, &mut *k), (value, &mut *v)];
    pass.matmul(&space.quantised, space.x, products);
    let mut gate = around.gate.as_ref().map(|matrix| (matrix, cutter.take(n)));
    if let Some((matrix, out)) = &mut gate {
        pass.matmul(&space.quantised, space.x, [(*matrix, &mut **out)]);
    }
    let heads = Heads {
        rope: space.rope,
        angles: space.angles,
        temp: space.head,
    };
    let dropped = mix([&mut *q, k, v, space.x], heads);
    if let Some(gain) = around.out_norm {
        pass.rms_norm(space.x, gain);
    }
    if let Some((_, gate)) = gate {
        pass.backend.gate(space.x, gate);
    }
    pass.quantise(&mut space.quantised, space.x, d_model);
    pass.matmul(&space.quantised, space.x, [(&around.output, q)]);
    dropped
}
