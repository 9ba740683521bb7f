//! How fast a model trains on a device: tokens a second, share of the device's arithmetic, and where the time goes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use candle_core::Device;
use serde::Serialize;

use super::adamw::{AdamW, treatments};
use super::gradients::{gradients, input};
use crate::config::{Config, Mixer, ModelConfig, TrainConfig};
use crate::data::batch::Batch;
use crate::device;
use crate::model::plain::{PlainModel, mean_loss};
use crate::model::{self, Model};
use crate::process;
use crate::rng::Rng;

/// Seconds a step by kernel.
pub type Kernels = Vec<(String, f64)>;

/// Steps before the clock starts: kernels are compiled and memory is taken in the first.
const WARM_UP: u64 = 3;

/// What is timed.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The model.
    pub model: ModelConfig,
    /// Rows of a step.
    pub batch: usize,
    /// Tokens of a row.
    pub context: usize,
    /// Tokens of a segment, 0 for whole rows.
    pub segment: usize,
    /// Whether an ordinary Candle graph is timed in place of the fused operations.
    pub plain: bool,
    /// Time to spend on steps.
    pub time: Duration,
    /// Where it runs.
    pub device: Device,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    /// Learned values.
    pub parameters: usize,
    /// Rows of a step.
    pub batch: usize,
    /// Tokens of a row.
    pub context: usize,
    /// Tokens of a segment, 0 for whole rows.
    pub segment: usize,
    /// Most memory that the process ever had in use, bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// The same of a GPU's memory, for tensors.
    pub peak_gpu_memory_bytes: Option<u64>,
    /// Steps timed.
    pub steps: u64,
    /// Median over the steps.
    pub tokens_per_second: f64,
    /// Floating-point operations that the mathematics of a token takes, forward and backward; nothing that is computed
    /// twice counts twice.
    pub flops_per_token: f64,
    /// Both together, 10^12 a second.
    pub tflops: f64,
    /// Loss of the first and of the last step: all steps see the same random tokens, so it falls.
    pub losses: [f64; 2],
    /// Seconds of forward pass, backward pass and optimiser in a step that waits after each.
    pub phases: [f64; 3],
    /// Seconds of each kind of kernel in that step, where the device tells.
    pub kernels: Kernels,
}

/// Operations of a token, three times those of the forward pass: two for each weight of each product, and what the fast
/// weights take. The embedding is read, not multiplied.
pub fn flops_per_token(c: &ModelConfig) -> f64 {
    let matrices = model::specs(c).into_iter().filter(model::Spec::decays);
    let multiplied = |name: &str| name != "embed.weight" || c.tie_embeddings;
    let weights: usize = matrices
        .filter(|spec| multiplied(&spec.name))
        .map(|spec| spec.shape.iter().product::<usize>())
        .sum();
    let (d, b) = (c.d_head() as f64, c.mini_batch as f64);
    // k W, q W, k^T g and, over the half of the mini-batch that a token sees, q k^T and P g.
    let fast = c.n_heads as f64 * (6.0 * d * d + 2.0 * b * d);
    let layers = (0..c.n_layers).filter(|l| c.mixer_of(*l) == Mixer::TttLinear);
    3.0 * (2.0 * weights as f64 + layers.count() as f64 * fast)
}

/// Times training steps on random tokens.
///
/// # Errors
/// An impossible shape, too little memory, or a loss that is not finite.
pub fn measure(bench: &Bench) -> anyhow::Result<Speed> {
    let mut config = Config {
        model: bench.model.clone(),
        ..Config::default()
    };
    config.train.segment = bench.segment;
    config.validate()?;
    device::check(&bench.device, &bench.model)?;
    device::check_segment(&bench.device, bench.segment)?;
    let mut run = Run::new(bench)?;
    let first = run.step()?;
    for _ in 1..WARM_UP {
        run.step()?;
    }
    let (mut seconds, mut last) = (Vec::new(), first);
    let started = Instant::now();
    while seconds.len() < 2 || started.elapsed() < bench.time {
        let step = Instant::now();
        last = run.step()?;
        seconds.push(step.elapsed().as_secs_f64());
    }
    ensure!(last.is_finite(), "the loss is not finite");
    // A step that waits after each phase needs the whole graph at once.
    let (phases, kernels) = match bench.segment {
        0 => run.split()?,
        _ => ([0.0; 3], Kernels::new()),
    };
    let steps = seconds.len() as u64;
    seconds.sort_by(f64::total_cmp);
    let flops = flops_per_token(&bench.model);
    let rate = (bench.batch * bench.context) as f64 / seconds[seconds.len() / 2];
    Ok(Speed {
        parameters: run.vars.iter().map(|(_, var)| var.elem_count()).sum(),
        batch: bench.batch,
        context: bench.context,
        segment: bench.segment,
        peak_memory_bytes: process::peak_memory(),
        peak_gpu_memory_bytes: gpu_memory(&bench.device),
        steps,
        tokens_per_second: rate,
        flops_per_token: flops,
        tflops: rate * flops / 1e12,
        losses: [first, last],
        phases,
        kernels,
    })
}

#[cfg(feature = "cuda")]
fn gpu_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cuda(device) => crate::ops::cuda::device::peak_memory(device),
        _ => None,
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu_memory(_device: &Device) -> Option<u64> {
    None
}

struct Run {
    device: Device,
    vars: Vec<(String, candle_core::Var)>,
    model: Model,
    optimiser: AdamW,
    plain: Option<PlainModel>,
    batch: Batch,
    segment: usize,
    steps: u64,
}

impl Run {
    fn new(bench: &Bench) -> anyhow::Result<Self> {
        let c = &bench.model;
        let vars = model::to_device(model::init(c, 1)?, &bench.device)?;
        let mut rng = Rng::new(1, 1);
        let len = bench.batch * bench.context;
        let mut draw = || -> Vec<u32> {
            (0..len)
                .map(|_| rng.below(c.vocab_size as u64) as u32)
                .collect()
        };
        Ok(Self {
            device: bench.device.clone(),
            model: Model::from_vars(c, &vars)?,
            optimiser: AdamW::new(&TrainConfig::default(), &vars, treatments(c))?,
            plain: bench
                .plain
                .then(|| PlainModel::from_vars(c, &vars))
                .transpose()?,
            vars,
            batch: Batch {
                rows: bench.batch,
                len: bench.context,
                tokens: draw(),
                targets: draw(),
            },
            segment: bench.segment,
            steps: 0,
        })
    }

    /// One step; returns the loss, for which the CPU waits.
    fn step(&mut self) -> anyhow::Result<f64> {
        let (loss, grads) = match &self.plain {
            Some(plain) => {
                let loss = mean_loss(&plain.forward(&input(&self.batch)?)?, &self.batch.targets)?;
                (f64::from(loss.to_scalar::<f32>()?), loss.backward()?)
            }
            None => gradients(&self.model, &self.vars, &self.batch, self.segment, None)?,
        };
        self.steps += 1;
        self.optimiser.step(&self.vars, &grads, 1e-4, self.steps)?;
        Ok(loss)
    }

    /// A step in three parts, and the time of its kernels.
    fn split(&mut self) -> anyhow::Result<([f64; 3], Kernels)> {
        self.device.synchronize()?;
        let mut at = Instant::now();
        let device = self.device.clone();
        let mut lap = || -> anyhow::Result<f64> {
            device.synchronize()?;
            let seconds = at.elapsed().as_secs_f64();
            at = Instant::now();
            Ok(seconds)
        };
        let input = input(&self.batch)?;
        let loss = match &self.plain {
            Some(plain) => mean_loss(&plain.forward(&input)?, &self.batch.targets)?,
            None => self.model.loss(&input, &self.batch.targets, None, None)?,
        };
        let forward = lap()?;
        let grads = loss.backward()?;
        let backward = lap()?;
        self.steps += 1;
        self.optimiser.step(&self.vars, &grads, 1e-4, self.steps)?;
        let phases = [forward, backward, lap()?];
        drop((loss, grads));
        Ok((phases, self.kernels()?))
    }

    #[cfg(feature = "cuda")]
    fn kernels(&mut self) -> anyhow::Result<Kernels> {
        let Device::Cuda(device) = self.device.clone() else {
            return Ok(Vec::new());
        };
        crate::ops::cuda::device::start_timing();
        self.step()?;
        Ok(crate::ops::cuda::device::end_timing(&device)?)
    }

    #[cfg(not(feature = "cuda"))]
    fn kernels(&mut self) -> anyhow::Result<Kernels> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench() -> Bench {
        Bench {
            model: ModelConfig {
                vocab_size: 40,
                d_model: 16,
                n_layers: 2,
                n_heads: 2,
                d_ffn: 24,
                ..ModelConfig::default()
            },
            batch: 2,
            context: 32,
            segment: 0,
            plain: false,
            time: Duration::ZERO,
            device: Device::Cpu,
        }
    }

    #[test]
    fn steps_are_timed_and_learn() {
        let speed = measure(&bench()).unwrap();
        assert!(speed.tokens_per_second > 0.0 && speed.steps >= 2);
        assert!(speed.losses[1] < speed.losses[0], "{speed:?}");
    }

    #[test]
    fn the_plain_graph_takes_the_same_steps() {
        let [fused, plain] = [false, true].map(|plain| {
            let mut bench = Bench { plain, ..bench() };
            bench.model.gate = true;
            bench.model.ffn_conv = true;
            measure(&bench).unwrap().losses
        });
        assert!((fused[0] - plain[0]).abs() < 1e-4, "{fused:?} {plain:?}");
        assert!(plain[1] < plain[0]);
    }

    #[test]
    fn segments_are_timed_too_and_memory_is_told_where_the_system_tells() {
        let speed = measure(&Bench {
            segment: 16,
            ..bench()
        })
        .unwrap();
        assert!(speed.losses[1] < speed.losses[0], "{speed:?}");
        assert_eq!(speed.peak_memory_bytes.is_some(), cfg!(target_os = "linux"));
    }

    #[test]
    fn operations_are_counted_by_weight() {
        let c = bench().model;
        let block = 4 * 16 * 16 + 3 * 16 * 24;
        let fast = 2 * (6 * 8 * 8 + 2 * 16 * 8);
        let forward = 2 * (40 * 16 + 2 * block) + 2 * fast;
        assert_eq!(flops_per_token(&c), 3.0 * forward as f64);
    }
}
