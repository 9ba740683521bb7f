//! Random models of every kind, and threads to run them on.
#![allow(dead_code)] // each test file uses its part

pub mod layout;

use bitttt_core::format::{Config, DType, LayerConfig, Mixer};
use bitttt_core::{Batch, Model, Parallel};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{blueprint, small_config};
use proptest::prelude::*;

pub const ATTENTION: LayerConfig = LayerConfig {
    kv_heads: 1,
    ..LayerConfig::of(Mixer::Attention)
};

/// So many of a property's usual cases as `PROPTEST_CASES` leaves, of which proptest alone would take 256: emulators are
/// slow.
pub fn cases(usual: u32) -> ProptestConfig {
    let all = std::env::var("PROPTEST_CASES").map_or(Ok(256), |cases| cases.parse());
    let scaled = usual * all.unwrap_or(256) / 256;
    ProptestConfig::with_cases(scaled.clamp(1, usual))
}

/// Six heads of width 8: groups of query heads of 1, 2, 3 and 6.
pub fn config() -> Config {
    Config {
        n_heads: 6,
        ..small_config()
    }
}

pub fn blob(config: &Config, layers: &[LayerConfig], dtype: DType, seed: u64) -> AlignedCopy {
    AlignedCopy::of(&blueprint(config, layers, dtype, seed).to_bytes().unwrap())
}

pub fn memory(model: &Model<'_>, batch: Batch) -> Vec<f32> {
    vec![f32::NAN; model.memory(batch).words()] // what was there before must not matter
}

pub fn tokens(count: usize, seed: u64) -> Vec<u32> {
    (0..count as u64)
        .map(|i| ((i + 1).wrapping_mul(seed | 1) >> 7) as u32 % 257)
        .collect()
}

/// Any layer of six heads.
pub fn layer() -> impl Strategy<Value = LayerConfig> {
    let kinds = prop::sample::select(Mixer::ALL.to_vec());
    let kv_heads = prop::sample::select(vec![1u16, 2, 3, 6]);
    let window = prop::sample::select(vec![0u32, 1, 7, 64, 70]);
    (kinds, any::<[bool; 12]>(), kv_heads, window).prop_map(
        |(
            mixer,
            [
                conv,
                ffn_conv,
                identity,
                head_rates,
                gate,
                decay,
                plain,
                kv_f32,
                layer_norm,
                pre_conv,
                shared_qk,
                gelu_gate,
            ],
            kv_heads,
            window,
        )| {
            let attention = mixer == Mixer::Attention;
            let lite = mixer == Mixer::TttLite;
            let ttt = !attention && !lite;
            LayerConfig {
                conv,
                ffn_conv,
                identity: identity && mixer == Mixer::TttLinear,
                head_rates: head_rates && ttt,
                gate: gate && !lite,
                decay: decay && !attention,
                plain,
                layer_norm: layer_norm && ttt,
                pre_conv: pre_conv && ttt,
                shared_qk: shared_qk && ttt,
                gelu_gate: gelu_gate && ttt,
                kv_f32: kv_f32 && attention,
                kv_heads: if attention { kv_heads } else { 0 },
                window: if attention { window } else { 0 },
                ..LayerConfig::of(mixer)
            }
        },
    )
}

/// Stacks of one to three layers of any kinds.
pub fn stack() -> impl Strategy<Value = Vec<LayerConfig>> {
    prop::collection::vec(layer(), 1..4)
}

pub fn dtypes() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![
        DType::T2,
        DType::T5,
        DType::I8,
        DType::F16,
        DType::F32,
    ])
}

/// This many threads, started for each piece of work; where there are none, the parts one after the other, backwards.
#[derive(Debug)]
pub struct Threads(pub usize);

// SAFETY: each part is the business of one thread, which calls it once, and the scope ends after its threads.
unsafe impl Parallel for Threads {
    fn width(&self) -> usize {
        self.0
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        if cfg!(target_family = "wasm") {
            return (0..parts).rev().for_each(part); // no threads there, but an order of its own
        }
        std::thread::scope(|scope| {
            for first in 0..self.0.min(parts) {
                scope.spawn(move || (first..parts).step_by(self.0).for_each(part));
            }
        });
    }
}
