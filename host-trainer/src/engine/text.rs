//! Text to tokens and back, as a stream.

use crate::data::{open_text, text};
use anyhow::{Context as _, Result};
use bitttt_core::Tokenizer;
use std::io::Read as _;
use std::path::Path;

/// Encodes with the model's own tokenizer.
pub fn encode(tokenizer: &Tokenizer<'_>, text: &[u8]) -> Vec<u32> {
    let mut ids = vec![0; text.len()];
    let len = tokenizer
        .encode(text, &mut ids)
        .expect("one place a byte is enough");
    ids.truncate(len);
    ids
}

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

/// Joins token bytes to characters: a character split over tokens is held back until it is whole.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes a token's bytes; returns the text that is complete now. Bytes that can never become a character
    /// come out as U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend(bytes);
        let whole = match std::str::from_utf8(&self.pending) {
            Ok(_) => self.pending.len(),
            Err(error) => error
                .error_len()
                .map_or(error.valid_up_to(), |_| self.pending.len()),
        };
        let rest = self.pending.split_off(whole);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    /// What is left at the end.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_split_over_tokens_comes_out_whole() {
        let mut stream = Utf8Stream::default();
        let shown: Vec<String> = "aé日".bytes().map(|b| stream.push(&[b])).collect();
        assert_eq!(shown, ["a", "", "é", "", "", "日"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn broken_bytes_are_replaced_and_do_not_block_what_follows() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(&[0xFF]), "\u{FFFD}");
        assert_eq!(stream.push(b"ok"), "ok");
        assert_eq!(stream.push(&[0xE6]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }
}
