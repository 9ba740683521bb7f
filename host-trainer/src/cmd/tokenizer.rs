//! `bitttt tokenizer`: trains a byte-level BPE, or collects an alphabet.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

use crate::data::{open_text, text};
use crate::engine::text::read_bytes;
use crate::output::Output;
use crate::tokenizer::{SEPARATOR, Tokenizer};

/// Trains a byte-level BPE tokenizer on text files, or collects their alphabet
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bitttt tokenizer --data corpus.txt --vocab-size 1024 --out tokenizer.json\n  \
bitttt tokenizer --data corpus.txt --alphabet --out letters.json"
)]
pub struct Args {
    /// Text files
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Number of tokens, at least 257 (the bytes and the document separator)
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub vocab_size: usize,
    /// One token for each byte that occurs and one for all others: the smallest embedding for a microcontroller
    #[arg(long, conflicts_with = "vocab_size")]
    pub alphabet: bool,
    /// Every byte of the files is text, separators too: for `prepare --split-bytes`
    #[arg(long, requires = "alphabet", conflicts_with = "lossy")]
    pub raw: bool,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace bytes that are not UTF-8 instead of refusing them
    #[arg(long)]
    pub lossy: bool,
}

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    vocab_size: usize,
    merges: usize,
    fingerprint: String,
}

/// Runs the command.
///
/// # Errors
/// When a file is missing, empty, not UTF-8, or the vocabulary is too small.
pub fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let tokenizer = if args.alphabet {
        alphabet(args)?
    } else {
        train(args)?
    };
    tokenizer.save(&args.out)?;
    output.say(format_args!(
        "{}: {} tokens, {} merges",
        args.out.display(),
        tokenizer.vocab_size(),
        tokenizer.merges().len()
    ));
    output.result(&Report {
        out: args.out.clone(),
        vocab_size: tokenizer.vocab_size(),
        merges: tokenizer.merges().len(),
        fingerprint: format!("{:016x}", tokenizer.fingerprint()),
    })
}

fn train(args: &Args) -> anyhow::Result<Tokenizer> {
    let mut texts = Vec::new();
    read(args, &mut |text| texts.push(text.to_owned()))?;
    Tokenizer::train(texts.iter().map(String::as_str), args.vocab_size)
}

fn alphabet(args: &Args) -> anyhow::Result<Tokenizer> {
    let mut letters = BTreeSet::new();
    if args.raw {
        for path in &args.data {
            letters.extend(read_bytes(path)?);
        }
    } else {
        read(args, &mut |text| letters.extend(text.bytes()))?;
    }
    Tokenizer::alphabet(&letters)
}

/// Calls `f` with the texts between separators, which may come in parts.
fn read(args: &Args, f: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    for path in &args.data {
        text::stream(open_text(path)?, args.lossy, &mut |chunk, _| {
            chunk.split(SEPARATOR).for_each(&mut *f);
            Ok(())
        })
        .with_context(|| path.display().to_string())?;
    }
    Ok(())
}
