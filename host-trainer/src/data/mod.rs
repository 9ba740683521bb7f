//! From files to batches: text to tokens, tokens on disk or in memory, rows by step number.

pub mod batch;
pub mod shuffle;
pub mod source;
pub mod store;
pub mod text;

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
