//! TTT-Linear.

use candle_core::{Tensor, Var};

use super::super::emulator::Emulator;
use super::super::{Machine, ttt};
use super::{assert_close, flat, on_cpu, up};
use crate::ops::ttt::{Inner, Learned, Settings, rope_table};
use crate::rng::Rng;

/// Operands of TTT-Linear as variables, in the operation's order.
fn ttt_operands(s: &Settings, batch: usize, tokens: usize) -> Vec<Var> {
    let (h, d, mut rng) = (s.heads, s.d_head, Rng::new(5, 0));
    let mut draw = |shape: &[usize], scale: f32, shift: f32| {
        let values = (0..shape.iter().product()).map(|_| rng.normal() * scale + shift);
        let values: Vec<f32> = values.collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap())
            .unwrap()
    };
    vec![
        draw(&[batch, tokens, 3 * h * d], 1.0, 0.0),
        draw(&[batch, tokens, h], 1.0, 0.5),
        draw(&[h, d, d], 0.3, 0.0),
        draw(&[h, d], 0.1, 0.0),
        draw(&[h, d], 0.2, 1.0),
        draw(&[h, d], 0.2, 0.0),
        draw(&[h], 0.5, -1.0),
        draw(&[s.mini_batch], 0.05, 0.02),
    ]
}

fn check_ttt(s: &Settings, batch: usize, tokens: usize) {
    let Some(m) = Emulator::new() else { return };
    let vars = ttt_operands(s, batch, tokens);
    let start = [[vars[2].as_tensor().clone(), vars[3].as_tensor().clone()]];
    let learned = Learned {
        start: &start,
        ln_weight: &vars[4],
        ln_bias: &vars[5],
        decay: &vars[6],
        tau: &vars[7],
    };
    let inputs: Vec<&Var> = vars.iter().collect();
    let y = crate::ops::ttt::ttt(&vars[0], &vars[1], &learned, s);
    let (y, dy, grads) = on_cpu(&inputs, y);

    let learned: Vec<f32> = vars[2..].iter().flat_map(|v| flat(v)).collect();
    let [qkv, lr] = [&vars[0], &vars[1]].map(|t| up(&m, t));
    let learned = m.upload(&learned).unwrap();
    let rope = m.upload(&rope_table(s)).unwrap();
    let operands = ttt::Operands {
        qkv: m.span(&qkv),
        lr: m.span(&lr),
        learned: m.span(&learned),
        rope: m.span(&rope),
        dims: (batch, tokens),
    };
    let (out, states) = ttt::forward(&m, s, operands).unwrap();
    let what = format!("d {} b {} T {tokens}", s.d_head, s.mini_batch);
    assert_close(&what, &m.read(&out), &y, 1e-5);
    let dy = m.upload(&dy).unwrap();
    let [dqkv, dlr, dlearned] =
        ttt::backward(&m, s, operands, m.span(&states), m.span(&dy)).unwrap();
    let (dqkv, dlr, dlearned) = (m.read(&dqkv), m.read(&dlr), m.read(&dlearned));
    let mut rest = &dlearned[..];
    let parts = grads[2..].iter().map(|g| {
        let (part, behind) = rest.split_at(g.len());
        rest = behind;
        part
    });
    let got: Vec<&[f32]> = [&dqkv[..], &dlr].into_iter().chain(parts).collect();
    let names = [
        "qkv",
        "lr",
        "w",
        "u",
        "ln weight",
        "ln bias",
        "decay",
        "tau",
    ];
    for ((name, got), want) in names.iter().zip(got).zip(&grads) {
        if want.iter().all(|w| *w == 0.0) {
            assert!(got.iter().all(|g| *g == 0.0), "{what}: {name}");
        } else {
            // The CPU takes the decay's as the difference of two sums, which costs it digits.
            let tolerance = if *name == "decay" { 1e-3 } else { 5e-5 };
            let what = format!("{what}: gradient for {name}");
            assert_close(&what, got, want, tolerance);
        }
    }
}

fn ttt_settings(heads: usize, d_head: usize, mini_batch: usize) -> Settings {
    Settings {
        inner: Inner::Linear,
        heads,
        d_head,
        mini_batch,
        base_lr: 1.0,
        rope_theta: 10_000.0,
        anchor_decay: true,
    }
}

#[test]
fn ttt_linear_equals_the_cpu_at_the_widths_of_real_models() {
    for d_head in [16, 32, 48, 64] {
        check_ttt(&ttt_settings(2, d_head, 16), 2, 39);
    }
}

#[test]
fn ttt_linear_equals_the_cpu_with_short_and_odd_mini_batches() {
    for (heads, d_head, mini_batch, tokens) in
        [(3, 6, 5, 13), (1, 20, 16, 3), (2, 34, 4, 16), (1, 64, 1, 5)]
    {
        check_ttt(&ttt_settings(heads, d_head, mini_batch), 2, tokens);
    }
}

#[test]
fn ttt_linear_equals_the_cpu_without_anchor_decay_and_when_frozen() {
    let s = ttt_settings(2, 16, 8);
    check_ttt(
        &Settings {
            anchor_decay: false,
            ..s.clone()
        },
        1,
        30,
    );
    check_ttt(&Settings { base_lr: 0.0, ..s }, 1, 30);
}

#[test]
fn settings_that_a_block_has_no_room_for_are_refused_with_a_way_out() {
    let error = ttt::check(&ttt_settings(1, 256, 16), 227 * 1024)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("256") && error.contains("--device cpu"),
        "{error}"
    );
    let mlp = Settings {
        inner: Inner::Mlp,
        ..ttt_settings(1, 16, 16)
    };
    assert!(
        ttt::check(&mlp, 227 * 1024)
            .unwrap_err()
            .to_string()
            .contains("ttt-mlp")
    );
    for d_head in [16, 32, 48, 64, 96] {
        ttt::check(&ttt_settings(1, d_head, 16), 227 * 1024).unwrap();
    }
}
