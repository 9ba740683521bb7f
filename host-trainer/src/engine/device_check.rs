//! A device's operations against those of the CPU: values, and gradients of every input.

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use serde::Serialize;

use crate::config::{Activation, ModelConfig, TrainConfig};
use crate::model::{self, Model};
use crate::ops::bit_linear::{bit_linear, int8_head};
use crate::ops::conv::causal_conv;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::embedding;
use crate::ops::ffn::glu_norm;
use crate::ops::head_loss::head_loss;
use crate::ops::loss::{IGNORE, cross_entropy};
use crate::ops::norm::{gated_norm, rms_norm};
use crate::ops::ttt::{Inner, Learned, Settings, ttt};
use crate::rng::Rng;
use crate::train::adamw::{AdamW, treatments};

/// Where sums are f32 on both sides.
const SUMS: f64 = 1e-5;
/// Where a gradient is rounded to bfloat16, 2^-9 at most.
const BF16: f64 = 4e-3;
/// Through whole blocks: a code that flips at a rounding tie moves a value by 1 in 127.
const BLOCKS: f64 = 2e-2;

/// How far a device is from the CPU in one operation. Distances are Euclidean, relative to the CPU's.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was run.
    pub name: String,
    /// Distance of the values.
    pub values: f64,
    /// Most that it may be.
    pub values_limit: f64,
    /// Distance of each input's gradient.
    pub gradients: Vec<f64>,
    /// Most that each may be.
    pub gradients_limit: f64,
    /// Whether all are within their limits.
    pub passed: bool,
}

type Operation = Box<dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>>;

struct Case {
    name: String,
    inputs: Vec<Tensor>,
    run: Operation,
    limits: [f64; 2],
}

impl Case {
    fn new(
        name: impl Into<String>,
        inputs: &[&[usize]],
        limits: [f64; 2],
        run: impl Fn(&[Tensor]) -> candle_core::Result<Tensor> + 'static,
    ) -> Result<Self> {
        let tensor = |(i, shape): (usize, &&[usize])| random(shape, i as u64);
        Ok(Self {
            name: name.into(),
            inputs: inputs
                .iter()
                .enumerate()
                .map(tensor)
                .collect::<Result<_>>()?,
            run: Box::new(run),
            limits,
        })
    }

    fn check(&self, device: &Device) -> Result<Outcome> {
        let (expected, got) = (self.on(&Device::Cpu)?, self.on(device)?);
        let mut distances = Vec::new();
        for (expected, got) in expected.iter().zip(&got) {
            distances.push(distance(got, expected)?);
        }
        let (values, gradients) = (distances.remove(0), distances);
        let [values_limit, gradients_limit] = self.limits;
        Ok(Outcome {
            name: self.name.clone(),
            // Written so that a NaN does not pass.
            passed: values <= values_limit && gradients.iter().all(|g| *g <= gradients_limit),
            values,
            values_limit,
            gradients,
            gradients_limit,
        })
    }

    /// The values, then the gradient of each input where every value has another weight.
    fn on(&self, device: &Device) -> Result<Vec<Tensor>> {
        let inputs = self.inputs.iter();
        let inputs: Vec<Var> = inputs
            .map(|t| Var::from_tensor(&t.to_device(device)?))
            .collect::<candle_core::Result<_>>()?;
        let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
        let y = (self.run)(&tensors)?;
        let weights = random(y.dims(), 99)?.to_device(device)?;
        let grads = (&y * weights)?.sum_all()?.backward()?;
        let mut all = vec![y];
        for input in &inputs {
            let grad = grads.get(input);
            all.push(grad.cloned().unwrap_or(input.zeros_like()?));
        }
        Ok(all)
    }
}

fn random(shape: &[usize], stream: u64) -> Result<Tensor> {
    let mut rng = Rng::new(17, stream);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// `|a - b| / |b|`, on the CPU in f64.
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    let (a, b) = (values(a)?, values(b)?);
    let pairs = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2));
    let size: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    Ok((pairs.sum::<f64>() / size.max(1e-24)).sqrt())
}

/// Every operation at the sizes of a model of 125M parameters, then whole models.
///
/// # Errors
/// When an operation does not run at all.
pub fn check(device: &Device, show: &mut dyn FnMut(&Outcome)) -> Result<Vec<Outcome>> {
    check_rows(device, 300, show)
}

/// With rows of that many tokens.
fn check_rows(
    device: &Device,
    tokens: usize,
    show: &mut dyn FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut add = |outcome: Outcome| {
        show(&outcome);
        outcomes.push(outcome);
    };
    for case in cases(tokens)? {
        add(case.check(device)?);
    }
    add(whole_model(device)?);
    add(training(device)?);
    Ok(outcomes)
}

fn cases(tokens: usize) -> Result<Vec<Case>> {
    const D: usize = 768;
    let x: &[usize] = &[2, tokens, D];
    let len = 2 * tokens as u32;
    let mut all = vec![
        Case::new("bit_linear", &[x, &[D, D]], [1e-7, BF16], |t| {
            bit_linear(&t[0], &t[1], 1)
        })?,
        Case::new(
            "bit_linear of three matrices",
            &[x, &[3 * D, D]],
            [1e-7, BF16],
            |t| bit_linear(&t[0], &t[1], 3),
        )?,
        Case::new("int8_head", &[x, &[4001, D]], [1e-7, BF16], |t| {
            int8_head(&t[0], &t[1])
        })?,
        Case::new("rms_norm", &[x, &[D]], [SUMS; 2], |t| {
            rms_norm(&t[0], &t[1], 1e-5)
        })?,
        Case::new("gated_norm", &[x, &[D], x], [SUMS; 2], |t| {
            gated_norm(&t[0], &t[1], &t[2], 1e-5)
        })?,
        Case::new("causal_conv", &[x, &[4, D]], [SUMS; 2], |t| {
            causal_conv(&t[0], &t[1])
        })?,
        Case::new("head_loss", &[x, &[4001, D]], [SUMS, BF16], move |t| {
            head_loss(&t[0], &t[1], &targets(len))
        })?,
        Case::new("dropout", &[x], [0.0; 2], |t| {
            let dropout = Dropout {
                share: 0.3,
                key: 5,
                first_row: 2,
            };
            dropout.apply(&t[0])
        })?,
        Case::new("embedding", &[&[500, D]], [1e-7, SUMS], move |t| {
            let ids: Vec<u32> = (0..len).map(|i| i * i % 499).collect();
            embedding(&Tensor::from_vec(ids, (2, tokens), &Device::Cpu)?, &t[0])
        })?,
        Case::new(
            "cross_entropy",
            &[&[2, tokens, 4001]],
            [SUMS; 2],
            move |t| cross_entropy(&t[0], &targets(len)),
        )?,
    ];
    for activation in [Activation::Silu, Activation::Relu2] {
        let name = format!("glu_norm, {activation:?}");
        let shapes: [&[usize]; 2] = [&[2, tokens, 4096], &[2048]];
        all.push(Case::new(name, &shapes, [SUMS; 2], move |t| {
            glu_norm(&t[0], &t[1], activation, 1e-5)
        })?);
    }
    for (heads, d_head) in [(8, 16), (4, 32), (6, 48), (12, 64)] {
        all.push(ttt_case(tokens, heads, d_head)?);
    }
    Ok(all)
}

/// Targets below 4001, some of which do not count.
fn targets(len: u32) -> Vec<u32> {
    let target = |i: u32| if i % 7 == 3 { IGNORE } else { i * 31 % 4001 };
    (0..len).map(target).collect()
}

fn ttt_case(tokens: usize, heads: usize, d_head: usize) -> Result<Case> {
    let settings = Settings {
        inner: Inner::Linear,
        heads,
        d_head,
        mini_batch: 16,
        base_lr: 1.0,
        rope_theta: 10_000.0,
        anchor_decay: true,
    };
    let (h, d, width) = (heads, d_head, heads * d_head);
    let shapes: [&[usize]; 8] = [
        &[2, tokens, 3 * width],
        &[2, tokens, h],
        &[h, d, d],
        &[h, d],
        &[h, d],
        &[h, d],
        &[h],
        &[16],
    ];
    let name = format!("ttt-linear, heads {d} wide");
    Case::new(name, &shapes, [SUMS, 10.0 * SUMS], move |t| {
        let start = [[t[2].affine(0.1, 0.0)?, t[3].affine(0.1, 0.0)?]];
        let learned = Learned {
            start: &start,
            ln_weight: &t[4].affine(0.2, 1.0)?,
            ln_bias: &t[5].affine(0.2, 0.0)?,
            decay: &t[6].affine(0.5, -3.0)?,
            tau: &t[7].affine(0.02, 0.02)?,
        };
        ttt(&t[0], &t[1], &learned, &settings)
    })
}

fn small() -> ModelConfig {
    ModelConfig {
        vocab_size: 300,
        d_model: 256,
        n_layers: 2,
        n_heads: 4,
        d_ffn: 704,
        gate: true,
        ..ModelConfig::default()
    }
}

fn tokens(len: u32) -> Result<Tensor> {
    let ids: Vec<u32> = (0..2 * len).map(|i| i * i % 299).collect();
    Ok(Tensor::from_vec(ids, (2, len as usize), &Device::Cpu)?)
}

/// Logits of two blocks and the gradients of all their weights.
fn whole_model(device: &Device) -> Result<Outcome> {
    let config = small();
    let vars = model::init(&config, 3)?;
    let names: Vec<String> = vars.iter().map(|(name, _)| name.clone()).collect();
    let case = Case {
        name: "model of two blocks".to_owned(),
        inputs: vars
            .iter()
            .map(|(_, v)| v.as_tensor().copy())
            .collect::<candle_core::Result<_>>()?,
        run: Box::new(move |t| {
            let weights = names.iter().cloned().zip(t.iter().cloned()).collect();
            let model = Model::load(&config, &weights).map_err(candle_core::Error::wrap)?;
            model.forward(&tokens(100).map_err(candle_core::Error::wrap)?)
        }),
        limits: [BLOCKS, 5.0 * BLOCKS],
    };
    case.check(device)
}

/// Losses of twenty steps.
fn training(device: &Device) -> Result<Outcome> {
    let losses = |device: &Device| -> Result<Tensor> {
        let config = small();
        let vars = model::to_device(model::init(&config, 3)?, device)?;
        let model = Model::from_vars(&config, &vars)?;
        let mut optimiser = AdamW::new(&TrainConfig::default(), &vars, treatments(&config))?;
        let ids = tokens(64)?;
        let targets: Vec<u32> = (0..128u32).map(|i| (i + 1) * (i + 1) % 299).collect();
        let mut losses = Vec::new();
        for step in 1..=20 {
            let loss = model.loss(&ids, &targets, None, None)?;
            optimiser.step(&vars, &loss.backward()?, 1e-3, step)?;
            losses.push(loss.to_scalar::<f32>()?);
        }
        Ok(Tensor::new(losses, &Device::Cpu)?)
    };
    let values = distance(&losses(device)?, &losses(&Device::Cpu)?)?;
    Ok(Outcome {
        name: "losses of twenty steps".to_owned(),
        passed: values <= BLOCKS,
        values,
        values_limit: BLOCKS,
        gradients: Vec::new(),
        gradients_limit: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself() {
        let outcomes = check_rows(&Device::Cpu, 20, &mut |_| {}).unwrap();
        assert_eq!(outcomes.len(), 18);
        for outcome in outcomes {
            assert!(outcome.passed, "{outcome:?}");
            assert!(outcome.values == 0.0 && outcome.gradients.iter().all(|g| *g == 0.0));
        }
    }

    #[test]
    fn another_result_does_not_pass() {
        let mut case = Case::new("norm", &[&[3, 8], &[8]], [SUMS; 2], |t| {
            rms_norm(&t[0], &t[1], 1e-5)
        })
        .unwrap();
        let calls = std::cell::Cell::new(0);
        let right = case.run;
        case.run = Box::new(move |t| {
            calls.set(calls.get() + 1);
            right(t)? * if calls.get() == 2 { 1.001 } else { 1.0 }
        });
        let outcome = case.check(&Device::Cpu).unwrap();
        assert!(!outcome.passed && outcome.values > 9e-4, "{outcome:?}");
    }
}
