//! Series as text: a byte a sample, `<|endoftext|>` between documents.

use crate::series::{Series, Source};
use anyhow::Result;
use bitttt_sensor::ALPHABET;
use std::path::PathBuf;

const SEPARATOR: &[u8] = b"<|endoftext|>";

/// What `text` takes.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Cut series into documents of so many samples, each read from a fresh start in training
    #[arg(long, value_name = "N", default_value_t = 4096)]
    document: usize,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the file. Its first document is the alphabet, so that `bitttt tokenizer --alphabet` finds every symbol whether
/// or not a sample has it.
pub fn write(args: &Args) -> Result<()> {
    let mut text = ALPHABET.to_vec();
    for series in args.source.read()? {
        for document in symbols(&series).chunks(args.document.max(1)) {
            text.extend_from_slice(SEPARATOR);
            text.extend_from_slice(document);
        }
    }
    std::fs::write(&args.out, &text)?;
    println!("{}: {} bytes", args.out.display(), text.len());
    Ok(())
}

fn symbols(series: &Series) -> Vec<u8> {
    let byte = |&sample| ALPHABET[usize::from(series.quantizer.symbol(sample))];
    series.samples.iter().map(byte).collect()
}
