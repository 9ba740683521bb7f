//! Where a session's state has what, from the tables of docs/FORMAT.md and not from the core's own arithmetic.

use bitttt_core::format::{Config, LayerConfig, Mixer};
use std::ops::Range;

/// Words of the fast weights, for a state of `words` in all with the model's own room for context.
pub fn fast(config: &Config, layers: &[LayerConfig], words: usize) -> Vec<Range<usize>> {
    let (mut fast, mut at) = (Vec::new(), 0);
    for layer in layers {
        let (heads, learned, rest) = mixer(config, layer);
        for _ in 0..heads {
            fast.push(at..at + learned);
            at += learned + rest;
        }
        at += convolutions(layer) * 3 * config.d_model as usize;
    }
    assert_eq!(at, words, "the state is as docs/FORMAT.md says");
    fast
}

/// Heads, a head's words of fast weights and its other words.
fn mixer(config: &Config, layer: &LayerConfig) -> (usize, usize, usize) {
    let (d_model, heads) = (config.d_model as usize, usize::from(config.n_heads));
    let (d, b) = (d_model / heads, usize::from(config.mini_batch));
    match layer.mixer {
        Mixer::TttLinear => (heads, d * d + d, b * (2 * d + 1)),
        Mixer::TttMlp => (heads, 8 * d * d + 5 * d, b * (10 * d + 1)),
        Mixer::TttLite => (1, (d_model / 4) * (d_model / 4), 0),
        Mixer::Attention => {
            let places = match layer.window {
                0 => config.context as usize,
                window => window as usize,
            };
            let numbers = (places + places.next_multiple_of(64)) * d;
            let words = if layer.kv_f32 { numbers } else { numbers / 2 };
            (usize::from(layer.kv_heads), 0, words)
        }
    }
}

fn convolutions(layer: &LayerConfig) -> usize {
    let shared = 2 * usize::from(layer.shared_qk);
    [layer.conv, layer.ffn_conv, layer.pre_conv]
        .map(usize::from)
        .iter()
        .sum::<usize>()
        + shared
}
