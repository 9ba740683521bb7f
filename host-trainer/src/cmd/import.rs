//! `bitttt import`

use super::export::Packed;
use super::inspect;
use crate::engine::blob::Blob;
use crate::output::Output;
use crate::process;
use anyhow::{Result, ensure};
use bitttt_export::import::{self, Foreign, Options, Summary};
use clap::{Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Write a model of another format as a .bttt blob
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

const AFTER_HELP: &str = "Examples:
  bitttt import hf-bitnet bitnet-b1.58-2B-4T --out 2b4t.bttt
  bitttt import hf-bitnet bitnet-b1.58-2B-4T --embedding i8 --weights t5 --out small.bttt
  bitttt import gguf ggml-model-i2_s.gguf --out 2b4t.bttt
  bitttt import bit-llama model.bitt --inner-lr 0.1 --out model.bttt";

#[derive(Subcommand, Clone, Debug)]
enum Kind {
    /// BitNet b1.58 of Hugging Face (model_type bitnet): the directory with config.json, tokenizer.json and
    /// model.safetensors
    HfBitnet(Common),
    /// Llama of Hugging Face with ternary weights (model_type llama): Falcon-E, Llama3-8B-1.58, TriLM
    HfLlama {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        rounding: Rounding,
    },
    /// A .gguf file of llama.cpp or of its fork for BitNet: architectures bitnet, bitnet-b1.58 and llama
    Gguf {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        rounding: Rounding,
        /// Kind of machine that I2_S weights were made on, which files do not say: published ones on x86
        #[arg(long, value_name = "MACHINE", value_enum, default_value_t = I2sLayout::X86)]
        i2s: I2sLayout,
    },
    /// The reference TTT-LM in PyTorch (model_type ttt), TTT-Linear and TTT-MLP
    TttLm {
        #[command(flatten)]
        common: Common,
        /// Round matrices to ternary, and report what that loses; else they stay f16 or f32
        #[arg(long)]
        ternarise: bool,
    },
    /// Bit-TTT Engine: a directory with config.json, tokenizer.json and model.safetensors, or a .bitt file
    BitLlama {
        #[command(flatten)]
        common: Common,
        /// Inner learning rate, instead of the config's: its trainer learned with 0.1 and saved 0.01
        #[arg(long, value_name = "F", value_parser = rate)]
        inner_lr: Option<f32>,
    },
}

/// A learning rate.
fn rate(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("a learning rate is a number from 0 on".to_owned()),
    }
}

/// Choices that every format has.
#[derive(clap::Args, Clone, Debug)]
struct Common {
    /// What to import
    path: PathBuf,
    /// The blob
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Storage of ternary weights: t2 (2 bits, fast) or t5 (1.6 bits, small)
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Packed::T2)]
    weights: Packed,
    /// Storage of embedding and head: as-is, i8 (small and fast, rounded with a scale a row), f16 or f32
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Embedding::AsIs)]
    embedding: Embedding,
    /// What matrices multiply, instead of what the model was trained with: i8 (fast) or f32
    #[arg(long, value_name = "TYPE", value_enum)]
    activations: Option<Activations>,
    /// How keys and values are kept; f32 if the checkpoint is f32, else f16
    #[arg(long, value_name = "TYPE", value_enum)]
    kv: Option<KvCache>,
    /// Tokens that attention has room for, for which memory is planned; the model's own, at most 4096
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Import without a tokenizer: the model then takes and gives token ids only
    #[arg(long)]
    no_tokenizer: bool,
}

/// What becomes of matrices that are not ternary.
#[derive(clap::Args, Clone, Debug)]
struct Rounding {
    /// Round matrices that are not ternary, and report what that loses
    #[arg(long, conflicts_with = "float")]
    ternarise: bool,
    /// Keep matrices that are not ternary as f16 or f32
    #[arg(long)]
    float: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Embedding {
    AsIs,
    I8,
    F16,
    F32,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Activations {
    I8,
    F32,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum KvCache {
    F16,
    F32,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum I2sLayout {
    X86,
    Arm,
}

impl Common {
    fn options(&self) -> Options {
        Options {
            weights: self.weights.into(),
            embedding: match self.embedding {
                Embedding::AsIs => import::Embedding::AsIs,
                Embedding::I8 => import::Embedding::I8,
                Embedding::F16 => import::Embedding::F16,
                Embedding::F32 => import::Embedding::F32,
            },
            activations: self.activations.map(|activations| match activations {
                Activations::I8 => import::Activations::I8,
                Activations::F32 => import::Activations::F32,
            }),
            kv: self.kv.map(|kv| match kv {
                KvCache::F16 => import::KvCache::F16,
                KvCache::F32 => import::KvCache::F32,
            }),
            context: self.context,
            needs_tokenizer: !self.no_tokenizer,
            ..Options::default()
        }
    }
}

impl Rounding {
    fn matrices(&self) -> import::Matrices {
        match (self.ternarise, self.float) {
            (true, _) => import::Matrices::Ternarise,
            (_, true) => import::Matrices::Float,
            _ => import::Matrices::AsTheyAre,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
struct Report {
    out: PathBuf,
    source: String,
    bytes: usize,
    fingerprint: String,
    parameters: u64,
    tokenizer: bool,
    chat_template: bool,
    #[serde(flatten)]
    summary: Summary,
    seconds: f64,
    /// The most memory that the process took.
    peak_memory_bytes: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// A checkpoint that is not whole or cannot be represented, a file that cannot be written; nothing is left of it then.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let common = match &args.kind {
        Kind::HfBitnet(common) => common,
        Kind::HfLlama { common, .. }
        | Kind::Gguf { common, .. }
        | Kind::TttLm { common, .. }
        | Kind::BitLlama { common, .. } => common,
    };
    let mut options = common.options();
    let model = match &args.kind {
        Kind::HfBitnet(_) => import::hf_bitnet::open(&common.path, &options)?,
        Kind::HfLlama { rounding, .. } => {
            options.matrices = rounding.matrices();
            import::hf_llama::open(&common.path, &options)?
        }
        Kind::Gguf { rounding, i2s, .. } => {
            options.matrices = rounding.matrices();
            options.i2s = match i2s {
                I2sLayout::X86 => import::I2sLayout::X86,
                I2sLayout::Arm => import::I2sLayout::Arm,
            };
            import::gguf::open(&common.path, &options)?
        }
        Kind::TttLm { ternarise, .. } => {
            if *ternarise {
                options.matrices = import::Matrices::Ternarise;
            }
            import::ttt_lm::open(&common.path, &options)?
        }
        Kind::BitLlama { inner_lr, .. } => {
            options.inner_lr = *inner_lr;
            import::bit_llama::open(&common.path, &options)?
        }
    };
    write(common, &options, &model, out)
}

fn write(common: &Common, options: &Options, model: &Foreign<'_>, out: &Output) -> Result<()> {
    let start = Instant::now();
    let bar = ProgressBar::new(model.source.bytes());
    let template = "{bar:30} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template)?);
    let (summary, described) = model.save::<_, anyhow::Error>(
        &common.out,
        options,
        |bytes| bar.inc(bytes),
        |file| {
            bar.finish_and_clear();
            let blob = Blob::of_file(file)?;
            ensure!(
                bitttt_export::checksums_are_right(file)?,
                "what was written is not what was meant: check the disk and import again"
            );
            Ok(inspect::describe(&blob.model(), blob.bytes().len()))
        },
    )?;
    let report = Report {
        out: common.out.clone(),
        source: model.metadata.source.clone(),
        bytes: described.bytes,
        fingerprint: described.fingerprint,
        parameters: described.parameters,
        tokenizer: model.metadata.tokenizer.is_some(),
        chat_template: model.metadata.chat_template.is_some(),
        summary,
        seconds: start.elapsed().as_secs_f64(),
        peak_memory_bytes: process::peak_memory(),
    };
    say(&report, out);
    if let Some(note) = &model.metadata.note {
        out.say(format_args!("note: {note}"));
    }
    out.result(&report)
}

/// The report for people.
fn say(report: &Report, out: &Output) {
    let summary = &report.summary;
    out.say(format_args!(
        "wrote {}: {} parameters, {} of them ternary, {} bytes, in {:.1} s ({:.0} MB/s)",
        report.out.display(),
        report.parameters,
        summary.ternary_weights,
        report.bytes,
        report.seconds,
        summary.source_bytes as f64 / report.seconds / 1e6
    ));
    for (role, loss) in &summary.losses {
        out.say(format_args!(
            "rounded {role} to ternary: relative error {:.1}%",
            loss * 100.0
        ));
    }
    let saved = summary
        .embedding_bytes
        .saturating_sub(summary.embedding_bytes_i8);
    if saved > 0 {
        out.say(format_args!(
            "embedding and head take {} bytes; --embedding i8 would save {saved} of them and read them faster, rounded",
            summary.embedding_bytes
        ));
    }
}
