//! Text as documents of tokens, and where in them facts are asked back.

use super::text::TextTokenizer;
use crate::tokenizer::SEPARATOR;
use anyhow::{Context as _, Result};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A document as tokens, with the places where a private fact is asked back.
#[derive(Clone, Debug)]
pub struct Document {
    /// Tokens, without the document token in front.
    pub tokens: Vec<u32>,
    /// Bytes of its text.
    pub bytes: usize,
    /// Whether a separator follows, which then is a target too.
    pub ends: bool,
    /// First tokens that are read but not counted, nor are their bytes.
    pub skip: usize,
    /// Token ranges of recall values.
    pub recall: Vec<Range<usize>>,
}

/// Recall values of a text are listed beside it: `FILE.recall`, a line `start end` (bytes) for each.
pub fn recall_file(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".recall");
    name.into()
}

/// Byte ranges of a recall file; empty if there is none.
///
/// # Errors
/// A line that is not two ascending numbers.
pub fn read_recall(data: &Path) -> Result<Vec<Range<usize>>> {
    let path = recall_file(data);
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(Vec::new());
    };
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?;
        Some(start.parse().ok()?..end.parse().ok()?)
    };
    let parse = |(i, line)| {
        range(line)
            .with_context(|| format!("{} line {}: expected `start end`", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

/// Cuts a text into documents and encodes them. `recall` holds ascending byte ranges of `text`.
///
/// # Errors
/// What an imported tokenizer objects to.
pub fn documents(
    tokenizer: &TextTokenizer<'_>,
    text: &str,
    recall: &[Range<usize>],
) -> Result<Vec<Document>> {
    let mut at = 0;
    let mut documents = Vec::new();
    while at < text.len() {
        let rest = &text[at..];
        let end = rest.find(SEPARATOR);
        let body = &rest[..end.unwrap_or(rest.len())];
        let trimmed = body.trim_start_matches('\n'); // newlines behind a separator belong to it
        let start = at + body.len() - trimmed.len();
        let body = trimmed;
        if !body.is_empty() {
            let inside = recall
                .iter()
                .filter(|r| r.start >= start && r.end <= start + body.len());
            let inside: Vec<_> = inside.map(|r| r.start - start..r.end - start).collect();
            documents.push(document(tokenizer, body, &inside, end.is_some())?);
        }
        at += end.map_or(rest.len(), |end| end + SEPARATOR.len());
    }
    Ok(documents)
}

fn document(
    tokenizer: &TextTokenizer<'_>,
    text: &str,
    recall: &[Range<usize>],
    ends: bool,
) -> Result<Document> {
    let tokens = tokenizer.encode(text)?;
    let mut at = 0;
    let ends_at = tokens.iter().enumerate().map(|(i, &token)| {
        at += match i {
            0 => tokenizer.decode_text(&[token]).len(),
            _ => tokenizer.decode(token).len(),
        };
        at
    });
    let ends_at: Vec<usize> = ends_at.collect();
    let last = ends_at.len().saturating_sub(1);
    let token_at = |byte: usize| ends_at.partition_point(|&end| end <= byte).min(last);
    let recall = recall
        .iter()
        .map(|r| token_at(r.start)..token_at(r.end - 1) + 1)
        .collect();
    Ok(Document {
        tokens,
        bytes: text.len(),
        ends: ends && tokenizer.ends_documents(),
        skip: 0,
        recall,
    })
}

/// Makes a document of every `bytes` bytes; the last one may be shorter.
///
/// # Errors
/// A character that is cut, where the tokenizer is an imported one.
pub fn split(
    tokenizer: &TextTokenizer<'_>,
    text: &[u8],
    bytes: NonZeroUsize,
) -> Result<Vec<Document>> {
    let document = |text: &[u8]| {
        Ok(Document {
            tokens: tokenizer.encode_bytes(text)?,
            bytes: text.len(),
            ends: false,
            skip: 0,
            recall: Vec::new(),
        })
    };
    text.chunks(bytes.get()).map(document).collect()
}

/// Leaves the first `count` tokens of every document out of the figures.
pub fn skip(documents: &mut [Document], count: usize, tokenizer: &TextTokenizer<'_>) {
    for document in documents {
        let skipped = &document.tokens[..count.min(document.tokens.len())];
        let bytes = tokenizer.decode_text(skipped).len();
        document.bytes -= bytes.min(document.bytes);
        document.skip = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitttt_core::Model;
    use bitttt_core::format::DType;
    use bitttt_export::AlignedCopy;
    use bitttt_export::random::{FULL_LAYER, blueprint, small_config};

    #[test]
    fn documents_are_cut_at_separators_and_recall_lands_on_tokens() {
        let blob = blueprint(&small_config(), &[FULL_LAYER; 2], DType::T2, 1);
        let bytes = AlignedCopy::of(&blob.to_bytes().unwrap());
        let tokenizer = TextTokenizer::of(&Model::from_bytes(bytes.bytes()).unwrap()).unwrap();
        let text = "Ada Varga.<|endoftext|>\nBo Kim.<|endoftext|>\n";
        let found = documents(&tokenizer, text, &[4..9, 27..30]).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].bytes, found[0].ends), (10, true));
        assert_eq!(found[0].recall.as_slice(), std::slice::from_ref(&(4..9)));
        assert_eq!((found[1].bytes, found[1].ends), (7, true));
        assert_eq!(found[1].recall.as_slice(), std::slice::from_ref(&(3..6)));
    }
}
