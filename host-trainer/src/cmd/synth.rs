//! `bitttt synth`

use super::export::Packed;
use super::inspect;
use crate::engine::blob::Blob;
use crate::output::Output;
use crate::shape::Shape;
use anyhow::Result;
use bitttt_core::format::Mixer;
use bitttt_export::{Outline, Vocabulary, synth};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Write a model of any shape with random weights, to measure speed without training
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// tiny, small, 1b, 2b4t, or a TOML file with the fields of a training config's `[model]` table
    #[arg(long, value_name = "NAME|FILE")]
    pub shape: String,
    /// The blob
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Storage of ternary weights: t2 (2 bits, fast) or t5 (1.6 bits, small)
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Packed::T2)]
    pub weights: Packed,
    /// Mixer of every layer, instead of the shape's own
    #[arg(long, value_name = "KIND", value_parser = ["attention", "ttt-linear", "ttt-mlp", "ttt-lite"])]
    pub mixer: Option<String>,
    /// Seed: the same seed gives the same model
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

const AFTER_HELP: &str = "Examples:
  bitttt synth --shape 1b --out 1b.bttt
  bitttt synth --shape small --mixer ttt-linear --weights t5 --out small.bttt

The named shapes have attention with a context of 4096 and the matrices of a Llama, one for one:
  tiny  d 256,  4 layers,  4 heads,              ffn 1024, vocabulary 4096
  small d 768,  12 layers, 12 heads,             ffn 2048, vocabulary 32000
  1b    d 2048, 24 layers, 32 heads (8 for k v), ffn 5632, vocabulary 32000
  2b4t  d 2560, 30 layers, 20 heads (5 for k v), ffn 6912, vocabulary 128256, head tied to the embedding";

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    out: PathBuf,
    shape: String,
    mixers: String,
    bytes: usize,
    fingerprint: String,
    parameters: u64,
    ternary_weights: u64,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// An unknown or impossible shape, a file that cannot be written.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let start = Instant::now();
    let mut shape = Shape::of(&args.shape)?;
    let mixer = |name: &String| Mixer::ALL.into_iter().find(|mixer| mixer.name() == name);
    if let Some(mixer) = args.mixer.as_ref().and_then(mixer) {
        shape = shape.with_mixer(mixer);
    }
    let tokenizer = Vocabulary::bytes();
    let fits = tokenizer.tokens.len() <= shape.config.vocab_size as usize;
    let metadata = json!({"synth": {"shape": &args.shape, "seed": args.seed}}).to_string();
    let outline = Outline {
        config: &shape.config,
        layers: &shape.layers,
        tokenizer: fits.then_some(&tokenizer),
        metadata: &metadata,
    };
    let packed = args.weights.into();
    let bar = ProgressBar::new(synth::drawn_bytes(&outline, packed));
    let template = "{bar:30} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template)?);
    let described = outline.save::<_, anyhow::Error>(
        &args.out,
        |writer| {
            Ok(synth::fill(writer, packed, args.seed, |done| {
                bar.inc(done)
            })?)
        },
        |file| {
            bar.finish_and_clear();
            let blob = Blob::of_file(file)?;
            Ok(inspect::describe(&blob.model(), blob.bytes().len()))
        },
    )?;
    let report = Report {
        out: args.out.clone(),
        shape: args.shape.clone(),
        mixers: shape.mixers(),
        bytes: described.bytes,
        fingerprint: described.fingerprint,
        parameters: described.parameters,
        ternary_weights: described.ternary_weights,
        seconds: start.elapsed().as_secs_f64(),
    };
    out.say(format!(
        "wrote {}: {}, {} parameters, {} of them ternary, {} bytes, in {:.1} s",
        args.out.display(),
        report.mixers,
        report.parameters,
        report.ternary_weights,
        report.bytes,
        report.seconds
    ));
    out.result(&report)
}
