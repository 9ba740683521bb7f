//! `bitttt corpus`: writes the built-in synthetic corpus.

use std::path::PathBuf;

use serde::Serialize;

use crate::corpus::Corpus;
use crate::output::Output;

/// Writes the built-in corpus: short documents whose later sentences need earlier facts
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bitttt corpus --out corpus.txt --bytes 2000000 --seed 1\n\n\
Beside FILE it writes FILE.recall: `start end` byte offsets of every surname at its second and later \
mention, one a line."
)]
pub struct Args {
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Least number of bytes; the last document is written whole
    #[arg(long, value_name = "N", default_value_t = 2_000_000)]
    pub bytes: usize,
    /// Seed: the same seed gives the same corpus
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    recall: PathBuf,
    bytes: usize,
    recall_values: usize,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be written.
pub fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let corpus = Corpus::generate(args.bytes, args.seed);
    let recall = corpus.save(&args.out)?;
    output.say(format_args!(
        "{}: {} bytes, {} recall values in {}",
        args.out.display(),
        corpus.text.len(),
        corpus.recall.len(),
        recall.display()
    ));
    output.result(&Report {
        bytes: corpus.text.len(),
        recall_values: corpus.recall.len(),
        out: args.out.clone(),
        recall,
    })
}
