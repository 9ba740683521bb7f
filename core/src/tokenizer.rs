//! Byte-level BPE without memory: encodes into the caller's buffer, decodes to byte slices of the blob.
//!
//! Text is cut into pieces by [`next_piece`], which only knows ASCII classes; merges never cross a piece, and a
//! piece has at most [`MAX_PIECE`] characters, so the time is linear in the text. `bitttt tokenizer` trains with
//! the same cut. A vocabulary of single bytes is an alphabet: no merges, and bytes outside it are one unknown token.
//! Layout in docs/FORMAT.md, section "Tokenizer".

use crate::format::BlobError;
use crate::format::read::{slice_at, u16_at, u32_at};
use core::cell::Cell;
use core::fmt;

/// Size of the header before the arrays.
pub const HEADER_BYTES: usize = 16;
/// Most characters in a piece, a leading space not counted.
pub const MAX_PIECE: usize = 64;

/// Byte offsets of the header's fields.
pub mod field {
    #![allow(missing_docs)]
    pub const TOKENS: usize = 0;
    pub const MERGES: usize = 4;
    pub const TEXT_BYTES: usize = 8;
    pub const FLAGS: usize = 12;
}

/// Whether this build has tokenizers with merges.
const BPE: bool = cfg!(feature = "bpe");

/// Flag: the section is an alphabet.
pub const ALPHABET: u32 = 1;
/// What the unknown token of an alphabet decodes to: U+FFFD.
pub const UNKNOWN: &[u8] = "\u{FFFD}".as_bytes();

/// Views of a tokenizer section. Ids are u16 up to 65,536 tokens, u32 above.
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer<'a> {
    tokens: u32,
    /// `text` holds the bytes of tokens 1, 2, … in ascending order, one each; there is nothing else.
    alphabet: bool,
    width: usize,
    byte_ids: &'a [u8],
    merges: &'a [u8],
    ends: &'a [u8],
    text: &'a [u8],
}

/// Why a text was not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The buffer is full; a buffer as long as the text in bytes is always enough.
    Buffer,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "token buffer is too short: one place for each byte of the text is always enough",
        )
    }
}

impl core::error::Error for EncodeError {}

impl<'a> Tokenizer<'a> {
    /// Checks the section's structure and returns views into it.
    ///
    /// # Errors
    /// [`BlobError::Tokenizer`] naming the field.
    pub fn parse(section: &'a [u8], vocab_size: u32) -> Result<Self, BlobError> {
        let tokens = u32_at(section, field::TOKENS);
        if tokens == 0 || tokens > vocab_size {
            return Err(BlobError::Tokenizer("tokens"));
        }
        match u32_at(section, field::FLAGS) {
            0 if !BPE => {
                return Err(BlobError::LeftOut {
                    what: "a tokenizer with merges",
                    feature: "bpe",
                });
            }
            0 => {}
            ALPHABET => return Self::parse_alphabet(section, tokens),
            _ => return Err(BlobError::Tokenizer("flags")),
        }
        let width = if tokens <= 1 << 16 { 2 } else { 4 };
        let mut at = HEADER_BYTES as u64;
        let mut take = |bytes: u64, name| {
            let piece = slice_at(section, at, bytes).ok_or(BlobError::Tokenizer(name))?;
            at += bytes;
            Ok(piece)
        };
        let tokenizer = Self {
            tokens,
            alphabet: false,
            width,
            byte_ids: take(256 * width as u64, "byte ids")?,
            merges: take(
                u64::from(u32_at(section, field::MERGES)) * 4 * width as u64,
                "merges",
            )?,
            ends: take(u64::from(tokens) * 4, "token ends")?,
            text: take(u64::from(u32_at(section, field::TEXT_BYTES)), "text")?,
        };
        if at != section.len() as u64 {
            return Err(BlobError::Tokenizer("length"));
        }
        Ok(tokenizer)
    }

    /// Separator, the bytes of the text, and where they are not all 256 the unknown token.
    fn parse_alphabet(section: &'a [u8], tokens: u32) -> Result<Self, BlobError> {
        let bytes = u32_at(section, field::TEXT_BYTES);
        let (_, text) = section
            .split_at_checked(HEADER_BYTES)
            .ok_or(BlobError::Tokenizer("length"))?;
        if text.len() as u64 != u64::from(bytes) {
            return Err(BlobError::Tokenizer("length"));
        }
        if bytes == 0 || !text.is_sorted_by(|a, b| a < b) {
            return Err(BlobError::Tokenizer("alphabet"));
        }
        if tokens != bytes + 1 + u32::from(bytes < 256) {
            return Err(BlobError::Tokenizer("tokens"));
        }
        if u32_at(section, field::MERGES) != 0 {
            return Err(BlobError::Tokenizer("merges"));
        }
        Ok(Self {
            tokens,
            alphabet: true,
            width: 2,
            byte_ids: &[],
            merges: &[],
            ends: &[],
            text,
        })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Whether its tokens are single bytes and a sign for all others.
    pub fn is_alphabet(&self) -> bool {
        self.alphabet
    }

    /// Number of merges.
    pub fn merges(&self) -> usize {
        self.merges.len() / if self.width == 2 { 8 } else { 16 }
    }

    /// Bytes of a token; empty for special tokens and for ids out of range.
    pub fn decode(&self, token: u32) -> &'a [u8] {
        if token >= self.tokens {
            return &[];
        }
        if self.alphabet || !BPE {
            let at = (token as usize).wrapping_sub(1);
            return match (self.text.get(at..at.saturating_add(1)), token) {
                (Some(byte), _) => byte,
                (None, 0) => &[],
                (None, _) => UNKNOWN,
            };
        }
        let end = u32_at(self.ends, token as usize * 4) as usize;
        let start = if token == 0 {
            0
        } else {
            u32_at(self.ends, (token as usize - 1) * 4) as usize
        };
        self.text.get(start..end).unwrap_or(&[])
    }

    /// Encodes `text` into `out` and returns the number of tokens. Never makes special tokens.
    ///
    /// # Errors
    /// [`EncodeError::Buffer`].
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn encode(&self, text: &[u8], out: &mut [u32]) -> Result<usize, EncodeError> {
        if self.alphabet || !BPE {
            return self.encode_bytes(text, out);
        }
        let mut rest = text;
        let mut len = 0;
        while !rest.is_empty() {
            let (piece, after) = rest
                .split_at_checked(next_piece(rest))
                .unwrap_or((rest, &[]));
            let room = out
                .get_mut(len..)
                .and_then(|out| out.get_mut(..piece.len()))
                .ok_or(EncodeError::Buffer)?;
            room.iter_mut()
                .zip(piece)
                .for_each(|(id, &byte)| *id = self.id(self.byte_ids, usize::from(byte)));
            len += self.merge(room);
            rest = after;
        }
        Ok(len)
    }

    /// The letters of an alphabet, one token each.
    fn encode_bytes(&self, text: &[u8], out: &mut [u32]) -> Result<usize, EncodeError> {
        let room = out.get_mut(..text.len()).ok_or(EncodeError::Buffer)?;
        for (id, byte) in room.iter_mut().zip(text) {
            let found = self.text.binary_search(byte);
            *id = found.unwrap_or(self.text.len()) as u32 + 1;
        }
        Ok(text.len())
    }

    /// Applies merges in order of rank, leftmost first, until none applies; returns the new length.
    fn merge(&self, piece: &mut [u32]) -> usize {
        let mut len = piece.len();
        loop {
            let pairs = piece
                .iter()
                .zip(piece.iter().skip(1))
                .take(len.saturating_sub(1))
                .enumerate();
            let found = pairs.filter_map(|(i, (&left, &right))| {
                self.find(left, right).map(|(rank, id)| (rank, i, id))
            });
            let Some((_, i, id)) = found.min() else {
                return len;
            };
            let Some(tail) = piece.get_mut(i..len) else {
                return len;
            };
            if let Some(first) = tail.first_mut() {
                *first = id;
            }
            // Not `rotate_left`, which may panic.
            let cells = Cell::from_mut(tail).as_slice_of_cells();
            for pair in cells.windows(2).skip(1) {
                if let [hole, next] = pair {
                    hole.set(next.get());
                }
            }
            len -= 1;
        }
    }

    /// `(rank, result)` of a pair, by binary search in the merges sorted by pair.
    fn find(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let (mut low, mut high) = (0, self.merges());
        while low < high {
            let middle = low + (high - low) / 2;
            let pair = (
                self.id(self.merges, 4 * middle),
                self.id(self.merges, 4 * middle + 1),
            );
            match pair.cmp(&(left, right)) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => {
                    return Some((
                        self.id(self.merges, 4 * middle + 2),
                        self.id(self.merges, 4 * middle + 3),
                    ));
                }
            }
        }
        None
    }

    fn id(&self, array: &[u8], index: usize) -> u32 {
        if self.width == 2 {
            u32::from(u16_at(array, index * 2))
        } else {
            u32_at(array, index * 4)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    White,
    Other,
}

/// Class of a byte; every byte of a non-ASCII character counts as a letter.
fn class(byte: u8) -> Class {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | 0x80.. => Class::Letter,
        b'0'..=b'9' => Class::Digit,
        b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C => Class::White,
        _ => Class::Other,
    }
}

/// Length in bytes of the first piece of a text that is not empty: an optional space and up to [`MAX_PIECE`]
/// characters of one class, or up to [`MAX_PIECE`] white characters, without a last space that leads the next piece.
pub fn next_piece(text: &[u8]) -> usize {
    let lead = usize::from(
        text.first() == Some(&b' ') && text.get(1).is_some_and(|&b| class(b) != Class::White),
    );
    let Some(&first) = text.get(lead) else {
        return text.len();
    };
    let mut characters = 0;
    let mut end = lead;
    for &byte in text
        .iter()
        .skip(lead)
        .take_while(|&&byte| class(byte) == class(first))
    {
        characters += usize::from(byte & 0xC0 != 0x80);
        if characters > MAX_PIECE {
            return end.max(1);
        }
        end += 1;
    }
    let leads_next = class(first) == Class::White
        && end > 1
        && text.get(end - 1) == Some(&b' ')
        && end < text.len();
    if leads_next { end - 1 } else { end }
}
