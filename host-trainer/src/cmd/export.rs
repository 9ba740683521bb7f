//! `bitttt export`

use crate::engine::export::{Report, Storage, Trained, write};
use crate::output::Output;
use crate::tokenizer::SEPARATOR;
use crate::train::checkpoint::{self, Checkpoint};
use anyhow::{Context as _, Result, ensure};
use bitttt_core::format::DType;
use std::path::{Path, PathBuf};

/// Write a trained model as a .bttt blob, after checking the core against the trainer on held-out text
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Example:\n  bitttt export --checkpoint run --out model.bttt --weights t5")]
pub struct Args {
    /// Directory that `bitttt train` wrote
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// The blob
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Storage of ternary weights: t2 (2 bits, fast) or t5 (1.6 bits, small)
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Packed::T2)]
    pub weights: Packed,
    /// For the smallest devices: gains, convolutions and inner rates in 16 bits, no metadata
    #[arg(long)]
    pub compact: bool,
    /// Text to compare on, instead of what `train` held out
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
}

/// Storage types of ternary weights.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Packed {
    /// 2 bits a weight.
    T2,
    /// Five weights a byte.
    T5,
}

impl From<Packed> for DType {
    fn from(packed: Packed) -> Self {
        match packed {
            Packed::T2 => Self::T2,
            Packed::T5 => Self::T5,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// No whole checkpoint, engines that disagree, a file that cannot be written.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let report = export(args)?;
    let p = &report.parity;
    out.say(format!(
        "core against trainer on {} held-out tokens: largest logit difference {:.5}, top-1 agreement {:.2}%, loss {:.4} and {:.4}",
        p.positions,
        p.max_logit_difference,
        p.top1_agreement * 100.0,
        p.loss_core,
        p.loss_trainer
    ));
    out.say(format!(
        "wrote {} ({} bytes, model {})",
        args.out.display(),
        report.bytes,
        report.fingerprint
    ));
    out.result(&report)
}

/// Lays out, compares, writes.
///
/// # Errors
/// As [`run`].
pub fn export(args: &Args) -> Result<Report> {
    let mut saved = Checkpoint::load(&args.checkpoint)?;
    saved.config.data.clear(); // where the training's files lie is nothing to ship
    let rows = held_out(args, &saved)?;
    let trained = Trained {
        config: &saved.config,
        weights: &saved.weights,
        tokenizer: saved.tokenizer.as_ref(),
        steps: saved.step,
    };
    let storage = Storage {
        packed: args.weights.into(),
        halves: args.compact,
    };
    write(&trained, &rows, storage, &args.out)
}

/// Rows to compare on, each starting with the document token.
fn held_out(args: &Args, saved: &Checkpoint) -> Result<Vec<Vec<u32>>> {
    let Some(path) = &args.data else {
        return checkpoint::held_out(&args.checkpoint);
    };
    let text = crate::engine::text::read(path, false)?;
    let rows: Result<Vec<_>> = text
        .split(SEPARATOR)
        .filter(|d| !d.trim().is_empty())
        .take(16)
        .map(|d| row(d, saved))
        .collect();
    let rows = rows.with_context(|| path.display().to_string())?;
    ensure!(
        !rows.is_empty(),
        "{} has no text to compare on; give a longer file",
        Path::display(path)
    );
    Ok(rows)
}

fn row(document: &str, saved: &Checkpoint) -> Result<Vec<u32>> {
    let mut row = vec![0];
    let document = document.trim_start_matches('\n');
    row.extend(saved.tokenizer()?.encode(document)?);
    row.truncate(saved.config.train.context + 1);
    Ok(row)
}
