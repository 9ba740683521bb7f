//! Every backend against a naive oracle and against scalar, bit for bit.

use super::*;
use crate::model::{Scale, Weights};
use proptest::prelude::*;
use std::vec::Vec;

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

fn quantised(x: &[f32]) -> (Vec<i8>, Vec<f32>, Vec<i32>) {
    let mut codes = std::vec![0; crate::memory::padded(x.len())];
    let (scale, sum) = lanes::quantise(x, &mut codes);
    (codes, std::vec![scale], std::vec![sum])
}

fn products(m: &Matrix<'_>, x: &[f32], backend: Backend) -> Vec<u32> {
    let (codes, scales, sums) = quantised(x);
    let q = Quantised {
        stride: codes.len(),
        codes: &codes,
        scales: &scales,
        sums: &sums,
    };
    let mut out = std::vec![0.0; m.rows];
    backend.matmul(m, &q, x, &mut out);
    out.into_iter().map(f32::to_bits).collect()
}

/// One macro, the same properties for every packed type: the oracle's numbers, on every backend, for any bytes,
/// invalid codes included.
macro_rules! packed_dot_properties {
    ($name:ident, $weights:ident, $planes:expr, $dtype:ident) => {
        proptest! {
            #[test]
            fn $name(cols in 1usize..900, rows in 1usize..4, seed in any::<u64>(), x in prop::collection::vec(-3.0f32..3.0, 900)) {
                let width = crate::format::DType::$dtype.row_bytes(cols as u64) as usize;
                let bytes: Vec<u8> = (0..rows * width).map(|i| (seed.wrapping_mul(i as u64 * 2 + 1) >> 23) as u8).collect();
                let m = Matrix { rows, cols, weights: Weights::$weights(&bytes, Scale::Tensor(0.5)) };
                let x = &x[..cols];
                let (codes, scales, _) = quantised(x);
                let expected: Vec<u32> = bytes.chunks(width).map(|row| {
                    let sum: i32 = unpack(row, cols, $planes).iter().zip(&codes).map(|(&t, &q)| t * i32::from(q)).sum();
                    (sum as f32 * (scales[0] * 0.5)).to_bits()
                }).collect();
                for backend in Backend::all() {
                    prop_assert_eq!(&products(&m, x, backend), &expected, "{}", backend.name());
                }
            }
        }
    };
}

packed_dot_properties!(t2_products_equal_the_oracle_on_every_backend, T2, 4, T2);
packed_dot_properties!(t5_products_equal_the_oracle_on_every_backend, T5, 5, T5);

proptest! {
    #[test]
    fn i8_products_equal_the_oracle_on_every_backend(cols in 1usize..400, w in prop::collection::vec(any::<i8>(), 400), x in prop::collection::vec(-3.0f32..3.0, 400)) {
        let m = Matrix { rows: 1, cols, weights: Weights::I8(&w[..cols], &[0.25]) };
        let (codes, scales, _) = quantised(&x[..cols]);
        let sum: i32 = w[..cols].iter().zip(&codes).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum();
        for backend in Backend::all() {
            prop_assert_eq!(products(&m, &x[..cols], backend), [(sum as f32 * (scales[0] * 0.25)).to_bits()]);
        }
    }

    #[test]
    fn quantised_codes_round_half_to_even_and_never_leave_the_range(bits in prop::collection::vec(any::<u32>(), 1..200)) {
        let x: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let (codes, scales, sums) = quantised(&x);
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
            backend.rms_norm(&mut normed, y, 1e-5);
            let mut gated = x.to_vec();
            backend.gate(&mut gated, y);
            backend.activate(&mut gated, x, crate::format::Activation::Relu2);
            let mut terms = x.to_vec();
            backend.softmax_terms(&mut terms, 9.0, 0.7);
            let mut codes = std::vec![0; n + 3];
            let (scale, _) = backend.quantise(x, &mut codes);
            let dot = backend.dot_stored(Floats::F32(x), y);
            let all = normed.into_iter().chain(gated).chain(terms).chain([scale, dot]);
            (all.map(f32::to_bits).collect::<Vec<_>>(), codes)
        };
        for backend in Backend::all() {
            prop_assert_eq!(run(backend), run(Backend::SCALAR), "{}", backend.name());
        }
        prop_assert!(rest.len() >= 300);
    }

    #[test]
    fn stored_halves_and_floats_of_the_same_values_give_the_same_dot(x in prop::collection::vec(-9.0f32..9.0, 1..100)) {
        let halves: Vec<u16> = x.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
        let widened: Vec<f32> = halves.iter().map(|&b| half::f16::from_bits(b).to_f32()).collect();
        for backend in Backend::all() {
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
    for poison in [f32::NAN, f32::INFINITY, 1e30] {
        let mut fast = std::vec![0.5; d * d + d];
        let mut keys = std::vec![poison; 2 * d];
        let (mut grads, mut rates) = (std::vec![1.0; 2 * d], std::vec![0.1; 2]);
        let (ones, zeros) = (std::vec![1.0; d], std::vec![0.0; d * d]);
        let mut head = ttt::TttHead {
            fast: &mut fast,
            keys: &mut keys,
            grads: &mut grads,
            rates: &mut rates,
            ln_scale: &ones,
            ln_bias: &zeros[..d],
            ln_eps: 1e-6,
            w0: Floats::F32(&zeros),
            u0: Floats::F32(&zeros[..d]),
            decay: Some(0.5),
        };
        assert!(!Backend::detect().ttt_close(&mut head, 0.5, &mut [0.0; 8]));
        assert!(
            fast.iter().all(|&w| w == 0.5),
            "{poison} reached the fast weights"
        );
    }
}
