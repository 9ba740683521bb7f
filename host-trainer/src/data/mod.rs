//! From files to batches: text to tokens, tokens on disk or in memory, rows by step number.

pub mod batch;
pub mod shuffle;
pub mod source;
pub mod store;
pub mod text;

use std::io::{BufReader, Read as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use anyhow::{Context as _, ensure};

use crate::config::DataFile;
use crate::tokenizer::Tokenizer;
use source::Source;
use store::{Builder, Tokens};

/// Opens every file of training data.
///
/// # Errors
/// No file at all; as [`open`].
pub fn open_all(
    files: &[DataFile],
    tokenizer: &Tokenizer,
    lossy: bool,
) -> anyhow::Result<Vec<Source>> {
    ensure!(
        !files.is_empty(),
        "there is no data; give files with --data, or as [[data]] in the configuration"
    );
    let source = |file: &DataFile| {
        Ok(Source {
            name: file.path.display().to_string(),
            tokens: open(&file.path, tokenizer, lossy)?,
            weight: file.weight,
        })
    };
    files.iter().map(source).collect()
}

/// Opens training data: a prepared token file, which is mapped, or a text, which is tokenised now, into memory.
///
/// # Errors
/// When a file is missing, empty, not UTF-8 (unless `lossy`), or was prepared with another tokenizer.
pub fn open(path: &Path, tokenizer: &Tokenizer, lossy: bool) -> anyhow::Result<Tokens> {
    if store::is_token_file(path)? {
        return Tokens::open(path, tokenizer);
    }
    let mut builder = Builder::in_memory();
    read_into(path, tokenizer, lossy, &mut builder, &mut |_| {})?;
    builder.finish_in_memory()
}

/// Tokenises the documents of a text file into `builder`, as a stream: one chunk is read while the one before is
/// tokenised and written. `progress` is told the bytes read so far.
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
    std::thread::scope(|scope| {
        let (sender, chunks) = sync_channel::<(String, u64)>(1);
        let reader = scope.spawn(move || {
            text::stream(file, lossy, &mut |chunk, read| {
                Ok(sender.send((chunk.to_owned(), read))?)
            })
        });
        // When this fails the channel closes, and reading with it.
        for (chunk, read) in chunks {
            text::encode_chunk(&chunk, tokenizer, builder)?;
            progress(read);
        }
        reader.join().expect("reading does not panic")
    })
    .with_context(|| path.display().to_string())?;
    builder.end_document()
}

/// Makes a document of every `bytes` bytes of a file, whatever they are; the last one may be shorter. `progress` is told the
/// bytes read so far.
///
/// # Errors
/// When the file is missing or empty, or a token of `tokenizer` is more than one byte.
pub fn split_into(
    path: &Path,
    tokenizer: &Tokenizer,
    bytes: NonZeroUsize,
    builder: &mut Builder,
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    ensure!(
        tokenizer.merges().is_empty(),
        "documents of a number of bytes need a tokenizer of single bytes; pass --tokenizer bytes, or an alphabet"
    );
    let mut file = BufReader::new(open_text(path)?);
    let mut document = Vec::new();
    let mut read = 0;
    loop {
        document.clear();
        let limit = bytes.get() as u64;
        (&mut file)
            .take(limit)
            .read_to_end(&mut document)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if document.is_empty() {
            return Ok(());
        }
        read += document.len() as u64;
        builder.push(&tokenizer.encode_bytes(&document))?;
        builder.end_document()?;
        progress(read);
    }
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
