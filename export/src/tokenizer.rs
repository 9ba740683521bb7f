//! The tokenizer section.

use crate::ExportError;
use bitttt_core::tokenizer::{ALPHABET, HEADER_BYTES, UNKNOWN};

/// A byte-level BPE, or an alphabet of bytes, as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Bytes of every token, by id; special tokens are empty.
    pub tokens: Vec<Vec<u8>>,
    /// Pairs in order of rank.
    pub merges: Vec<(u32, u32)>,
}

impl Vocabulary {
    /// The built-in tokenizer without merges: id 0 separates documents, ids 1 to 256 are the bytes.
    pub fn bytes() -> Self {
        let tokens = std::iter::once(Vec::new())
            .chain((0..=255u8).map(|byte| vec![byte]))
            .collect();
        Self {
            tokens,
            merges: Vec::new(),
        }
    }

    /// The bytes of an alphabet: id 0 separates documents, ids from 1 on are ascending single bytes, and where they are
    /// not all 256, one last id stands for all others. `None` for a vocabulary of another form.
    fn alphabet(&self) -> Option<Vec<u8>> {
        let (separator, rest) = self.tokens.split_first()?;
        let (letters, unknown) = match rest.split_last()? {
            (last, letters) if last == UNKNOWN => (letters, true),
            _ => (rest, false),
        };
        let single = |token: &Vec<u8>| <[u8; 1]>::try_from(token.as_slice()).ok();
        let bytes: Option<Vec<u8>> = letters.iter().map(|t| single(t).map(|[b]| b)).collect();
        let bytes = bytes.filter(|b| !b.is_empty() && b.is_sorted_by(|a, b| a < b))?;
        let plain = separator.is_empty() && self.merges.is_empty();
        (plain && unknown == (bytes.len() < 256)).then_some(bytes)
    }

    /// The section's bytes.
    ///
    /// # Errors
    /// [`ExportError::Tokenizer`] where a byte has no token or a merge's result is not in the vocabulary.
    pub fn section(&self) -> Result<Vec<u8>, ExportError> {
        if let Some(alphabet) = self.alphabet() {
            let numbers = [self.tokens.len() as u32, 0, alphabet.len() as u32, ALPHABET];
            let header = numbers.into_iter().flat_map(u32::to_le_bytes);
            return Ok(header.chain(alphabet).collect());
        }
        let wide = self.tokens.len() > 1 << 16;
        let merges = self.sorted_merges()?;
        let text: Vec<u8> = self.tokens.concat();
        let mut out = Vec::with_capacity(
            HEADER_BYTES + text.len() + merges.len() * 8 + self.tokens.len() * 4,
        );
        for number in [self.tokens.len(), merges.len(), text.len(), 0] {
            out.extend((number as u32).to_le_bytes());
        }
        for byte in 0..=255u8 {
            push_id(&mut out, self.id_of(&[byte])?, wide);
        }
        for id in merges.into_iter().flatten() {
            push_id(&mut out, id, wide);
        }
        let ends = self.tokens.iter().scan(0, |end, token| {
            *end += token.len() as u32;
            Some(*end)
        });
        ends.for_each(|end| out.extend(end.to_le_bytes()));
        out.extend(text);
        Ok(out)
    }

    /// `[left, right, rank, result]`, sorted by pair.
    fn sorted_merges(&self) -> Result<Vec<[u32; 4]>, ExportError> {
        let ids: std::collections::HashMap<&[u8], u32> =
            self.tokens.iter().map(Vec::as_slice).zip(0..).collect();
        let mut merges = Vec::with_capacity(self.merges.len());
        for (rank, &(left, right)) in self.merges.iter().enumerate() {
            let piece = |id: u32| {
                self.tokens
                    .get(id as usize)
                    .filter(|token| !token.is_empty())
            };
            let (Some(a), Some(b)) = (piece(left), piece(right)) else {
                return Err(ExportError::Tokenizer(format!(
                    "merge {rank} names a token that has no bytes"
                )));
            };
            let Some(&result) = ids.get([a.as_slice(), b].concat().as_slice()) else {
                return Err(ExportError::Tokenizer(format!(
                    "the result of merge {rank} is not in the vocabulary"
                )));
            };
            merges.push([left, right, rank as u32, result]);
        }
        merges.sort_unstable();
        Ok(merges)
    }

    fn id_of(&self, token: &[u8]) -> Result<u32, ExportError> {
        let found = self.tokens.iter().position(|t| t == token);
        found
            .map(|id| id as u32)
            .ok_or_else(|| ExportError::Tokenizer(format!("no token for byte {token:?}")))
    }
}

fn push_id(out: &mut Vec<u8>, id: u32, wide: bool) {
    if wide {
        out.extend(id.to_le_bytes())
    } else {
        out.extend((id as u16).to_le_bytes())
    }
}
