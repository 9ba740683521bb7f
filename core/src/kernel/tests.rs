//! Every backend against a naive oracle and against scalar, bit for bit.

use super::*;
use crate::model::{Scale, Weights};
use proptest::prelude::*;
use std::vec::Vec;

/// Every backend of this machine, AMX where the system allows it.
fn backends() -> impl Iterator<Item = Backend> {
    Backend::request_amx();
    Backend::all()
}

/// Weights of a packed row by the definition in docs/FORMAT.md, one at a time.
fn unpack(row: &[u8], cols: usize, planes: usize) -> Vec<i32> {
    let trit = |byte: u8, plane: usize| match planes {
        4 => i32::from(byte >> (2 * plane) & 3) - 1,
        _ => (0..plane).fold(byte, |b, _| b.wrapping_mul(3)) as i32 * 3 / 256 - 1,
    };
    (0..cols)
        .map(|c| {
            let (block, inside) = (c / (64 * planes), c % (64 * planes));
            let stride = (cols - block * 64 * planes).div_ceil(planes).min(64);
            trit(row[block * 64 + inside % stride], inside / stride)
        })
        .collect()
}

/// Codes, scales and sums of the tokens of `x [n, cols]`.
fn quantised(x: &[f32], cols: usize) -> (Vec<i8>, Vec<f32>, Vec<i32>) {
    let mut all = (Vec::new(), Vec::new(), Vec::new());
    for x in x.chunks(cols) {
        let mut codes = std::vec![0; crate::memory::padded(cols)];
        let (scale, sum) = lanes::quantise(x, &mut codes);
        all.0.extend(codes);
        all.1.push(scale);
        all.2.push(sum);
    }
    all
}

fn products(m: &Matrix<'_>, x: &[f32], backend: Backend) -> Vec<u32> {
    products_by(m, x, |q, out| {
        backend.matmul(&Alone, q, x, [(m, out)]);
    })
}

fn products_by(
    m: &Matrix<'_>,
    x: &[f32],
    multiply: impl FnOnce(&Quantised<'_>, &mut [f32]),
) -> Vec<u32> {
    let (codes, scales, sums) = quantised(x, m.cols);
    let mut tables = std::vec![0.0; TABLE_WORDS];
    let q = Quantised {
        stride: crate::memory::padded(m.cols),
        codes: &codes,
        scales: &scales,
        sums: &sums,
        wide: false,
        tables: Shared::new(&mut tables),
    };
    let mut out = std::vec![0.0; m.rows * scales.len()];
    multiply(&q, &mut out);
    out.into_iter().map(f32::to_bits).collect()
}

/// What a microcontroller does, as far as plain Rust has it.
fn products_by_tables(m: &Matrix<'_>, x: &[f32]) -> Vec<u32> {
    products_by(m, x, |q, out| {
        let out = Shared::new(out);
        micro::product(&Product { m, q, x, out }, 0..m.rows);
    })
}

/// What `out[t, r]` has to be, bit for bit.
fn expected(rows: &[Vec<i32>], x: &[f32], scale: f32) -> Vec<u32> {
    let cols = rows[0].len();
    let (codes, scales, _) = quantised(x, cols);
    let mut all = Vec::new();
    for (codes, token) in codes.chunks(crate::memory::padded(cols)).zip(scales) {
        for row in rows {
            let products = row.iter().zip(codes).map(|(&w, &q)| w * i32::from(q));
            all.push((products.sum::<i32>() as f32 * (token * scale)).to_bits());
        }
    }
    all
}

/// What `out[t, r]` has to be where activations stay wide: the sum rule over whole rows.
fn expected_wide(rows: &[Vec<i32>], x: &[f32], scale: f32) -> Vec<u32> {
    let products = x.chunks(rows[0].len()).flat_map(|x| {
        rows.iter().map(move |row| {
            let row: Vec<f32> = row.iter().map(|&w| w as f32).collect();
            (lanes::dot(&row, x) * scale).to_bits()
        })
    });
    products.collect()
}

fn products_wide(m: &Matrix<'_>, x: &[f32], backend: Backend) -> Vec<u32> {
    products_by(m, x, |q, out| {
        let q = Quantised { wide: true, ..*q };
        backend.matmul(&Alone, &q, x, [(m, out)]);
    })
}

/// Small shapes of every kind, and some wider than a panel. Miri, a thousand times slower, gets smaller ones.
fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    let small = match cfg!(miri) {
        true => (1usize..400, 1usize..20, 1usize..4),
        false => (1usize..900, 1usize..40, 1usize..10),
    };
    prop_oneof![4 => small, 1 => (1900usize..4500, 1usize..6, 1usize..6)]
}

fn many_tokens() -> impl Strategy<Value = (usize, usize, usize)> {
    match cfg!(miri) {
        true => (1usize..330, 1usize..18, 30usize..34),
        false => (1usize..2600, 1usize..70, 30usize..70),
    }
}

fn activations(count: usize, seed: u64) -> Vec<f32> {
    let next = |i: u64| (seed | 1).wrapping_mul(i * 2 + 1) >> 40;
    (0..count as u64)
        .map(|i| next(i) as f32 / 4e6 - 2.0)
        .collect()
}

/// One macro, the same properties for every packed type: the oracle's numbers, on every backend, for any bytes,
/// invalid codes included.
macro_rules! packed_dot_properties {
    ($name:ident, $weights:ident, $planes:expr, $dtype:ident) => {
        proptest! {
            #[test]
            fn $name((cols, rows, tokens) in shapes(), seed in any::<u64>()) {
                let width = crate::format::DType::$dtype.row_bytes(cols as u32) as usize;
                let bytes: Vec<u8> = (0..rows * width).map(|i| (seed.wrapping_mul(i as u64 * 2 + 1) >> 23) as u8).collect();
                let m = Matrix { rows, cols, weights: Weights::$weights(&bytes, Scale::Tensor(0.5)) };
                let x = activations(tokens * cols, seed);
                let weights: Vec<_> = bytes.chunks(width).map(|row| unpack(row, cols, $planes)).collect();
                let expected = expected(&weights, &x, 0.5);
                for backend in backends() {
                    prop_assert_eq!(&products(&m, &x, backend), &expected, "{}", backend.name());
                }
                prop_assert_eq!(products_by_tables(&m, &x), expected);
                let expected = expected_wide(&weights, &x, 0.5);
                for backend in backends() {
                    prop_assert_eq!(&products_wide(&m, &x, backend), &expected, "{}", backend.name());
                }
            }
        }
    };
}

packed_dot_properties!(t2_products_equal_the_oracle_on_every_backend, T2, 4, T2);
packed_dot_properties!(t5_products_equal_the_oracle_on_every_backend, T5, 5, T5);

/// With AMX's tiles in plain Rust, where AVX-512 can fill them: all of that backend but the instructions themselves.
#[cfg(target_arch = "x86_64")]
fn products_in_software_tiles(m: &Matrix<'_>, x: &[f32]) -> Option<Vec<u32>> {
    has_vnni().then(|| {
        products_by(m, x, |q, out| {
            let out = Shared::new(out);
            let p = Product { m, q, x, out };
            // SAFETY: AVX-512 is there.
            unsafe { amx::tests::software(&p, 0..m.rows) }
        })
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn products_in_software_tiles(_: &Matrix<'_>, _: &[f32]) -> Option<Vec<u32>> {
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 12 }))]

    /// AMX takes tokens by 32.
    #[test]
    fn products_of_many_tokens_equal_those_of_scalar((cols, rows, tokens) in many_tokens(), seed in any::<u64>()) {
        let bytes: Vec<u8> = (0..rows * cols).map(|i| (seed.wrapping_mul(i as u64 * 2 + 1) >> 23) as u8).collect();
        let packed = |dtype: crate::format::DType| &bytes[..rows * dtype.row_bytes(cols as u32) as usize];
        let (t2, t5) = (packed(crate::format::DType::T2), packed(crate::format::DType::T5));
        let (i8s, scales) = (bytemuck::cast_slice(&bytes), std::vec![0.25; rows]);
        let x = activations(tokens * cols, seed);
        for weights in [Weights::T2(t2, Scale::Tensor(0.5)), Weights::T5(t5, Scale::Tensor(0.5)), Weights::I8(i8s, &scales)] {
            let m = Matrix { rows, cols, weights };
            let expected = products(&m, &x, Backend::SCALAR);
            for backend in backends() {
                prop_assert_eq!(&products(&m, &x, backend), &expected, "{}", backend.name());
            }
            if let Some(found) = products_in_software_tiles(&m, &x) {
                prop_assert_eq!(found, expected);
            }
        }
    }
}

proptest! {
    #[test]
    fn i8_products_equal_the_oracle_on_every_backend((cols, rows, tokens) in shapes(), seed in any::<u64>()) {
        let w: Vec<i8> = (0..rows * cols).map(|i| (seed.wrapping_mul(i as u64 * 2 + 1) >> 23) as i8).collect();
        let scales = std::vec![0.25; rows];
        let m = Matrix { rows, cols, weights: Weights::I8(&w, &scales) };
        let x = activations(tokens * cols, seed);
        let weights: Vec<_> = w.chunks(cols).map(|row| row.iter().map(|&w| i32::from(w)).collect()).collect();
        for backend in backends() {
            prop_assert_eq!(&products(&m, &x, backend), &expected(&weights, &x, 0.25), "{}", backend.name());
            prop_assert_eq!(&products_wide(&m, &x, backend), &expected_wide(&weights, &x, 0.25), "{}", backend.name());
        }
    }

    #[test]
    fn quantised_codes_round_half_to_even_and_never_leave_the_range(bits in prop::collection::vec(any::<u32>(), 1..200)) {
        let x: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let (codes, scales, sums) = quantised(&x, x.len());
        let absmax = x.iter().fold(0.0f32, |max, x| if x.is_nan() { f32::NAN } else { max.max(x.abs()) });
        let usable = x.iter().all(|x| x.is_finite()) && absmax >= 2.0f32.powi(-100);
        for (x, &code) in x.iter().zip(&codes) {
            let expected = if usable { (x * (127.0 / absmax)).round_ties_even() as i8 } else { 0 };
            prop_assert_eq!(code, expected);
        }
        prop_assert_eq!(scales[0], if usable { absmax / 127.0 } else { 0.0 });
        prop_assert_eq!(sums[0], codes.iter().map(|&c| i32::from(c)).sum::<i32>());
    }

    #[test]
    fn float_kernels_give_the_same_bits_on_every_backend(n in 1usize..150, data in prop::collection::vec(-9.0f32..9.0, 600)) {
        let (x, rest) = data.split_at(n);
        let (y, rest) = rest.split_at(n);
        let run = |backend: Backend| {
            let mut normed = x.to_vec();
            backend.rms_norm(&mut normed, Floats::F32(y), 1e-5);
            let mut gated = x.to_vec();
            backend.gate(&mut gated, y);
            backend.gelu_gate(&mut gated, y);
            backend.layer_norm(&mut gated, Floats::F32(y), Floats::F32(x), 1e-5);
            backend.activate(&mut gated, x, crate::format::Activation::Relu2);
            let mut terms = x.to_vec();
            backend.softmax_terms(&mut terms, 9.0, 0.7);
            let mut codes = std::vec![0; n + 3];
            let (scale, _) = backend.quantise(x, &mut codes);
            let dot = backend.dot_stored(Floats::F32(x), y);
            let all = normed.into_iter().chain(gated).chain(terms).chain([scale, dot]);
            (all.map(f32::to_bits).collect::<Vec<_>>(), codes)
        };
        for backend in backends() {
            prop_assert_eq!(run(backend), run(Backend::SCALAR), "{}", backend.name());
        }
        prop_assert!(rest.len() >= 300);
    }

    #[test]
    fn stored_halves_and_floats_of_the_same_values_give_the_same_dot(x in prop::collection::vec(-9.0f32..9.0, 1..100)) {
        let halves: Vec<u16> = x.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
        let widened: Vec<f32> = halves.iter().map(|&b| half::f16::from_bits(b).to_f32()).collect();
        for backend in backends() {
            let (a, b) = (backend.dot_stored(Floats::F16(&halves), &x), backend.dot_stored(Floats::F32(&widened), &x));
            prop_assert_eq!(a.to_bits(), b.to_bits());
        }
    }
}

#[test]
fn sums_follow_the_lanes_and_the_tree() {
    let x: Vec<f32> = (0..37)
        .map(|i| 1.0 + i as f32 * 1e-7 + if i % 3 == 0 { 1e5 } else { 0.0 })
        .collect();
    let mut lanes = [0.0f32; 16];
    x.iter().enumerate().for_each(|(e, &x)| lanes[e % 16] += x);
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|l| lanes[l] += lanes[l + half]);
    }
    assert_eq!(lanes::dot(&x, &[1.0; 37]).to_bits(), lanes[0].to_bits());
}

#[test]
fn an_update_that_is_not_finite_is_dropped_and_leaves_the_weights() {
    let d = 4;
    let (ones, zeros) = (std::vec![1.0; d], std::vec![0.0; d * d]);
    let start = [Floats::F32(&zeros), Floats::F32(&zeros[..d])];
    for (poison, at) in [f32::NAN, f32::INFINITY, 1e30]
        .map(|p| [(p, 0), (p, 1)])
        .concat()
    {
        let mut inputs = [0.5, 0.5].map(|x| std::vec![x; 2 * d]);
        inputs[at].fill(poison);
        let (mut grads, mut rates) = ([(); 2].map(|_| std::vec![1.0; 2 * d]), std::vec![0.1; 2]);
        let mut fast = [(); 2].map(|_| std::vec![0.5; d * d + d]);
        let mut parts = fast.iter_mut().zip(&mut inputs).zip(&mut grads);
        let mut layer = || {
            let ((fast, inputs), grads) = parts.next()?;
            Some(ttt::FastLayer {
                fast,
                inputs,
                grads,
                start: Some(start),
                width: d,
            })
        };
        let mut head = ttt::TttHead {
            first: layer().unwrap(),
            second: layer(),
            rates: &mut rates,
            norm: ttt::InnerNorm {
                scale: &ones,
                bias: &zeros[..d],
                eps: 1e-6,
            },
            decay: Some(0.5),
        };
        assert!(!Backend::detect().ttt_close(&mut head, 0.5, &mut [0.0; 8]));
        assert!(
            fast.concat().iter().all(|&w| w == 0.5),
            "{poison} at the input of layer {at} reached the fast weights"
        );
    }
}

/// Every weight and every activation as large as it can be, over the widest row there is.
#[test]
#[cfg_attr(miri, ignore)] // for arithmetic; takes too long there
fn the_widest_rows_do_not_overflow_on_any_backend() {
    let cols = 131_072; // docs/NUMERICS.md, rule 1
    let width = |dtype: crate::format::DType| dtype.row_bytes(cols as u32) as usize;
    let bytes = std::vec![0xFF; width(crate::format::DType::T2)];
    let (t2, t5) = (&bytes[..], &bytes[..width(crate::format::DType::T5)]);
    for (w, q) in [(i8::MIN, -1.0), (i8::MIN, 1.0), (i8::MAX, 1.0)] {
        let whole = std::vec![w; cols];
        for tokens in [1, 3, 33] {
            let x = std::vec![q; tokens * cols];
            for (weights, weight) in [
                (Weights::T2(t2, Scale::Tensor(1.0)), 2),
                (Weights::T5(t5, Scale::Tensor(1.0)), 1),
                (Weights::I8(&whole, &[1.0]), i32::from(w)),
            ] {
                let m = Matrix {
                    rows: 1,
                    cols,
                    weights,
                };
                let expected = expected(&[std::vec![weight; cols]], &x, 1.0);
                for backend in backends() {
                    assert_eq!(products(&m, &x, backend), expected, "{}", backend.name());
                }
            }
        }
    }
}

#[test]
fn a_delta_step_that_is_not_finite_is_dropped_and_leaves_the_matrix() {
    let step = |rate| lite::LiteStep {
        rate: Some(rate),
        decay: Some(0.5),
    };
    for (rate, f) in [(1.0, f32::NAN), (1.0, f32::INFINITY), (1e9, 1.0)] {
        let (mut w, mut f, mut p) = (std::vec![0.125; 16], std::vec![f; 4], [0.0; 4]);
        assert!(!Backend::detect().lite_step(&mut w, step(rate), &mut f, &mut p));
        assert!(w.iter().all(|&w| w == 0.125), "{rate}");
    }
    let (mut w, mut f, mut p) = (std::vec![0.125; 16], std::vec![1.0; 4], [0.0; 4]);
    assert!(Backend::detect().lite_step(&mut w, step(0.5), &mut f, &mut p));
    assert!(w.iter().all(|&w| w != 0.125 && w.is_finite()));
}

/// `cargo xtask test` compiles this with every choice of `--cfg bitttt_backend` and says what has to come of it.
#[test]
fn detection_gives_what_was_chosen() {
    Backend::request_amx(); // here, not in a test beside this one between two looks
    match std::env::var("BITTTT_EXPECTED_CHOICE") {
        Ok(name) => assert_eq!(Backend::detect().name(), name),
        Err(_) if FORCED.is_none() => assert_eq!(Some(Backend::detect()), Backend::all().last()),
        Err(_) => {}
    }
}
