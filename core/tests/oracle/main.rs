//! The engine against the definitions: a model in f64 that computes every formula the plain way, with inner gradients
//! by finite differences and attention by a full softmax. Matrices are floats here, so that nothing rounds to int8 and
//! the two may differ by no more than f32 does.

#[path = "../common/mod.rs"]
mod common;
mod model;
mod ttt;

use bitttt_core::format::{Activation, Config, DType, LayerConfig, Mixer, Role};
use bitttt_core::{Batch, Model, Session};
use bitttt_export::random::{FULL_LAYER, blueprint};
use bitttt_export::{AlignedCopy, Blueprint, TensorData};
use common::{ATTENTION, config, memory, tokens};
use model::Oracle;

/// A random model whose tensors are all f32.
fn float_blueprint(config: &Config, layers: &[LayerConfig], seed: u64) -> Blueprint {
    let mut blueprint = blueprint(config, layers, DType::F32, seed);
    for ((_, role), data) in &mut blueprint.tensors {
        *data = match std::mem::replace(data, TensorData::F32(Vec::new())) {
            TensorData::F16(values) => TensorData::F32(values),
            TensorData::Int8 { codes, scales } => {
                let cols = codes.len() / scales.len();
                let value = |(i, &code): (usize, &i8)| f32::from(code) * scales[i / cols];
                TensorData::F32(codes.iter().enumerate().map(value).collect())
            }
            other => other,
        };
        assert!(matches!(data, TensorData::F32(_)), "{role:?}");
    }
    blueprint
}

/// The largest difference between the engine's logits and the oracle's over a stream, relative to `1 + |logit|`.
fn difference(config: &Config, layers: &[LayerConfig], count: usize) -> f64 {
    let blueprint = float_blueprint(config, layers, 11);
    let tokens = tokens(count, 77);
    let expected = Oracle::new(&blueprint).logits(&tokens);
    let blob = AlignedCopy::of(&blueprint.to_bytes().unwrap());
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = memory(&model, Batch::new(17));
    let mut session = Session::new(model, Batch::new(17), &mut memory).unwrap();
    let mut worst = 0.0f64;
    session
        .prefill_with(&tokens, &mut |t, logits| {
            for (&found, expected) in logits.iter().zip(&expected[t]) {
                worst = worst.max((f64::from(found) - expected).abs() / (1.0 + expected.abs()));
            }
        })
        .unwrap();
    assert_eq!(session.dropped_updates(), 0);
    worst
}

fn agrees(layers: &[LayerConfig], count: usize) {
    let found = difference(&config(), layers, count);
    assert!(found < 2e-4, "{layers:?}: {found}");
}

#[test]
fn ttt_linear_is_gradient_descent_on_its_inner_loss() {
    agrees(&[FULL_LAYER], 30);
    agrees(&[LayerConfig::of(Mixer::TttLinear)], 30);
}

#[test]
fn without_stored_starts_and_token_rates_it_still_is() {
    let light = LayerConfig {
        identity: true,
        head_rates: true,
        ffn_conv: true,
        ..FULL_LAYER
    };
    agrees(&[light, light], 30);
}

#[test]
fn ttt_mlp_is_gradient_descent_on_its_inner_loss() {
    let mlp = LayerConfig {
        mixer: Mixer::TttMlp,
        ..FULL_LAYER
    };
    agrees(&[mlp], 30);
    agrees(&[LayerConfig::of(Mixer::TttMlp)], 30);
}

#[test]
fn ttt_lite_is_the_delta_rule() {
    let lite = LayerConfig::of(Mixer::TttLite);
    agrees(&[lite], 40);
    let full = LayerConfig {
        conv: true,
        decay: true,
        ..lite
    };
    agrees(&[full], 40);
}

#[test]
fn a_stack_of_all_mixers_is_the_sum_of_its_parts() {
    let of = |mixer| LayerConfig {
        kv_heads: if mixer == Mixer::Attention { 2 } else { 0 },
        kv_f32: mixer == Mixer::Attention,
        conv: true,
        ..LayerConfig::of(mixer)
    };
    agrees(&Mixer::ALL.map(of), 30);
}

#[test]
fn attention_is_softmax_over_all_that_came_before() {
    for kv_heads in [1, 2, 3, 6] {
        let layer = LayerConfig {
            kv_heads,
            kv_f32: true,
            ..ATTENTION
        };
        agrees(&[layer], 100);
    }
    let gated = LayerConfig {
        conv: true,
        gate: true,
        kv_heads: 2,
        kv_f32: true,
        ..ATTENTION
    };
    agrees(&[gated, gated], 100);
}

#[test]
fn a_window_hides_what_lies_before_it() {
    for window in [1, 5, 64, 70] {
        let layer = LayerConfig {
            kv_f32: true,
            window,
            ..ATTENTION
        };
        agrees(&[layer], 100);
    }
}

#[test]
fn a_cache_of_halves_costs_what_halves_cost() {
    let layer = LayerConfig {
        kv_heads: 3,
        ..ATTENTION
    };
    let found = difference(&config(), &[layer], 100);
    assert!(found > 1e-4 && found < 2e-2, "{found}"); // halves round at 2^-11
}

#[test]
fn heads_of_every_width_are_right() {
    for (d_model, n_heads, kv_heads) in
        [(12, 6, 3), (36, 2, 1), (72, 3, 3), (132, 2, 2), (320, 4, 1)]
    {
        let config = Config {
            d_model,
            n_heads,
            ..config()
        };
        let layer = LayerConfig {
            kv_heads,
            kv_f32: true,
            ..ATTENTION
        };
        let found = difference(&config, &[layer], 70);
        assert!(found < 2e-4, "{d_model} {n_heads} {kv_heads}: {found}");
    }
}

#[test]
fn a_plain_layer_has_no_inner_norms() {
    let plain = |mixer, kv_heads| LayerConfig {
        plain: true,
        kv_heads,
        kv_f32: kv_heads > 0,
        ..LayerConfig::of(mixer)
    };
    agrees(&[plain(Mixer::TttLinear, 0)], 20);
    agrees(&[plain(Mixer::TttMlp, 0)], 20);
    agrees(&[plain(Mixer::Attention, 2)], 20);
}
