//! Every kernel, through the launches that a card gets, against the CPU operations: values and gradients.

mod ttt;

use candle_core::{Result, Tensor, Var};

use super::emulator::Emulator;
use super::*;
use crate::config::Activation;
use crate::ops::tests::random;

const EPS: f32 = 1e-5;

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(
        0.0,
        |most, x| if x.is_nan() { x } else { most.max(x.abs()) },
    )
}

/// The largest difference is at most `tolerance` of the largest value.
fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = largest(want.iter().copied()).max(1e-12);
    let far = largest(got.iter().zip(want).map(|(g, w)| g - w)) / scale;
    assert!(far <= tolerance, "{what} is off by {far}");
}

/// A CPU operation's result, and gradients where the loss weighs every output by another factor, which are returned too.
fn on_cpu(inputs: &[&Var], y: Result<Tensor>) -> (Vec<f32>, Vec<f32>, Vec<Vec<f32>>) {
    let y = y.unwrap();
    let weights = random(y.dims(), 99);
    let loss = (&y * weights.as_tensor()).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let grads = inputs.iter().map(|x| flat(grads.get(x).unwrap())).collect();
    (flat(&y), flat(&weights), grads)
}

/// Uploads a tensor's values.
fn up(m: &Emulator, t: &Tensor) -> <Emulator as Machine>::Memory<f32> {
    m.upload(&flat(t)).unwrap()
}

#[test]
fn norms_equal_the_cpu() {
    let Some(m) = Emulator::new() else { return };
    for (rows, width) in [(3, 20), (1, 64), (150, 33)] {
        let (x, gain, gate) = (
            random(&[rows, width], 1),
            random(&[width], 2),
            random(&[rows, width], 3),
        );
        let [x_up, gain_up, gate_up] = [&x, &gain, &gate].map(|t| up(&m, t));
        for gated in [false, true] {
            let (y, dy, grads) = if gated {
                on_cpu(
                    &[&x, &gain, &gate],
                    crate::ops::norm::gated_norm(&x, &gain, &gate, EPS),
                )
            } else {
                on_cpu(&[&x, &gain], crate::ops::norm::rms_norm(&x, &gain, EPS))
            };
            let operands = norm::Operands {
                x: m.span(&x_up),
                gain: m.span(&gain_up),
                gate: gated.then(|| m.span(&gate_up)),
                eps: EPS,
            };
            let dy = m.upload(&dy).unwrap();
            assert_close(
                "norm",
                &m.read(&norm::forward(&m, operands).unwrap()),
                &y,
                1e-6,
            );
            let (dx, dgain, dgate) = norm::backward(&m, operands, m.span(&dy)).unwrap();
            assert_close("dx", &m.read(&dx), &grads[0], 2e-6);
            assert_close("dgain", &m.read(&dgain), &grads[1], 2e-6);
            assert_eq!(dgate.is_some(), gated);
            if let Some(dgate) = dgate {
                assert_close("dgate", &m.read(&dgate), &grads[2], 2e-6);
            }
        }
    }
}

#[test]
fn gated_activations_equal_the_cpu() {
    let Some(m) = Emulator::new() else { return };
    for (rows, width, activation) in [(3, 12, Activation::Silu), (70, 40, Activation::Relu2)] {
        let (x, gain) = (random(&[rows, 2 * width], 4), random(&[width], 5));
        let (y, dy, grads) = on_cpu(
            &[&x, &gain],
            crate::ops::ffn::glu_norm(&x, &gain, activation, EPS),
        );
        let [x, gain] = [&x, &gain].map(|t| up(&m, t));
        let operands = ffn::Operands {
            x: m.span(&x),
            gain: m.span(&gain),
            activation,
            eps: EPS,
        };
        let dy = m.upload(&dy).unwrap();
        assert_close(
            "glu",
            &m.read(&ffn::forward(&m, operands).unwrap()),
            &y,
            1e-6,
        );
        let (dx, dgain) = ffn::backward(&m, operands, m.span(&dy)).unwrap();
        assert_close("dx", &m.read(&dx), &grads[0], 2e-6);
        assert_close("dgain", &m.read(&dgain), &grads[1], 2e-6);
    }
}

#[test]
fn the_convolution_equals_the_cpu() {
    let Some(m) = Emulator::new() else { return };
    for dims @ (b, t, d) in [(2, 6, 8), (1, 2, 300), (3, 70, 4)] {
        let (x, w) = (random(&[b, t, d], 6), random(&[4, d], 7));
        let (y, dy, grads) = on_cpu(&[&x, &w], crate::ops::conv::causal_conv(&x, &w));
        let [x, w] = [&x, &w].map(|t| up(&m, t));
        let dy = m.upload(&dy).unwrap();
        let out = conv::forward(&m, m.span(&x), m.span(&w), dims).unwrap();
        assert_close("conv", &m.read(&out), &y, 1e-6);
        let (dx, dw) = conv::backward(&m, m.span(&x), m.span(&w), m.span(&dy), dims).unwrap();
        assert_close("dx", &m.read(&dx), &grads[0], 1e-6);
        assert_close("dw", &m.read(&dw), &grads[1], 2e-6);
    }
}

#[test]
fn what_is_left_out_is_what_the_cpu_leaves_out() {
    let Some(m) = Emulator::new() else { return };
    let x = random(&[3, 5, 70], 16);
    for (share, first_row) in [(0.2, 0), (0.6, 1 << 40)] {
        let dropout = crate::ops::dropout::Dropout {
            share,
            key: u64::MAX / 3,
            first_row,
        };
        let (y, ..) = on_cpu(&[&x], dropout.apply(&x));
        let first = (first_row * 5 * 70) as u64;
        let got = dropout::apply(&m, dropout, m.span(&up(&m, &x)), (15, 70), first).unwrap();
        assert_eq!(m.read(&got), y);
    }
}

#[test]
fn the_embedding_has_the_bits_of_the_cpu() {
    let Some(m) = Emulator::new() else { return };
    let (vocab, width) = (11, 37);
    let weight = random(&[vocab, width], 8);
    let ids = [3u32, 0, 3, 10, 3, 7];
    let tokens = Tensor::new(&ids, weight.device()).unwrap();
    let (y, dy, grads) = on_cpu(
        &[&weight],
        crate::ops::embedding::embedding(&tokens, &weight),
    );
    let (weight, dy) = (up(&m, &weight), m.upload(&dy).unwrap());
    let rows = embedding::forward(&m, &ids, m.span(&weight), width).unwrap();
    assert_eq!(m.read(&rows), y);
    let dw = embedding::backward(&m, &ids, m.span(&dy), (vocab, width)).unwrap();
    assert_eq!(m.read(&dw), grads[0]);
}

#[test]
fn the_loss_equals_the_cpu_and_skips_what_does_not_count() {
    let Some(m) = Emulator::new() else { return };
    use crate::ops::loss::{IGNORE, cross_entropy};
    for vocab in [9, 300] {
        let logits = random(&[1, 4, vocab], 9);
        let targets = [3, IGNORE, 0, 8];
        let (y, dy, grads) = on_cpu(&[&logits], cross_entropy(&logits, &targets));
        let (logits, dy) = (up(&m, &logits), m.upload(&dy).unwrap());
        let mean = loss::forward(&m, m.span(&logits), &targets, 3).unwrap();
        assert_close("loss", &m.read(&mean), &y, 1e-6);
        let d = loss::backward(&m, m.span(&logits), &targets, m.span(&dy), 3).unwrap();
        assert_close("dlogits", &m.read(&d), &grads[0], 2e-6);
    }
}

#[test]
fn head_and_loss_at_once_equal_the_cpu_in_chunks_of_any_size() {
    let Some(m) = Emulator::new() else { return };
    use crate::ops::loss::IGNORE;
    for (vocab, width) in [(9, 12), (300, 20)] {
        let (x, w) = (random(&[1, 5, width], 17), random(&[vocab, width], 18));
        let targets = [3, IGNORE, 0, 8, 1];
        let y = crate::ops::head_loss::head_loss(&x, &w, &targets);
        let (y, dy, grads) = on_cpu(&[&x, &w], y);
        let [x, w] = [&x, &w].map(|t| up(&m, t));
        for rows in [1, 2, 5] {
            let operands = head_loss::Operands {
                x: m.span(&x),
                weight: m.span(&w),
                targets: &targets,
                counted: 4,
            };
            let [loss, dx, dw] = head_loss::forward(&m, operands, rows * vocab).unwrap();
            assert_close("loss", &m.read(&loss), &y, 1e-6);
            for (what, got, want) in [("dx", &dx, &grads[0]), ("dw", &dw, &grads[1])] {
                let got: Vec<f32> = m.read(got).iter().map(|d| d * dy[0]).collect();
                assert_close(what, &got, want, 4e-3);
            }
        }
    }
}

/// Forward to the bit; gradients within the rounding of `dy` to bfloat16, 2^-9 of each.
#[test]
fn products_of_codes_have_the_bits_of_the_cpu() {
    let Some(m) = Emulator::new() else { return };
    use crate::ops::bit_linear::{Weights, bit_linear as ternary, int8_head};
    let cases = [
        (5, 24, 10, Weights::Ternary { groups: 1 }),
        (33, 40, 48, Weights::Ternary { groups: 3 }),
        (7, 32, 20, Weights::IntRows { top: 127 }),
    ];
    for (n, k, outputs, weights) in cases {
        let (x, w) = (random(&[n, k], 10), random(&[outputs, k], 11));
        let y = match weights {
            Weights::Ternary { groups } => ternary(&x, &w, groups),
            Weights::IntRows { .. } => int8_head(&x, &w),
        };
        let (y, dy, grads) = on_cpu(&[&x, &w], y);
        let ([x, w], dy) = ([&x, &w].map(|t| up(&m, t)), m.upload(&dy).unwrap());
        let dims = (n, k, outputs);
        let (got, saved) = bit_linear::forward(&m, m.span(&x), m.span(&w), dims, weights).unwrap();
        assert_eq!(m.read(&got), y, "{weights:?}");
        let (dx, dw) = bit_linear::backward(&m, &saved, m.span(&dy)).unwrap();
        assert_close("dx", &m.read(&dx), &grads[0], 4e-3);
        assert_close("dw", &m.read(&dw), &grads[1], 4e-3);
    }
}

#[test]
fn a_matrix_of_zeros_has_codes_of_zero() {
    let Some(m) = Emulator::new() else { return };
    use crate::ops::bit_linear::Weights;
    for weights in [
        Weights::Ternary { groups: 1 },
        Weights::IntRows { top: 127 },
    ] {
        let (x, w) = (
            m.upload(&[0.0f32; 12]).unwrap(),
            m.upload(&[0.0f32; 8]).unwrap(),
        );
        let (y, _) = bit_linear::forward(&m, m.span(&x), m.span(&w), (3, 4, 2), weights).unwrap();
        assert_eq!(m.read(&y), [0.0; 6]);
    }
}

#[test]
fn the_optimiser_takes_the_step_of_the_cpu() {
    let Some(m) = Emulator::new() else { return };
    let config = crate::config::TrainConfig::default();
    for scale in [0.01, 10.0] {
        let vars = [random(&[7, 5], 12), random(&[300], 13)];
        let gradients =
            [random(&[7, 5], 14), random(&[300], 15)].map(|g| (g.as_tensor() * scale).unwrap());
        let named: Vec<(String, Var)> = vars.iter().map(|v| ("v".to_owned(), v.clone())).collect();
        let before = vars.each_ref().map(|v| up(&m, v));
        let zeros = vars
            .each_ref()
            .map(|v| [0, 1].map(|_| m.upload(&vec![0.0f32; v.elem_count()]).unwrap()));
        let uploaded = gradients.each_ref().map(|g| up(&m, g));
        let treated = [true, false]
            .map(|decays| crate::train::adamw::Treatment {
                decays,
                latent: false,
            })
            .to_vec();
        let mut optimiser = crate::train::adamw::AdamW::new(&config, &named, treated).unwrap();
        for step in 1..4 {
            let loss = ((vars[0].as_tensor() * &gradients[0])
                .unwrap()
                .sum_all()
                .unwrap()
                + (vars[1].as_tensor() * &gradients[1])
                    .unwrap()
                    .sum_all()
                    .unwrap())
            .unwrap();
            let norm = optimiser
                .step(&named, &loss.backward().unwrap(), 0.1, step)
                .unwrap();
            let (c1, c2) = (
                1.0 - 0.9f32.powi(step as i32),
                1.0 - 0.98f32.powi(step as i32),
            );
            let numbers = adamw::Step {
                clip: config.grad_clip as f32,
                betas: [0.9, 0.98],
                rate: 0.1 / c1,
                root: 1.0 / c2.sqrt(),
            };
            let got = adamw::norm(&m, &uploaded.each_ref().map(|g| m.span(g))).unwrap();
            assert!((m.read(&got)[0] - norm).abs() <= 1e-6 * norm);
            for (i, keep) in [1.0 - 0.1 * config.weight_decay as f32, 1.0]
                .into_iter()
                .enumerate()
            {
                let [first, second] = &zeros[i];
                let spans = [&before[i], first, second, &uploaded[i]].map(|t| m.span(t));
                adamw::update(&m, &numbers, spans, m.span(&got), keep).unwrap();
            }
        }
        for (var, got) in vars.iter().zip(&before) {
            assert_close("weights", &m.read(got), &flat(var), 1e-6);
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_no_weight() {
    let Some(m) = Emulator::new() else { return };
    let numbers = adamw::Step {
        clip: 1.0,
        betas: [0.9, 0.98],
        rate: 0.1,
        root: 1.0,
    };
    for bad in [f32::NAN, f32::INFINITY] {
        let [values, first, second] = [1.0f32, 0.5, 0.25].map(|x| m.upload(&[x; 3]).unwrap());
        let gradient = m.upload(&[1.0, bad, 1.0]).unwrap();
        let norm = adamw::norm(&m, &[m.span(&gradient)]).unwrap();
        let spans = [&values, &first, &second, &gradient].map(|t| m.span(t));
        adamw::update(&m, &numbers, spans, m.span(&norm), 0.9).unwrap();
        assert_eq!(
            [&values, &first, &second].map(|t| m.read(t)[0]),
            [1.0, 0.5, 0.25]
        );
    }
}

#[test]
fn every_kernel_is_launched_by_an_operation() {
    let sources = [
        include_str!("../adamw.rs"),
        include_str!("../bit_linear.rs"),
        include_str!("../conv.rs"),
        include_str!("../dropout.rs"),
        include_str!("../embedding.rs"),
        include_str!("../ffn.rs"),
        include_str!("../head_loss.rs"),
        include_str!("../loss.rs"),
        include_str!("../mod.rs"),
        include_str!("../norm.rs"),
        include_str!("../ttt.rs"),
    ]
    .concat();
    let kernels = [Program::Rows, super::ttt::program(16, 16)]
        .map(Program::source)
        .concat();
    for kernel in kernels.split("\nKERNEL ").skip(1) {
        let (_, kernel) = kernel.split_once("void ").unwrap();
        let (name, _) = kernel.split_once('(').unwrap();
        assert!(sources.contains(&format!("\"{name}\"")), "{name}");
    }
}
