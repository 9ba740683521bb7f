//! From files to batches: text to tokens, tokens on disk or in memory, rows by step number.

pub mod batch;
pub mod store;
pub mod text;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::tokenizer::Tokenizer;
use store::{Builder, Tokens};

/// Opens training data: one prepared token file, or texts that are tokenised now, into memory.
///
/// # Errors
/// When a file is missing, empty, not UTF-8 (unless `lossy`), or was prepared with another tokenizer.
pub fn open(paths: &[PathBuf], tokenizer: &Tokenizer, lossy: bool) -> anyhow::Result<Tokens> {
    if let [path] = paths
        && store::is_token_file(path)?
    {
        return Tokens::open(path, tokenizer);
    }
    let mut builder = Builder::in_memory();
    for path in paths {
        read_into(path, tokenizer, lossy, &mut builder, &mut |_| {})?;
    }
    builder.finish_in_memory()
}

/// Tokenises the documents of a text file into `builder`, as a stream; `progress` is told the bytes
/// read so far.
///
/// # Errors
/// As [`open`].
pub fn read_into(
    path: &Path,
    tokenizer: &Tokenizer,
    lossy: bool,
    builder: &mut Builder,
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let file = open_text(path)?;
    text::stream(file, lossy, &mut |chunk, end| {
        progress(end);
        text::encode_chunk(chunk, tokenizer, builder)
    })
    .with_context(|| format!("{}", path.display()))?;
    builder.end_document()
}

/// Opens a text file that is there and not empty.
///
/// # Errors
/// When it is missing or empty.
pub fn open_text(path: &Path) -> anyhow::Result<std::fs::File> {
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = file
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    ensure!(
        bytes > 0,
        "{} is empty; give a file with text in it",
        path.display()
    );
    Ok(file)
}

#[cfg(test)]
mod tests;
