//! Text files of any size as documents, without reading them whole.
//!
//! A file is cut into chunks only where a white character follows another one, so never inside a
//! piece of the tokenizer, a separator or a character: chunks tokenise exactly like the whole.

use std::io::Read;

use anyhow::{Context as _, anyhow};
use rayon::prelude::*;

use super::store::Builder;
use crate::tokenizer::{SEPARATOR, Tokenizer};

const CHUNK: usize = 4 << 20;
const SEGMENT: usize = 64 << 10;

/// Calls `f` with consecutive chunks of the text and the byte offset of each chunk's end.
///
/// # Errors
/// When reading fails, or the bytes are not UTF-8 and `lossy` is off (the offset is named).
pub fn stream(
    mut reader: impl Read,
    lossy: bool,
    f: &mut dyn FnMut(&str, u64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut buffer, mut offset) = (Vec::new(), 0u64);
    loop {
        let got = (&mut reader)
            .take(CHUNK as u64)
            .read_to_end(&mut buffer)
            .context("cannot read")?;
        let cut = if got == 0 {
            buffer.len()
        } else {
            last_cut(&buffer)
        };
        let chunk: Vec<u8> = buffer.drain(..cut).collect();
        if !chunk.is_empty() {
            let text = utf8(&chunk, lossy, offset)?;
            offset += cut as u64;
            f(&text, offset)?;
        }
        if got == 0 {
            return Ok(());
        }
    }
}

fn utf8(bytes: &[u8], lossy: bool, offset: u64) -> anyhow::Result<std::borrow::Cow<'_, str>> {
    if lossy {
        return Ok(String::from_utf8_lossy(bytes));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = offset + e.valid_up_to() as u64;
        anyhow!("not UTF-8 at byte {at}; convert it, or pass --lossy to replace such bytes")
    })?;
    Ok(text.into())
}

fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
}

/// The last place where a white byte follows one that is not; 0 when there is none.
fn last_cut(bytes: &[u8]) -> usize {
    let boundary = |pair: &[u8]| !is_white(pair[0]) && is_white(pair[1]);
    bytes.windows(2).rposition(boundary).map_or(0, |at| at + 1)
}

/// Tokenises a chunk in parallel and appends it; separators end documents.
///
/// # Errors
/// When the tokenizer or the writing fails.
pub fn encode_chunk(
    chunk: &str,
    tokenizer: &Tokenizer,
    builder: &mut Builder,
) -> anyhow::Result<()> {
    let mut fresh = builder.between_documents();
    let mut parts = Vec::new();
    for (i, text) in chunk.split(SEPARATOR).enumerate() {
        if i > 0 {
            parts.push(Part::End);
            fresh = true;
        }
        // Newlines behind a separator belong to it.
        let text = if fresh {
            text.trim_start_matches('\n')
        } else {
            text
        };
        fresh &= text.is_empty();
        parts.extend(segments(text).map(Part::Text));
    }
    let encode = |part: &Part<'_>| match part {
        Part::End => Ok(None),
        Part::Text(text) => tokenizer.encode(text).map(Some),
    };
    let encoded: Vec<_> = parts.par_iter().map(encode).collect::<Result<_, _>>()?;
    for tokens in encoded {
        match tokens {
            Some(tokens) => builder.push(&tokens)?,
            None => builder.end_document()?,
        }
    }
    Ok(())
}

enum Part<'a> {
    Text(&'a str),
    End,
}

/// Cuts a text into pieces of about [`SEGMENT`] bytes that tokenise independently.
fn segments(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let window = text.len().min(SEGMENT);
        let cut = match last_cut(&text.as_bytes()[..window]) {
            _ if window == text.len() => window,
            0 => text.len(),
            cut => cut,
        };
        let (head, tail) = text.split_at(cut);
        text = tail;
        Some(head)
    })
}
