//! Pieces and their tokens. Text repeats its words: of a million pieces of prose and XML, one in twenty was new.

use std::collections::HashMap;
use std::ops::Range;

/// Pieces of one generation; the two of a cache take some 6 MB.
const FULL: usize = 1 << 15;
/// Bytes of the longest piece worth keeping: longer ones do not come again, but would fill the memory where text has no
/// spaces.
const LONGEST: usize = 32;

/// What pieces became, as far as they were seen lately: those not asked for while a whole generation came are forgotten.
#[derive(Default)]
pub struct Cache {
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    known: HashMap<Box<str>, Range<usize>>,
    ids: Vec<u32>,
}

impl Cache {
    /// Appends the tokens of `piece` to `out`, from `encode` when it is new.
    ///
    /// # Errors
    /// As `encode`.
    pub fn push(
        &mut self,
        piece: &str,
        out: &mut Vec<u32>,
        encode: impl FnOnce(&str) -> anyhow::Result<Vec<u32>>,
    ) -> anyhow::Result<()> {
        if let Some(ids) = self.young.get(piece) {
            out.extend_from_slice(ids);
            return Ok(());
        }
        let start = out.len();
        match self.old.get(piece) {
            Some(ids) => out.extend_from_slice(ids),
            None => out.extend(encode(piece)?),
        }
        if self.young.known.len() == FULL {
            self.old = std::mem::take(&mut self.young);
        }
        if piece.len() <= LONGEST {
            self.young.insert(piece, &out[start..]);
        }
        Ok(())
    }
}

impl Generation {
    fn get(&self, piece: &str) -> Option<&[u32]> {
        Some(&self.ids[self.known.get(piece)?.clone()])
    }

    fn insert(&mut self, piece: &str, ids: &[u32]) {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.known.insert(piece.into(), start..self.ids.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_again_is_remembered_and_what_is_not_is_forgotten() {
        let mut cache = Cache::default();
        let mut encoded: Vec<String> = Vec::new();
        let mut ask = |piece: &str| {
            let mut out = vec![7];
            let encode = |piece: &str| {
                encoded.push(piece.to_owned());
                Ok(piece.bytes().map(u32::from).collect())
            };
            cache.push(piece, &mut out, encode).unwrap();
            let expected = std::iter::once(7).chain(piece.bytes().map(u32::from));
            assert_eq!(out, expected.collect::<Vec<_>>());
        };
        ask("once");
        for i in 0..3 * FULL {
            ask("always");
            ask(&i.to_string());
        }
        ask("once");
        let times = |piece: &str| encoded.iter().filter(|e| *e == piece).count();
        assert_eq!((times("always"), times("once")), (1, 2));
        assert_eq!(encoded.len(), 3 * FULL + 3);
    }
}
