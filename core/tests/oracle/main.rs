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

/// The same numbers, all as f32.
fn floats(data: &TensorData) -> TensorData {
    let scaled = |codes: &[i8], scale: &dyn Fn(usize) -> f32| {
        let value = |(i, &code): (usize, &i8)| f32::from(code) * scale(i);
        TensorData::F32(codes.iter().enumerate().map(value).collect())
    };
    match data {
        TensorData::F16(values) | TensorData::F32(values) => TensorData::F32(values.clone()),
        TensorData::Int8 { codes, scales } => {
            let cols = codes.len() / scales.len();
            scaled(codes, &|i| scales[i / cols])
        }
        TensorData::Ternary { trits, scale, .. } => scaled(trits, &|_| *scale),
        TensorData::TernaryRows { trits, scales, .. } => {
            let cols = trits.len() / scales.len();
            scaled(trits, &|i| scales[i / cols])
        }
    }
}

/// The same model with these tensors as f32: all, or all but the matrices.
fn widened(blueprint: &Blueprint, matrices: bool) -> Blueprint {
    let mut blueprint = blueprint.clone();
    for ((_, role), data) in &mut blueprint.tensors {
        if matrices || !role.allows(DType::I8) {
            *data = floats(data);
        }
    }
    blueprint
}

/// The largest difference between the engine's logits and the oracle's over a stream, relative to `1 + |logit|`.
fn difference(config: &Config, layers: &[LayerConfig], count: usize) -> f64 {
    let blueprint = blueprint(config, layers, DType::F32, 11);
    difference_of(&widened(&blueprint, true), count)
}

fn difference_of(blueprint: &Blueprint, count: usize) -> f64 {
    let tokens = tokens(count, 77);
    let expected = Oracle::new(&widened(blueprint, true)).logits(&tokens);
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

/// The shape of the reference's own models (Sun et al. 2024): with a gate, with convolutions, with both.
#[test]
fn layers_of_the_reference_are_what_it_says() {
    for mixer in [Mixer::TttLinear, Mixer::TttMlp] {
        let base = LayerConfig {
            plain: true,
            layer_norm: true,
            ..LayerConfig::of(mixer)
        };
        let gated = LayerConfig {
            gate: true,
            gelu_gate: true,
            ..base
        };
        let convolved = LayerConfig {
            pre_conv: true,
            shared_qk: true,
            ..gated
        };
        agrees(&[base, gated], 20);
        agrees(&[convolved, convolved], 20);
    }
}

/// Integer weights that take activations as they are: no rounding but that of f32.
#[test]
fn float_activations_are_not_quantised() {
    let config = Config {
        float_activations: true,
        ..config()
    };
    let layers =
        [FULL_LAYER, LayerConfig::of(Mixer::TttLite), ATTENTION].map(|layer| LayerConfig {
            kv_f32: layer.mixer == Mixer::Attention,
            ..layer
        });
    for dtype in [DType::T2, DType::T5, DType::I8] {
        let blueprint = blueprint(&config, &layers, dtype, 5);
        let found = difference_of(&widened(&blueprint, false), 40);
        assert!(found < 2e-4, "{dtype:?}: {found}");
    }
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
    agrees(&[plain(Mixer::TttLite, 0)], 20);
    agrees(&[plain(Mixer::Attention, 2)], 20);
}
