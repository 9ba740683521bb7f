//! The operation against the delta rule written token by token in f64, and its gradient against central differences.

use candle_core::{Device, Tensor, Var};

use super::*;
use crate::rng::Rng;

fn settings(mini_batch: usize, lr: f32, anchor_decay: bool) -> Settings {
    Settings {
        mini_batch,
        lr,
        anchor_decay,
    }
}

/// `p [T, m]` of one row.
fn oracle(s: &Settings, m: usize, f: &[f64], decay: f64) -> Vec<f64> {
    let lambda = if s.anchor_decay {
        1.0 / (1.0 + (-decay).exp())
    } else {
        0.0
    };
    let mut w = vec![0.0; m * m];
    let mut out = Vec::new();
    for (t, f) in f.chunks(m).enumerate() {
        let length = f.iter().map(|f| f * f).sum::<f64>().sqrt();
        let x: Vec<f64> = f.iter().map(|f| f / (length + 1e-6)).collect();
        let p: Vec<f64> = w
            .chunks(m)
            .map(|row| row.iter().zip(&x).map(|(w, x)| w * x).sum())
            .collect();
        if (t + 1) % s.mini_batch == 0 {
            w.iter_mut().for_each(|w| *w *= 1.0 - lambda);
        }
        for (r, row) in w.chunks_mut(m).enumerate() {
            for (w, c) in row.iter_mut().zip(&x) {
                *w -= f64::from(s.lr) * (p[r] - x[r]) * c;
            }
        }
        out.extend(p);
    }
    out
}

fn draw(n: usize, seed: u64) -> Vec<f64> {
    let mut rng = Rng::new(seed, 3);
    (0..n).map(|_| f64::from(rng.normal())).collect()
}

fn variable(values: &[f64], shape: &[usize]) -> Var {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn chunks_of_tokens_equal_the_rule_token_by_token() {
    for (s, batch, tokens, m) in [
        (settings(4, 1.0, true), 2, 14, 8),
        (settings(16, 0.5, true), 1, 40, 5),
        (settings(1, 0.7, true), 1, 6, 4),
        (settings(16, 1.0, false), 3, 3, 32),
        (settings(8, 0.0, true), 1, 20, 6),
    ] {
        let f = draw(batch * tokens * m, 1);
        let got = flat(
            &ttt_lite(
                &variable(&f, &[batch, tokens, m]),
                &variable(&[-1.0], &[1]),
                &s,
            )
            .unwrap(),
        );
        let want = f.chunks(tokens * m).flat_map(|f| oracle(&s, m, f, -1.0));
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((f64::from(*g) - w).abs() < 2e-5, "{s:?}, {i}: {g} for {w}");
        }
    }
}

#[test]
fn what_was_seen_is_reproduced() {
    let s = settings(16, 1.0, false);
    let f = draw(8, 2);
    let twice = variable(&[f.clone(), f.clone()].concat(), &[1, 2, 8]);
    let p = flat(&ttt_lite(&twice, &variable(&[0.0], &[1]), &s).unwrap());
    let length = f.iter().map(|f| f * f).sum::<f64>().sqrt();
    assert!(p[..8].iter().all(|p| *p == 0.0));
    for (p, f) in p[8..].iter().zip(&f) {
        assert!((f64::from(*p) - f / length).abs() < 1e-5);
    }
}

#[test]
fn the_gradient_equals_finite_differences() {
    for (s, tokens, m) in [
        (settings(4, 0.8, true), 11, 6),
        (settings(3, 1.0, true), 6, 5),
    ] {
        let (f, decay, weights) = (draw(tokens * m, 4), -0.5, draw(tokens * m, 5));
        let vars = [variable(&f, &[1, tokens, m]), variable(&[decay], &[1])];
        let out = ttt_lite(&vars[0], &vars[1], &s).unwrap();
        let loss = (out * variable(&weights, &[1, tokens, m]).as_tensor()).unwrap();
        let grads = loss.sum_all().unwrap().backward().unwrap();
        let loss = |f: &[f64], decay: f64| -> f64 {
            let out = oracle(&s, m, f, decay);
            out.iter().zip(&weights).map(|(o, w)| o * w).sum()
        };
        let step = 1e-5;
        let slope = |i: usize| {
            let at = |delta: f64| {
                let mut f = f.clone();
                f[i] += delta;
                loss(&f, decay)
            };
            (at(step) - at(-step)) / (2.0 * step)
        };
        let numeric: Vec<f64> = (0..f.len()).map(slope).collect();
        let scale = numeric.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for (g, n) in flat(grads.get(&vars[0]).unwrap()).iter().zip(&numeric) {
            assert!((f64::from(*g) - n).abs() < 1e-4 * scale, "{g} for {n}");
        }
        let got = f64::from(flat(grads.get(&vars[1]).unwrap())[0]);
        let want = (loss(&f, decay + step) - loss(&f, decay - step)) / (2.0 * step);
        assert!(
            (got - want).abs() < 1e-4 * want.abs().max(0.1),
            "{got} for {want}"
        );
    }
}
