//! Rows for training and validation. The rows of step `s` are a pure function of seed, step and data, which is all that
//! resuming needs to know about the data.

use std::ops::Range;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::shuffle::Mix;
use super::source::{Part, Source, split};
use super::store::Tokens;
use crate::ops::loss::IGNORE;
use crate::rng;

/// Rows of equal length: shorter ones are padded with token 0 and ignored targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Tokens of a row.
    pub len: usize,
    /// `[rows, len]`.
    pub tokens: Vec<u32>,
    /// `[rows, len]`, the token after each, or [`IGNORE`].
    pub targets: Vec<u32>,
}

impl Batch {
    fn new(rows: &[(&Tokens, Range<u64>)]) -> Self {
        let lengths = rows.iter().map(|(_, r)| r.end - r.start);
        let len = lengths.max().unwrap_or(0) as usize;
        let mut batch = Self {
            rows: rows.len(),
            len,
            tokens: vec![0; rows.len() * len],
            targets: vec![IGNORE; rows.len() * len],
        };
        for (i, (tokens, row)) in rows.iter().enumerate() {
            let ids = tokens.get(row.start..row.end + 1);
            let n = ids.len() - 1;
            batch.tokens[i * len..][..n].copy_from_slice(&ids[..n]);
            batch.targets[i * len..][..n].copy_from_slice(&ids[1..]);
        }
        batch
    }

    /// Some of the rows, as a batch of its own.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let cut = |all: &[u32]| all[rows.start * self.len..rows.end * self.len].to_vec();
        Self {
            rows: rows.len(),
            len: self.len,
            tokens: cut(&self.tokens),
            targets: cut(&self.targets),
        }
    }

    /// Columns `0..tokens`, `tokens..2 tokens` and so on, as batches of their own.
    pub fn segments(&self, tokens: usize) -> impl Iterator<Item = Self> {
        (0..self.len).step_by(tokens.max(1)).map(move |start| {
            let len = tokens.max(1).min(self.len - start);
            let cut = |all: &[u32]| {
                let rows = all.chunks(self.len);
                rows.flat_map(|row| &row[start..start + len])
                    .copied()
                    .collect()
            };
            Self {
                rows: self.rows,
                len,
                tokens: cut(&self.tokens),
                targets: cut(&self.targets),
            }
        })
    }

    /// Length of every row without its padding.
    pub fn lengths(&self) -> Vec<usize> {
        let counted = |row: &[u32]| row.iter().filter(|t| **t != IGNORE).count();
        self.targets.chunks(self.len).map(counted).collect()
    }

    /// Targets that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE).count()
    }
}

/// Training and held-out parts of all sources.
pub struct Dataset {
    sources: Vec<Cut>,
    mix: Mix,
}

struct Cut {
    source: Source,
    train: Part,
    held_out: Part,
}

/// What identifies a source's rows, and what a reader of a run wants to know of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// How the user called it.
    pub name: String,
    /// Share of the rows.
    pub share: f64,
    /// Documents, held-out ones included.
    pub documents: usize,
    /// Rows of one epoch.
    pub rows: u64,
    /// Tokens of the training part.
    pub train_tokens: u64,
    /// Tokens of the held-out part.
    pub held_out_tokens: u64,
    /// Hash of some of the tokens.
    pub sample: u64,
}

impl SourceInfo {
    /// Whether the other source gives the same rows, as far as this tells. Names may differ: files move.
    fn gives_the_rows_of(&self, other: &Self) -> bool {
        let same = Self {
            name: other.name.clone(),
            share: other.share,
            ..self.clone()
        };
        same == *other && (self.share - other.share).abs() < 1e-9
    }
}

/// Whether two descriptions, as [`Dataset::describe`] gives them, stand for the same rows.
pub fn same_rows(a: &[SourceInfo], b: &[SourceInfo]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.gives_the_rows_of(b))
}

impl Dataset {
    /// Holds out the last `val_fraction` of each source's documents, or of its tokens when there is only one. Without
    /// weights, sources are mixed by their number of rows.
    ///
    /// # Errors
    /// When the training parts together are shorter than one context.
    pub fn new(sources: Vec<Source>, val_fraction: f64, context: usize) -> anyhow::Result<Self> {
        let cut = |source: Source| {
            let [train, held_out] = split(&source.tokens, val_fraction, context);
            Cut {
                source,
                train,
                held_out,
            }
        };
        let sources: Vec<Cut> = sources.into_iter().map(cut).collect();
        let have: u64 = sources.iter().map(|s| s.train.tokens()).sum();
        ensure!(
            have >= context as u64,
            "the training data has {have} tokens, fewer than one context of {context}; give more data or a smaller --context"
        );
        let weight = |s: &Cut| s.source.weight.unwrap_or(s.train.windows() as f64);
        let weights: Vec<f64> = sources.iter().map(weight).collect();
        Ok(Self {
            sources,
            mix: Mix::new(&weights),
        })
    }

    /// Whether no file was written to since it was opened, see [`Tokens::check`].
    ///
    /// # Errors
    /// When one was.
    pub fn check(&self) -> anyhow::Result<()> {
        self.sources
            .iter()
            .try_for_each(|s| s.source.tokens.check())
    }

    /// Tokens of the training parts.
    pub fn train_tokens(&self) -> u64 {
        self.sources.iter().map(|s| s.train.tokens()).sum()
    }

    /// Tokens of the held-out parts.
    pub fn held_out_tokens(&self) -> u64 {
        self.sources.iter().map(|s| s.held_out.tokens()).sum()
    }

    /// Whether the user gave weights.
    pub fn is_weighted(&self) -> bool {
        self.sources.iter().any(|s| s.source.weight.is_some())
    }

    /// The sources in their order.
    pub fn describe(&self) -> Vec<SourceInfo> {
        let info = |(s, share): (&Cut, &f64)| SourceInfo {
            name: s.source.name.clone(),
            share: *share,
            documents: s.source.tokens.documents(),
            rows: s.train.windows(),
            train_tokens: s.train.tokens(),
            held_out_tokens: s.held_out.tokens(),
            sample: s.source.tokens.sample(),
        };
        let shares = self.mix.shares();
        self.sources.iter().zip(shares).map(info).collect()
    }

    /// The rows of a step: the next ones of every source by its share. Each source goes through all its rows, in a new
    /// order every epoch, before one comes again: a document whole when it fits the context, else in windows.
    pub fn batch(&self, seed: u64, step: u64, rows: usize) -> Batch {
        let mut taken = self.mix.taken(step * rows as u64);
        let row = |_| {
            let (i, row) = self.mix.next(&mut taken);
            let (Cut { source, train, .. }, key) = (&self.sources[i], rng::hash(&[seed, i as u64]));
            (&source.tokens, train.row(&source.tokens, row, key))
        };
        Batch::new(&(0..rows).map(row).collect::<Vec<_>>())
    }

    /// How often each source was gone through after `step` steps.
    pub fn epochs(&self, step: u64, rows: usize) -> Vec<f64> {
        let taken = self.mix.taken(step * rows as u64).into_iter();
        let epochs = |(taken, s): (u64, &Cut)| taken as f64 / s.train.windows() as f64;
        taken.zip(&self.sources).map(epochs).collect()
    }

    /// Held-out rows of source `i` in batches: its part cut into windows, evenly spread ones, at most the source's share
    /// of `limit` (0: all) but at least one.
    pub fn held_out(&self, i: usize, rows: usize, limit: usize) -> impl Iterator<Item = Batch> {
        let Cut {
            source, held_out, ..
        } = &self.sources[i];
        let windows = held_out.windows();
        let keep = match limit {
            0 => windows,
            _ => ((self.mix.shares()[i] * limit as f64).round() as u64).clamp(1, windows.max(1)),
        };
        let keep = keep.min(windows);
        (0..keep).step_by(rows.max(1)).map(move |from| {
            let chosen = (from..keep.min(from + rows as u64)).map(|i| i * windows / keep);
            let row = |i| (&source.tokens, held_out.window(&source.tokens, i));
            Batch::new(&chosen.map(row).collect::<Vec<_>>())
        })
    }

    /// About `limit` held-out rows with the token that follows each; rows of the training part where nothing is held out.
    pub fn held_out_rows(&self, limit: usize) -> Vec<Vec<u32>> {
        if self.held_out_tokens() == 0 {
            let Cut { source, train, .. } = &self.sources[0];
            let windows = train.windows();
            let rows = windows.min(limit as u64);
            let row = |i| {
                let row = train.window(&source.tokens, i * windows / rows);
                source.tokens.get(row.start..row.end + 1)
            };
            return (0..rows).map(row).collect();
        }
        let batches = (0..self.sources.len()).flat_map(|i| self.held_out(i, 1, limit));
        let row = |batch: Batch| {
            let last = batch.targets[batch.len - 1];
            batch.tokens.into_iter().chain([last]).collect()
        };
        batches.map(row).collect()
    }
}
