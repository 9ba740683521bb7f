//! Text files of any size as documents, without reading them whole.
//!
//! A text is cut into chunks only between two pieces of the tokenizer and never inside a separator, so chunks tokenise
//! exactly like the whole. Memory is bounded whatever the text is: one without a single space is cut all the same.

use std::io::Read;

use anyhow::{Context as _, anyhow};
use bitttt_core::tokenizer::next_piece;
use rayon::prelude::*;

use super::store::Builder;
use crate::tokenizer::{SEPARATOR, Tokenizer};

/// Bytes read at once. All that is buffered is a chunk, its tokens, and what was left of the chunk before.
const CHUNK: usize = 4 << 20;
/// Bytes that one thread tokenises at once.
const SEGMENT: usize = 64 << 10;
/// No cut between pieces lies nearer to the end of what is known of a text: its last piece (257 bytes at most) and a
/// separator may still go on.
const OPEN_END: usize = 512;

/// Calls `f` with consecutive chunks of the text and the bytes read so far.
///
/// # Errors
/// When reading fails, or the bytes are not UTF-8 and `lossy` is off (the offset is named).
pub fn stream(
    mut reader: impl Read,
    lossy: bool,
    f: &mut dyn FnMut(&str, u64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut bytes, mut text, mut read) = (Vec::new(), String::new(), 0u64);
    let mut fresh = true;
    loop {
        let got = (&mut reader)
            .take(CHUNK as u64)
            .read_to_end(&mut bytes)
            .context("cannot read")?;
        read += got as u64;
        decode(&mut bytes, &mut text, lossy, got == 0)
            .map_err(|left| not_utf8(read - left as u64))?;
        let cut = match got {
            0 => text.len(),
            _ => last_cut(&text, fresh),
        };
        if cut > 0 {
            f(&text[..cut], read)?;
            fresh = starts_document(&text[..cut], fresh);
            text.drain(..cut);
        }
        if got == 0 {
            return Ok(());
        }
    }
}

/// Moves what is UTF-8 from `bytes` to `text`; the beginning of a character stays for the next time, unless this is
/// the last. The error is the number of bytes from the first bad one on.
fn decode(bytes: &mut Vec<u8>, text: &mut String, lossy: bool, last: bool) -> Result<(), usize> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let error = match std::str::from_utf8(rest) {
            Ok(whole) => {
                text.push_str(whole);
                bytes.clear();
                return Ok(());
            }
            Err(error) => error,
        };
        let (good, bad) = rest.split_at(error.valid_up_to());
        text.push_str(std::str::from_utf8(good).expect("just checked"));
        done += good.len();
        let skip = match error.error_len() {
            None if !last => break,
            Some(len) => len,
            None => bad.len(),
        };
        if !lossy {
            return Err(bad.len());
        }
        text.push(char::REPLACEMENT_CHARACTER);
        done += skip;
    }
    bytes.drain(..done);
    Ok(())
}

fn not_utf8(at: u64) -> anyhow::Error {
    anyhow!("not UTF-8 at byte {at}; convert it, or pass --lossy to replace such bytes")
}

/// Whether the text behind `chunk` begins a document, given whether `chunk` did; newlines there belong to the separator.
fn starts_document(chunk: &str, fresh: bool) -> bool {
    let text = chunk.trim_end_matches('\n');
    if text.is_empty() {
        fresh
    } else {
        text.ends_with(SEPARATOR)
    }
}

fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
}

/// The last place to cut a text that goes on: where, near its end, a white character follows another one, or else between
/// two pieces. 0 when the text is too short to tell.
fn last_cut(text: &str, fresh: bool) -> usize {
    let near = text.len().saturating_sub(SEGMENT);
    let boundary = |pair: &[u8]| !is_white(pair[0]) && is_white(pair[1]);
    let white = text.as_bytes()[near..].windows(2).rposition(boundary);
    white.map_or_else(|| last_piece(text, fresh), |at| near + at + 1)
}

/// The last place between two pieces, counted from the last separator on: Japanese prose has no spaces, and a line of
/// digits or blanks may be as long as the file.
fn last_piece(text: &str, fresh: bool) -> usize {
    let (mut at, fresh) = match text.rfind(SEPARATOR) {
        Some(separator) => (separator + SEPARATOR.len(), true),
        None => (0, fresh),
    };
    if fresh {
        at = text.len() - text[at..].trim_start_matches('\n').len();
    }
    let end = text.len().saturating_sub(OPEN_END);
    while at < end {
        let next = at + next_piece(&text.as_bytes()[at..]);
        if next > end {
            break;
        }
        at = next;
    }
    at
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

/// Cuts a text without separators into pieces of at most [`SEGMENT`] bytes that tokenise independently.
fn segments(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let window = &text[..text.floor_char_boundary(SEGMENT)];
        let cut = match window.len() == text.len() {
            true => text.len(),
            false => last_cut(window, false),
        };
        let (head, tail) = text.split_at(cut);
        text = tail;
        Some(head)
    })
}
