//! `bitttt prepare`: text to a token file that training maps instead of reading.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::data::store::Builder;
use crate::data::{open_text, read_into, split_into};
use crate::output::Output;
use crate::tokenizer::Tokenizer;

/// Tokenises text files into one token file; the text may be larger than memory
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bitttt prepare --data corpus.txt --tokenizer tokenizer.json --out corpus.bin"
)]
pub struct Args {
    /// Text files; `<|endoftext|>` separates documents
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Tokenizer file, or `bytes`
    #[arg(long, value_name = "FILE", default_value = "bytes")]
    pub tokenizer: String,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace bytes that are not UTF-8 instead of refusing them
    #[arg(long)]
    pub lossy: bool,
    /// Make a document of every N bytes, separators among them, instead of cutting at separators
    #[arg(long, value_name = "N", conflicts_with = "lossy")]
    pub split_bytes: Option<NonZeroUsize>,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    tokens: u64,
    documents: usize,
    bytes: u64,
    seconds: f64,
    bytes_per_second: f64,
}

/// Runs the command.
///
/// # Errors
/// When a file is missing, empty or not UTF-8, or the disk is full; nothing is left of the output.
pub fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let started = Instant::now();
    let tokenizer = Tokenizer::open(&args.tokenizer)?;
    let mut bytes = 0;
    for path in &args.data {
        bytes += open_text(path)?.metadata()?.len();
    }
    let bar = ProgressBar::new(bytes);
    bar.set_style(ProgressStyle::with_template(
        "{bar:30} {percent}%, {bytes_per_sec}, {eta} left",
    )?);
    let mut builder = Builder::to_file(&args.out, tokenizer.vocab_size())?;
    let mut before = 0;
    for path in &args.data {
        let progress = &mut |end| bar.set_position(before + end);
        match args.split_bytes {
            Some(n) => split_into(path, &tokenizer, n, &mut builder, progress)?,
            None => read_into(path, &tokenizer, args.lossy, &mut builder, progress)?,
        }
        before += path.metadata()?.len();
    }
    let (tokens, documents) = (builder.tokens(), builder.documents());
    builder.finish_file(&tokenizer)?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    output.say(format_args!(
        "{}: {tokens} tokens in {documents} documents, {:.2} bytes a token, {:.1} MB/s",
        args.out.display(),
        bytes as f64 / tokens as f64,
        bytes as f64 / seconds / 1e6
    ));
    output.result(&Report {
        out: args.out.clone(),
        tokens,
        documents,
        bytes,
        seconds,
        bytes_per_second: bytes as f64 / seconds,
    })
}
