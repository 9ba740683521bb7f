//! The operation against an f64 oracle written from the paper's primal form, and its gradient
//! against central differences of that oracle.

use candle_core::{Device, Tensor, Var};

use super::*;
use crate::rng::Rng;

/// Inputs by name: qkv, lr, w0, u0, ln_weight, ln_bias, decay, tau.
type Operands = [Vec<f64>; 8];

fn settings(heads: usize, d_head: usize, mini_batch: usize) -> Settings {
    Settings {
        heads,
        d_head,
        mini_batch,
        base_lr: 1.0,
        rope_theta: 10_000.0,
        anchor_decay: true,
    }
}

fn operands(s: &Settings, batch: usize, tokens: usize, seed: u64) -> Operands {
    let mut rng = Rng::new(seed, 0);
    let mut draw = |n: usize, scale: f64, shift: f64| -> Vec<f64> {
        (0..n)
            .map(|_| f64::from((rng.normal() as f64 * scale + shift) as f32))
            .collect()
    };
    let (h, d) = (s.heads, s.d_head);
    // Values on the f16 grid: the rounding of W0 and u0 has no part in what is tested here.
    let grid = |v: Vec<f64>| v.iter().map(|x| f16::from_f64(*x).to_f64()).collect();
    [
        draw(batch * tokens * 3 * h * d, 1.0, 0.0),
        draw(batch * tokens * h, 1.0, 0.5),
        grid(draw(h * d * d, 0.3, 0.0)),
        grid(draw(h * d, 0.1, 0.0)),
        draw(h * d, 0.2, 1.0),
        draw(h * d, 0.2, 0.0),
        draw(h, 0.5, -1.0),
        draw(s.mini_batch, 0.05, 0.02),
    ]
}

struct Norm<'a> {
    weight: &'a [f64],
    bias: &'a [f64],
}

impl Norm<'_> {
    fn unit(z: &[f64]) -> (Vec<f64>, f64) {
        let n = z.len() as f64;
        let mean = z.iter().sum::<f64>() / n;
        let var = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / n;
        let r = 1.0 / (var + 1e-6).sqrt();
        (z.iter().map(|z| (z - mean) * r).collect(), r)
    }

    fn apply(&self, z: &[f64]) -> Vec<f64> {
        let (x, _) = Self::unit(z);
        (0..z.len())
            .map(|c| self.weight[c] * x[c] + self.bias[c])
            .collect()
    }

    /// Gradient of `1/2 |LN(z) - target|^2`.
    fn inner_grad(&self, z: &[f64], target: &[f64]) -> Vec<f64> {
        let (x, r) = Self::unit(z);
        let y = self.apply(z);
        let n = z.len() as f64;
        let p: Vec<f64> = (0..z.len())
            .map(|c| self.weight[c] * (y[c] - target[c]))
            .collect();
        let mean = p.iter().sum::<f64>() / n;
        let along = p.iter().zip(&x).map(|(p, x)| p * x).sum::<f64>() / n;
        (0..z.len())
            .map(|c| r * (p[c] - mean - x[c] * along))
            .collect()
    }
}

/// `x W + u`, `W [d, d]` (in, out).
fn affine(x: &[f64], w: &[f64], u: &[f64]) -> Vec<f64> {
    let d = u.len();
    (0..d)
        .map(|o| u[o] + (0..d).map(|i| x[i] * w[i * d + o]).sum::<f64>())
        .collect()
}

fn rope(x: &[f64], position: usize, theta: f64) -> Vec<f64> {
    let d = x.len();
    let turn = |j: usize| (position as f64 * theta.powf(-(2.0 * j as f64) / d as f64)).sin_cos();
    (0..d / 2)
        .flat_map(|j| {
            let (sin, cos) = turn(j);
            let (a, b) = (x[2 * j], x[2 * j + 1]);
            [a * cos - b * sin, a * sin + b * cos]
        })
        .collect()
}

/// One head of one row in the primal form: for every token the weights `W_t` of the paper are built
/// and applied, `W_t = W - tau_t sum_{i<=t} lr_i k_i^T g_i`.
fn oracle_sequence(s: &Settings, p: &Operands, row: usize, tokens: usize, h: usize) -> Vec<f64> {
    let (d, width) = (s.d_head, s.heads * s.d_head);
    let at = |v: &[f64], n: usize| v[h * n..(h + 1) * n].to_vec();
    let (w0, u0) = (at(&p[2], d * d), at(&p[3], d));
    let (weight, bias) = (at(&p[4], d), at(&p[5], d));
    let norm = Norm {
        weight: &weight,
        bias: &bias,
    };
    let lambda = if s.anchor_decay {
        1.0 / (1.0 + (-p[6][h]).exp())
    } else {
        0.0
    };
    let (mut w, mut u) = (w0.clone(), u0.clone());
    let (mut sum_w, mut sum_u) = (vec![0.0; d * d], vec![0.0; d]);
    let mut out = Vec::new();
    for t in 0..tokens {
        let i = t % s.mini_batch;
        let token = &p[0][(row * tokens + t) * 3 * width + h * d..];
        let q = rope(&token[..d], i, f64::from(s.rope_theta));
        let k = rope(&token[width..][..d], i, f64::from(s.rope_theta));
        let v = &token[2 * width..][..d];
        let logit = p[1][(row * tokens + t) * s.heads + h];
        let lr = f64::from(s.base_lr) / (1.0 + (-logit).exp()) / d as f64;
        let tau = (1.0 / (i + 1) as f64 + p[7][i]).max(0.0);
        let target: Vec<f64> = (0..d).map(|c| v[c] - k[c]).collect();
        let g = norm.inner_grad(&affine(&k, &w, &u), &target);
        for o in 0..d {
            (0..d).for_each(|a| sum_w[a * d + o] += lr * k[a] * g[o]);
            sum_u[o] += lr * g[o];
        }
        let step = |old: &[f64], sum: &[f64]| -> Vec<f64> {
            old.iter().zip(sum).map(|(w, s)| w - tau * s).collect()
        };
        let y = norm.apply(&affine(&q, &step(&w, &sum_w), &step(&u, &sum_u)));
        out.extend((0..d).map(|c| q[c] + y[c]));
        if i + 1 == s.mini_batch {
            let pull = |old: &[f64], w0: &[f64], sum: &[f64]| -> Vec<f64> {
                (0..old.len())
                    .map(|j| w0[j] + (1.0 - lambda) * (old[j] - w0[j]) - tau * sum[j])
                    .collect()
            };
            (w, u) = (pull(&w, &w0, &sum_w), pull(&u, &u0, &sum_u));
            sum_w.fill(0.0);
            sum_u.fill(0.0);
        }
    }
    out
}

/// `[B, T, D]`.
fn oracle(s: &Settings, p: &Operands, batch: usize, tokens: usize) -> Vec<f64> {
    let (d, width) = (s.d_head, s.heads * s.d_head);
    let mut out = vec![0.0; batch * tokens * width];
    for row in 0..batch {
        for h in 0..s.heads {
            let o = oracle_sequence(s, p, row, tokens, h);
            for t in 0..tokens {
                let at = (row * tokens + t) * width + h * d;
                out[at..at + d].copy_from_slice(&o[t * d..(t + 1) * d]);
            }
        }
    }
    out
}

fn variables(p: &Operands, s: &Settings, batch: usize, tokens: usize) -> Vec<Var> {
    let (h, d) = (s.heads, s.d_head);
    let shapes: [&[usize]; 8] = [
        &[batch, tokens, 3 * h * d],
        &[batch, tokens, h],
        &[h, d, d],
        &[h, d],
        &[h, d],
        &[h, d],
        &[h],
        &[s.mini_batch],
    ];
    p.iter()
        .zip(shapes)
        .map(|(v, shape)| {
            let v: Vec<f32> = v.iter().map(|x| *x as f32).collect();
            Var::from_tensor(&Tensor::from_vec(v, shape, &Device::Cpu).unwrap()).unwrap()
        })
        .collect()
}

fn run(s: &Settings, v: &[Var]) -> Tensor {
    let learned = Learned {
        w0: &v[2],
        u0: &v[3],
        ln_weight: &v[4],
        ln_bias: &v[5],
        decay: &v[6],
        tau: &v[7],
    };
    ttt_linear(&v[0], &v[1], &learned, s).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn check_forward(s: &Settings, batch: usize, tokens: usize) {
    let p = operands(s, batch, tokens, 3);
    let got = flat(&run(s, &variables(&p, s, batch, tokens)));
    let want = oracle(s, &p, batch, tokens);
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!(
            (f64::from(*g) - w).abs() < 2e-4 * (1.0 + w.abs()),
            "element {i}: {g} against {w}"
        );
    }
}

#[test]
fn the_dual_form_equals_the_primal_form_of_the_paper() {
    check_forward(&settings(2, 16, 4), 2, 12);
}

#[test]
fn a_last_mini_batch_may_be_short_and_heads_of_any_even_width() {
    check_forward(&settings(3, 6, 5), 2, 13);
    check_forward(&settings(1, 20, 16), 1, 37);
    check_forward(&settings(2, 8, 16), 1, 3);
}

#[test]
fn without_anchor_decay_nothing_pulls_the_weights_back() {
    let s = Settings {
        anchor_decay: false,
        ..settings(2, 8, 4)
    };
    check_forward(&s, 1, 17);
}

/// Loss `sum_i c_i o_i` with fixed random `c`; returns the largest error of the analytic gradient of
/// each operand, relative to the largest entry of that gradient.
fn gradient_errors(s: &Settings, batch: usize, tokens: usize) -> [f64; 8] {
    let p = operands(s, batch, tokens, 5);
    let mut rng = Rng::new(11, 0);
    let len = batch * tokens * s.heads * s.d_head;
    let c: Vec<f64> = (0..len).map(|_| f64::from(rng.normal())).collect();
    let vars = variables(&p, s, batch, tokens);
    let out = run(s, &vars);
    let weights: Vec<f32> = c.iter().map(|c| *c as f32).collect();
    let weights = Tensor::from_vec(weights, out.shape(), &Device::Cpu).unwrap();
    let grads = (out * weights)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let loss = |p: &Operands| -> f64 {
        let out = oracle(s, p, batch, tokens);
        out.iter().zip(&c).map(|(o, c)| o * c).sum()
    };
    std::array::from_fn(|operand| {
        let got = flat(grads.get(&vars[operand]).unwrap());
        let numeric: Vec<f64> = (0..got.len())
            .map(|i| slope(&loss, &p, operand, i))
            .collect();
        let scale = numeric.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
        let error = |(g, n): (&f32, &f64)| (f64::from(*g) - n).abs() / scale;
        got.iter().zip(&numeric).map(error).fold(0.0, f64::max)
    })
}

fn slope(loss: &impl Fn(&Operands) -> f64, p: &Operands, operand: usize, i: usize) -> f64 {
    let mut moved = p.clone();
    let mut at = |delta: f64| {
        moved[operand][i] = p[operand][i] + delta;
        loss(&moved)
    };
    let step = 1e-5;
    (at(step) - at(-step)) / (2.0 * step)
}

#[test]
fn the_gradient_equals_finite_differences_through_updates_and_a_short_tail() {
    for (s, tokens) in [(settings(2, 6, 3), 8), (settings(1, 16, 4), 12)] {
        let errors = gradient_errors(&s, 2, tokens);
        println!("largest relative gradient errors {errors:?}");
        assert!(errors.iter().all(|e| *e < 2e-4), "{errors:?}");
    }
}

#[test]
fn negative_token_weights_are_cut_to_zero_and_pass_no_gradient() {
    let s = settings(1, 4, 2);
    let mut p = operands(&s, 1, 4, 9);
    p[7] = vec![-2.0, 0.1];
    let vars = variables(&p, &s, 1, 4);
    let grads = run(&s, &vars).sum_all().unwrap().backward().unwrap();
    let tau = flat(grads.get(&vars[7]).unwrap());
    assert_eq!(tau[0], 0.0);
    assert_ne!(tau[1], 0.0);
}

#[test]
fn zero_base_rate_leaves_every_mini_batch_with_the_first_weights() {
    let s = Settings {
        base_lr: 0.0,
        ..settings(2, 8, 4)
    };
    check_forward(&s, 1, 12);
}
