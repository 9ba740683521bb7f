//! The operation against an f64 oracle written from the paper's primal form, and its gradient
//! against central differences of that oracle.

use candle_core::{Device, Tensor, Var};

use super::*;
use crate::rng::Rng;

/// Inputs by name.
#[derive(Clone)]
pub(super) struct Operands {
    qkv: Vec<f64>,
    lr: Vec<f64>,
    /// `W [H, in, out]`, `u [H, out]` of every fast layer.
    start: Vec<[Vec<f64>; 2]>,
    ln_weight: Vec<f64>,
    ln_bias: Vec<f64>,
    decay: Vec<f64>,
    tau: Vec<f64>,
}

impl Operands {
    /// All of them in one order.
    fn all(&mut self) -> Vec<&mut Vec<f64>> {
        let mut all = vec![&mut self.qkv, &mut self.lr];
        all.extend(self.start.iter_mut().flatten());
        all.extend([
            &mut self.ln_weight,
            &mut self.ln_bias,
            &mut self.decay,
            &mut self.tau,
        ]);
        all
    }
}

pub(super) fn settings(inner: Inner, heads: usize, d_head: usize, mini_batch: usize) -> Settings {
    Settings {
        inner,
        heads,
        d_head,
        mini_batch,
        base_lr: 1.0,
        rope_theta: 10_000.0,
        anchor_decay: true,
    }
}

pub(super) fn operands(s: &Settings, batch: usize, tokens: usize, seed: u64) -> Operands {
    let mut rng = Rng::new(seed, 0);
    let mut draw = |n: usize, scale: f64, shift: f64| -> Vec<f64> {
        (0..n)
            .map(|_| f64::from((rng.normal() as f64 * scale + shift) as f32))
            .collect()
    };
    let (h, d) = (s.heads, s.d_head);
    // Values on the f16 grid: the rounding of W0 and u0 has no part in what is tested here.
    let grid = |v: Vec<f64>| v.iter().map(|x| f16::from_f64(*x).to_f64()).collect();
    Operands {
        qkv: draw(batch * tokens * 3 * h * d, 1.0, 0.0),
        lr: draw(batch * tokens * h, 1.0, 0.5),
        start: s
            .layers()
            .into_iter()
            .map(|(input, output)| {
                [
                    grid(draw(h * input * output, 0.3, 0.0)),
                    grid(draw(h * output, 0.1, 0.0)),
                ]
            })
            .collect(),
        ln_weight: draw(h * d, 0.2, 1.0),
        ln_bias: draw(h * d, 0.2, 0.0),
        decay: draw(h, 0.5, -1.0),
        tau: draw(s.mini_batch, 0.05, 0.02),
    }
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

/// A layer `x W + u`, `W [in, out]`.
#[derive(Clone)]
struct Layer {
    w: Vec<f64>,
    u: Vec<f64>,
}

impl Layer {
    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let d = self.u.len();
        (0..d)
            .map(|o| self.u[o] + (0..x.len()).map(|i| x[i] * self.w[i * d + o]).sum::<f64>())
            .collect()
    }

    /// `self + factor * other`.
    fn plus(&self, factor: f64, other: &Self) -> Self {
        let add = |a: &[f64], b: &[f64]| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
        };
        Self {
            w: add(&self.w, &other.w),
            u: add(&self.u, &other.u),
        }
    }
}

/// GELU-tanh and, by a difference, its slope.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh())
}

fn gelu_slope(x: f64) -> f64 {
    (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5
}

/// What comes into each layer of the inner model, and what leaves the last.
fn run_inner(model: &[Layer], x: &[f64]) -> (Vec<Vec<f64>>, Vec<f64>) {
    let mut inputs = vec![x.to_vec()];
    for layer in &model[..model.len() - 1] {
        let hidden = layer.apply(&inputs[inputs.len() - 1]);
        inputs.push(hidden.into_iter().map(gelu).collect());
    }
    let out = model[model.len() - 1].apply(&inputs[inputs.len() - 1]);
    (inputs, out)
}

/// Gradient of `1/2 |LN(f(k)) - target|^2` for every weight of `f`, times `lr`.
fn inner_step(model: &[Layer], norm: &Norm<'_>, k: &[f64], target: &[f64], lr: f64) -> Vec<Layer> {
    let (inputs, out) = run_inner(model, k);
    let mut g = norm.inner_grad(&out, target);
    let mut steps = Vec::new();
    for l in (0..model.len()).rev() {
        let w = inputs[l]
            .iter()
            .flat_map(|x| g.iter().map(move |g| lr * x * g));
        steps.insert(
            0,
            Layer {
                w: w.collect(),
                u: g.iter().map(|g| lr * g).collect(),
            },
        );
        if l > 0 {
            let (rows, z) = (
                model[l].w.chunks(g.len()),
                model[l - 1].apply(&inputs[l - 1]),
            );
            let pulled = rows.map(|row| row.iter().zip(&g).map(|(w, g)| w * g).sum::<f64>());
            g = pulled.zip(z).map(|(a, z)| a * gelu_slope(z)).collect();
        }
    }
    steps
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
/// and applied, `W_t = W - tau_t sum_{i<=t} lr_i dW_i`. Also the inner losses of every full mini-batch, before and after.
fn oracle_sequence(
    s: &Settings,
    p: &Operands,
    row: usize,
    tokens: usize,
    h: usize,
) -> (Vec<f64>, Vec<[f64; 2]>) {
    let (d, width) = (s.d_head, s.heads * s.d_head);
    let at = |v: &[f64], n: usize| v[h * n..(h + 1) * n].to_vec();
    let start: Vec<Layer> = (p.start.iter().zip(s.layers()))
        .map(|([w, u], (input, output))| Layer {
            w: at(w, input * output),
            u: at(u, output),
        })
        .collect();
    let (weight, bias) = (at(&p.ln_weight, d), at(&p.ln_bias, d));
    let norm = Norm {
        weight: &weight,
        bias: &bias,
    };
    let lambda = if s.anchor_decay {
        1.0 / (1.0 + (-p.decay[h]).exp())
    } else {
        0.0
    };
    let nothing: Vec<Layer> = start.iter().map(|l| l.plus(-1.0, l)).collect();
    let (mut model, mut sum) = (start.clone(), nothing.clone());
    let loss = |model: &[Layer], read: &[[Vec<f64>; 2]]| -> f64 {
        let error = |[k, target]: &[Vec<f64>; 2]| -> f64 {
            let y = norm.apply(&run_inner(model, k).1);
            y.iter()
                .zip(target)
                .map(|(y, t)| 0.5 * (y - t).powi(2))
                .sum()
        };
        read.iter().map(error).sum()
    };
    let (mut out, mut losses, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for t in 0..tokens {
        let i = t % s.mini_batch;
        let token = &p.qkv[(row * tokens + t) * 3 * width + h * d..];
        let q = rope(&token[..d], i, f64::from(s.rope_theta));
        let k = rope(&token[width..][..d], i, f64::from(s.rope_theta));
        let v = &token[2 * width..][..d];
        let logit = p.lr[(row * tokens + t) * s.heads + h];
        let lr = f64::from(s.base_lr) / (1.0 + (-logit).exp()) / d as f64;
        let tau = (1.0 / (i + 1) as f64 + p.tau[i]).max(0.0);
        let target: Vec<f64> = (0..d).map(|c| v[c] - k[c]).collect();
        let step = inner_step(&model, &norm, &k, &target, lr);
        sum = zip(&sum, &step, |sum, step| sum.plus(1.0, step));
        let learned = zip(&model, &sum, |layer, sum| layer.plus(-tau, sum));
        let y = norm.apply(&run_inner(&learned, &q).1);
        out.extend((0..d).map(|c| q[c] + y[c]));
        read.push([k, target]);
        if i + 1 == s.mini_batch {
            let pulled = zip(&model, &start, |layer, start| {
                layer.plus(-lambda, &layer.plus(-1.0, start))
            });
            let before = loss(&model, &read);
            model = zip(&pulled, &sum, |layer, sum| layer.plus(-tau, sum));
            losses.push([before, loss(&model, &read)]);
            sum = nothing.clone();
            read.clear();
        }
    }
    (out, losses)
}

/// Means a token and head over the rows' full mini-batches, before and after their updates.
pub(super) fn oracle_inner_loss(
    s: &Settings,
    p: &Operands,
    tokens: usize,
    lengths: &[usize],
) -> [f64; 2] {
    let (mut sums, mut count) = ([0.0; 2], 0);
    for (row, length) in lengths.iter().enumerate() {
        for h in 0..s.heads {
            let (_, losses) = oracle_sequence(s, p, row, tokens, h);
            for loss in losses.iter().take(length / s.mini_batch) {
                sums = [sums[0] + loss[0], sums[1] + loss[1]];
                count += s.mini_batch;
            }
        }
    }
    sums.map(|sum| sum / count as f64)
}

fn zip(a: &[Layer], b: &[Layer], f: impl Fn(&Layer, &Layer) -> Layer) -> Vec<Layer> {
    a.iter().zip(b).map(|(a, b)| f(a, b)).collect()
}

/// `[B, T, D]`.
fn oracle(s: &Settings, p: &Operands, batch: usize, tokens: usize) -> Vec<f64> {
    let (d, width) = (s.d_head, s.heads * s.d_head);
    let mut out = vec![0.0; batch * tokens * width];
    for row in 0..batch {
        for h in 0..s.heads {
            let (o, _) = oracle_sequence(s, p, row, tokens, h);
            for t in 0..tokens {
                let at = (row * tokens + t) * width + h * d;
                out[at..at + d].copy_from_slice(&o[t * d..(t + 1) * d]);
            }
        }
    }
    out
}

pub(super) fn variables(p: &Operands, s: &Settings, batch: usize, tokens: usize) -> Vec<Var> {
    let (h, d) = (s.heads, s.d_head);
    let mut shapes = vec![vec![batch, tokens, 3 * h * d], vec![batch, tokens, h]];
    for (input, output) in s.layers() {
        shapes.extend([vec![h, input, output], vec![h, output]]);
    }
    shapes.extend([vec![h, d], vec![h, d], vec![h], vec![s.mini_batch]]);
    p.clone()
        .all()
        .into_iter()
        .zip(shapes)
        .map(|(v, shape)| {
            let v: Vec<f32> = v.iter().map(|x| *x as f32).collect();
            Var::from_tensor(&Tensor::from_vec(v, shape, &Device::Cpu).unwrap()).unwrap()
        })
        .collect()
}

fn run(s: &Settings, v: &[Var]) -> Tensor {
    with_learned(s, v, |learned| ttt(&v[0], &v[1], learned, s).unwrap())
}

/// Calls `f` with the variables behind `qkv` and `lr`.
pub(super) fn with_learned<R>(s: &Settings, v: &[Var], f: impl FnOnce(&Learned<'_>) -> R) -> R {
    let (fast, rest) = v[2..].split_at(2 * s.layers().len());
    let start: Vec<[Tensor; 2]> = fast
        .chunks(2)
        .map(|v| [v[0].as_tensor().clone(), v[1].as_tensor().clone()])
        .collect();
    f(&Learned {
        start: &start,
        ln_weight: &rest[0],
        ln_bias: &rest[1],
        decay: &rest[2],
        tau: &rest[3],
    })
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

const KINDS: [Inner; 2] = [Inner::Linear, Inner::Mlp];

#[test]
fn the_dual_form_equals_the_primal_form_of_the_paper() {
    for inner in KINDS {
        check_forward(&settings(inner, 2, 16, 4), 2, 12);
    }
}

#[test]
fn a_last_mini_batch_may_be_short_and_heads_of_any_even_width() {
    for inner in KINDS {
        check_forward(&settings(inner, 3, 6, 5), 2, 13);
        check_forward(&settings(inner, 1, 20, 16), 1, 37);
        check_forward(&settings(inner, 2, 8, 16), 1, 3);
    }
}

#[test]
fn without_anchor_decay_nothing_pulls_the_weights_back() {
    for inner in KINDS {
        let s = Settings {
            anchor_decay: false,
            ..settings(inner, 2, 8, 4)
        };
        check_forward(&s, 1, 17);
    }
}

/// Loss `sum_i c_i o_i` with fixed random `c`; returns the largest error of the analytic gradient of
/// each operand, relative to the largest entry of that gradient.
fn gradient_errors(s: &Settings, batch: usize, tokens: usize) -> Vec<f64> {
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
    let errors = |(operand, var): (usize, &Var)| {
        let got = flat(grads.get(var).unwrap());
        let numeric: Vec<f64> = (0..got.len())
            .map(|i| slope(&loss, &p, operand, i))
            .collect();
        let scale = numeric.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
        let error = |(g, n): (&f32, &f64)| (f64::from(*g) - n).abs() / scale;
        got.iter().zip(&numeric).map(error).fold(0.0, f64::max)
    };
    vars.iter().enumerate().map(errors).collect()
}

fn slope(loss: &impl Fn(&Operands) -> f64, p: &Operands, operand: usize, i: usize) -> f64 {
    let at = |delta: f64| {
        let mut moved = p.clone();
        moved.all()[operand][i] += delta;
        loss(&moved)
    };
    let step = 1e-5;
    (at(step) - at(-step)) / (2.0 * step)
}

#[test]
fn the_gradient_equals_finite_differences_through_updates_and_a_short_tail() {
    for (s, tokens) in [
        (settings(Inner::Linear, 2, 6, 3), 8),
        (settings(Inner::Linear, 1, 16, 4), 12),
        (settings(Inner::Mlp, 2, 4, 3), 8),
        (settings(Inner::Mlp, 1, 6, 4), 12),
    ] {
        let errors = gradient_errors(&s, 2, tokens);
        println!("{:?}: largest relative gradient errors {errors:?}", s.inner);
        assert!(errors.iter().all(|e| *e < 2e-4), "{errors:?}");
    }
}

#[test]
fn negative_token_weights_are_cut_to_zero_and_pass_no_gradient() {
    let s = settings(Inner::Linear, 1, 4, 2);
    let mut p = operands(&s, 1, 4, 9);
    p.tau = vec![-2.0, 0.1];
    let vars = variables(&p, &s, 1, 4);
    let grads = run(&s, &vars).sum_all().unwrap().backward().unwrap();
    let tau = flat(grads.get(&vars[7]).unwrap());
    assert_eq!(tau[0], 0.0);
    assert_ne!(tau[1], 0.0);
}

#[test]
fn zero_base_rate_leaves_every_mini_batch_with_the_first_weights() {
    for inner in KINDS {
        let s = Settings {
            base_lr: 0.0,
            ..settings(inner, 2, 8, 4)
        };
        check_forward(&s, 1, 12);
    }
}
