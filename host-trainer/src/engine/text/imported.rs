//! Tokenizers of imported models: a `tokenizer.json` run by the crate `tokenizers`.
//!
//! Encoding is the library's. Decoding is ours, as it must give every token's bytes: a character may be split over tokens,
//! and the library's decoders give whole strings only. Invariant: for text the tokens' bytes joined are what the
//! library's decoder gives, special tokens left out.

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

/// A tokenizer with the bytes of its tokens.
pub struct Imported {
    library: tokenizers::Tokenizer,
    /// Bytes of all tokens, one after the other, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Whether encoding puts a space in front of the text that decoding takes away.
    leading_space: bool,
}

impl Imported {
    /// Builds the tokenizer that a `tokenizer.json` describes.
    ///
    /// # Errors
    /// A description that the library refuses, or a decoder that is of neither known kind.
    pub fn new(json: &Value) -> Result<Self> {
        let text = serde_json::to_vec(json)?;
        let mut library = tokenizers::Tokenizer::from_bytes(text)
            .map_err(|error| anyhow!("the model's tokenizer cannot be read: {error}"))?;
        // Special tokens around a text are the caller's business, and some processors trim offsets.
        library.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        library.with_padding(None);
        library.with_truncation(None).map_err(|e| anyhow!("{e}"))?;
        let kind = Kind::of(json)?;
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let added = library.get_added_tokens_decoder();
        for id in 0..ids(&library) {
            match (added.get(&id), library.id_to_token(id)) {
                (Some(token), _) if token.special => {}
                (Some(token), _) => bytes.extend(token.content.as_bytes()),
                (None, Some(token)) => kind.decode(&token, &mut bytes),
                (None, None) => {}
            }
            ends.push(u32::try_from(bytes.len()).context("the model's tokenizer is too large")?);
        }
        Ok(Self {
            library,
            bytes,
            ends,
            leading_space: kind == Kind::SentencePiece && begins_with_space(json),
        })
    }

    /// Tokens of a text. Special tokens are taken for what they are where the text writes them.
    ///
    /// # Errors
    /// What the library objects to.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.library.encode_fast(text, false);
        Ok(encoding.map_err(|e| anyhow!("{e}"))?.get_ids().to_vec())
    }

    /// Tokens of what follows the first `read` bytes of a text, as they are in the whole text. Where a token lies across the
    /// boundary, what follows is encoded by itself.
    ///
    /// # Errors
    /// As [`Imported::encode`].
    pub fn encode_after(&self, text: &str, read: usize) -> Result<Vec<u32>> {
        let encoding = self.library.encode(text, false);
        let encoding = encoding.map_err(|e| anyhow!("{e}"))?;
        let spans = encoding.get_offsets();
        let first = spans.partition_point(|&(_, end)| end <= read);
        match spans.get(first) {
            Some(&(start, _)) if start < read => self.encode(&text[read..]),
            _ => Ok(encoding.get_ids()[first..].to_vec()),
        }
    }

    /// Bytes of a token; none of special tokens and of ids out of range.
    pub fn decode(&self, token: u32) -> &[u8] {
        let end = |id: usize| self.ends.get(id).map(|&end| end as usize);
        let id = token as usize;
        let start = id.checked_sub(1).map_or(Some(0), end);
        match (start, end(id)) {
            (Some(start), Some(end)) => &self.bytes[start..end],
            _ => &[],
        }
    }

    /// Whether a token is one of those that the description calls special.
    pub fn is_special(&self, token: u32) -> bool {
        let added = self.library.get_added_tokens_decoder();
        added.get(&token).is_some_and(|token| token.special)
    }

    /// Whether the first token of a text has a space in front that is not the text's.
    pub fn leading_space(&self) -> bool {
        self.leading_space
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }
}

/// How tokens write bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A printable character for every byte, as in GPT-2.
    ByteLevel,
    /// A low line for a space, and `<0x..>` for bytes that are in no token.
    SentencePiece,
}

impl Kind {
    /// What the description's decoder undoes, or where it has none what its pre-tokenizer does.
    fn of(json: &Value) -> Result<Self> {
        for part in ["decoder", "pre_tokenizer"] {
            if mentions(&json[part], "ByteLevel") {
                return Ok(Self::ByteLevel);
            }
            if mentions(&json[part], "ByteFallback") || mentions(&json[part], "Metaspace") {
                return Ok(Self::SentencePiece);
            }
        }
        if json["model"]["byte_fallback"] == true {
            return Ok(Self::SentencePiece);
        }
        bail!(
            "the model's tokenizer decodes by {}, which is not supported; ByteLevel, ByteFallback and Metaspace are",
            json["decoder"]["type"]
        )
    }

    fn decode(self, token: &str, out: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => {
                for c in token.chars() {
                    match byte_of(c) {
                        Some(byte) => out.push(byte),
                        None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
            Self::SentencePiece => match hexadecimal(token) {
                Some(byte) => out.push(byte),
                None => out.extend(token.replace('\u{2581}', " ").as_bytes()),
            },
        }
    }
}

/// Whether a decoder or pre-tokenizer is, or holds, one of this type.
fn mentions(part: &Value, kind: &str) -> bool {
    let inner = ["decoders", "pretokenizers"].into_iter();
    let mut inner = inner.filter_map(|list| part[list].as_array()).flatten();
    part["type"] == kind || inner.any(|part| mentions(part, kind))
}

/// Whether decoding takes a space away from the start of a text.
fn begins_with_space(json: &Value) -> bool {
    let strips = |part: &Value| match part["type"].as_str() {
        Some("Strip") => part["start"].as_u64().unwrap_or(0) > 0,
        Some("Metaspace") => part["prepend_scheme"] != "never" && part["add_prefix_space"] != false,
        _ => false,
    };
    let decoder = &json["decoder"];
    let inner = decoder["decoders"].as_array().into_iter().flatten();
    inner.chain([decoder]).any(strips)
}

/// `<0xE6>` as the byte.
fn hexadecimal(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte that GPT-2's alphabet writes as `c`: printable ones as themselves, the others in order from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|&b| printable(b)),
        code => (0..=255)
            .filter(|&b| !printable(b))
            .nth(code as usize - 0x100),
    }
}

/// One more than the largest id.
fn ids(library: &tokenizers::Tokenizer) -> u32 {
    let vocabulary = library.get_vocab(true);
    vocabulary.into_values().max().map_or(0, |id| id + 1)
}

#[cfg(test)]
mod tests;
