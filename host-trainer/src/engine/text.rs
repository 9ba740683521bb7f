//! Text to tokens and back, as a stream.

mod imported;
mod stop;
mod summary;
mod tokenizer;
mod utf8;

pub use stop::{StopText, Written};
pub use summary::summary;
pub use tokenizer::TextTokenizer;
pub use utf8::Utf8Stream;

use crate::data::{open_text, text};
use anyhow::{Context as _, Result};
use std::io::Read as _;
use std::path::Path;

/// Reads a UTF-8 file.
///
/// # Errors
/// A missing or empty file; bytes that are not UTF-8 (with their place), unless `lossy`.
pub fn read(path: &Path, lossy: bool) -> Result<String> {
    let mut all = String::new();
    text::stream(open_text(path)?, lossy, &mut |chunk, _| {
        all.push_str(chunk);
        Ok(())
    })
    .with_context(|| path.display().to_string())?;
    Ok(all)
}

/// Reads a file of any bytes.
///
/// # Errors
/// A missing or empty file.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    open_text(path)?
        .read_to_end(&mut all)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(all)
}
