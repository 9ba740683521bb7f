//! `bitttt bench-train`: how fast a model of a given shape trains.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::config::{Config, ModelConfig};
use crate::device;
use crate::output::Output;
use crate::train::speed::{Bench, Speed, measure};

/// Measure training of a shape on random tokens: tokens/s, share of the device's arithmetic, where the time goes
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Example:
  bitttt bench-train --shape 125m --device cuda --json

Named shapes, all with TTT-Linear, mini-batches of 16 and a vocabulary of 32000 tied to the head:
  15m   d 288,  6 layers,  6 heads,  ffn 768
  125m  d 768,  12 layers, 12 heads, ffn 2048
  350m  d 1024, 24 layers, 16 heads, ffn 2736")]
pub struct Args {
    /// 15m, 125m, 350m, or a training configuration whose `[model]` table has a vocab_size
    #[arg(long, value_name = "NAME|FILE")]
    pub shape: String,
    /// Rows of a step
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub batch: usize,
    /// Tokens of a row
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub context: usize,
    /// Read rows in segments of N tokens, through which gradients flow; 0 for whole rows
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub segment: usize,
    /// What computes: `fused` for our operations, `plain` for an ordinary Candle graph of the same model (ttt-linear, CPU)
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Graph::Fused)]
    pub graph: Graph,
    /// Time to spend on steps
    #[arg(long, value_name = "F", default_value_t = 20.0)]
    pub seconds: f64,
    /// What the device can do at most, 10^12 operations a second: 989 is an H100's or H200's in bfloat16
    #[arg(long, value_name = "F", default_value_t = 989.0)]
    pub peak_tflops: f64,
    /// Device to train on
    #[arg(long, value_name = "cpu|cuda[:N]", default_value = "cpu")]
    pub device: String,
}

/// What computes a step.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Graph {
    /// Operations with hand-written gradients.
    Fused,
    /// Candle's own operations and gradients.
    Plain,
}

#[derive(Serialize)]
struct Report {
    shape: String,
    device: String,
    peak_tflops: f64,
    /// Model FLOP utilisation.
    utilisation: f64,
    #[serde(flatten)]
    speed: Speed,
}

/// Runs the command.
///
/// # Errors
/// An unknown shape, no such device, too little memory.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    ensure!(
        args.batch > 0,
        "--batch 0 leaves nothing to train on; give at least 1"
    );
    ensure!(
        args.context > 1,
        "--context {} is too short; give at least 2",
        args.context
    );
    ensure!(
        args.seconds.is_finite() && args.seconds > 0.0,
        "--seconds {} must be more than 0",
        args.seconds
    );
    ensure!(
        args.peak_tflops.is_finite() && args.peak_tflops > 0.0,
        "--peak-tflops {} must be more than 0",
        args.peak_tflops
    );
    let speed = measure(&Bench {
        model: shape(&args.shape)?,
        batch: args.batch,
        context: args.context,
        segment: args.segment,
        plain: args.graph == Graph::Plain,
        time: Duration::from_secs_f64(args.seconds),
        device: device::open(&args.device)?,
    })?;
    let report = Report {
        shape: args.shape.clone(),
        device: args.device.clone(),
        peak_tflops: args.peak_tflops,
        utilisation: speed.tflops / args.peak_tflops,
        speed,
    };
    show(&report, out);
    out.result(&report)
}

fn show(report: &Report, out: &Output) {
    let s = &report.speed;
    out.say(format!(
        "{} ({} parameters), {} rows of {} tokens on {}: {:.0} tokens/s, {:.1} TFLOP/s, {:.1}% of {:.0}",
        report.shape,
        s.parameters,
        s.batch,
        s.context,
        report.device,
        s.tokens_per_second,
        s.tflops,
        report.utilisation * 100.0,
        report.peak_tflops
    ));
    if let Some(bytes) = s.peak_memory_bytes {
        out.say(format!("peak memory {:.0} MB", bytes as f64 / 1e6));
    }
    if let Some(bytes) = s.peak_gpu_memory_bytes {
        out.say(format!(
            "peak memory of the GPU {:.0} MB",
            bytes as f64 / 1e6
        ));
    }
    let [forward, backward, optimiser] = s.phases.map(|seconds| seconds * 1e3);
    out.say(format!(
        "forward {forward:.1} ms, backward {backward:.1} ms, optimiser {optimiser:.1} ms; loss {:.3} to {:.3}",
        s.losses[0], s.losses[1]
    ));
    for (kernel, seconds) in &s.kernels {
        out.say(format!("  {kernel:24} {:8.2} ms", seconds * 1e3));
    }
}

fn shape(name: &str) -> Result<ModelConfig> {
    let of = |d_model, n_layers, n_heads, d_ffn| ModelConfig {
        vocab_size: 32_000,
        d_model,
        n_layers,
        n_heads,
        d_ffn,
        ..ModelConfig::default()
    };
    Ok(match name {
        "15m" => of(288, 6, 6, 768),
        "125m" => of(768, 12, 12, 2048),
        "350m" => of(1024, 24, 16, 2736),
        file => {
            let config = Config::load(file.as_ref()).with_context(|| {
                format!("--shape {file} is neither 15m, 125m, 350m nor a configuration")
            })?;
            ensure!(
                config.model.vocab_size > 0,
                "{file} has no model.vocab_size, and there is no tokenizer to take it from; give it"
            );
            config.model
        }
    })
}
