//! Rows for training and validation. The rows of step `s` are a pure function of `(seed, s)`, which
//! is all that resuming needs to know about the data.

use std::ops::Range;

use anyhow::ensure;

use super::store::Tokens;
use crate::ops::loss::IGNORE;
use crate::rng::Rng;

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
    fn new(tokens: &Tokens, rows: &[Range<u64>]) -> Self {
        let len = rows.iter().map(|r| r.end - r.start).max().unwrap_or(0) as usize;
        let mut batch = Self {
            rows: rows.len(),
            len,
            tokens: vec![0; rows.len() * len],
            targets: vec![IGNORE; rows.len() * len],
        };
        for (i, row) in rows.iter().enumerate() {
            let ids = tokens.get(row.start..row.end + 1);
            let n = ids.len() - 1;
            batch.tokens[i * len..][..n].copy_from_slice(&ids[..n]);
            batch.targets[i * len..][..n].copy_from_slice(&ids[1..]);
        }
        batch
    }

    /// Targets that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE).count()
    }
}

/// Training and held-out part of a token store.
pub struct Dataset {
    tokens: Tokens,
    /// Segments of the training part: a document, or the first part of the only one.
    train: Vec<u64>,
    /// Segments of the held-out part.
    held_out: Vec<u64>,
    context: usize,
}

impl Dataset {
    /// Holds out the last `val_fraction` of the documents, or of the tokens when there is only one.
    ///
    /// # Errors
    /// When the training part is shorter than one context.
    pub fn new(tokens: Tokens, val_fraction: f64, context: usize) -> anyhow::Result<Self> {
        let (train, held_out) = split(tokens.bounds(), val_fraction);
        let have = train[train.len() - 1] - train[0];
        ensure!(
            have >= context as u64,
            "the training data has {have} tokens, fewer than one context of {context}; give more data or a smaller --context"
        );
        Ok(Self {
            tokens,
            train,
            held_out,
            context,
        })
    }

    /// Tokens of the training part.
    pub fn train_tokens(&self) -> u64 {
        self.train[self.train.len() - 1] - self.train[0]
    }

    /// Tokens of the held-out part.
    pub fn held_out_tokens(&self) -> u64 {
        self.held_out[self.held_out.len() - 1] - self.held_out[0]
    }

    /// The rows of a step. Each is drawn by a uniform token position, so that long documents get
    /// their share: the whole document when it fits, else a window anywhere in it.
    pub fn batch(&self, seed: u64, step: u64, rows: usize) -> Batch {
        let mut rng = Rng::new(seed, step);
        let rows: Vec<_> = (0..rows).map(|_| self.draw(&mut rng)).collect();
        Batch::new(&self.tokens, &rows)
    }

    fn draw(&self, rng: &mut Rng) -> Range<u64> {
        let position = self.train[0] + rng.below(self.train_tokens());
        let after = self.train.partition_point(|start| *start <= position);
        let segment = self.train[after - 1]..self.train[after];
        let (len, context) = (segment.end - segment.start, self.context as u64);
        if len <= context {
            return segment;
        }
        let start = segment.start + rng.below(len - context + 1);
        start..start + context
    }

    /// Held-out rows in batches: the part cut into windows, at most `limit` of them (0: all), evenly
    /// spread.
    pub fn held_out(&self, rows: usize, limit: usize) -> Vec<Batch> {
        let windows = self.held_out_windows();
        let keep = if limit == 0 {
            windows.len()
        } else {
            limit.min(windows.len())
        };
        let chosen: Vec<_> = (0..keep)
            .map(|i| windows[i * windows.len() / keep].clone())
            .collect();
        let batches = chosen.chunks(rows.max(1));
        batches.map(|rows| Batch::new(&self.tokens, rows)).collect()
    }

    /// At most `limit` held-out rows with the token that follows each; of the training part where nothing is held out.
    pub fn held_out_rows(&self, limit: usize) -> Vec<Vec<u32>> {
        let mut windows = self.held_out_windows();
        if windows.is_empty() {
            windows.push(self.train[0]..self.train[0] + self.context as u64);
        }
        let step = windows.len().div_ceil(limit);
        let row = |w: &Range<u64>| self.tokens.get(w.start..w.end + 1);
        windows.iter().step_by(step).map(row).collect()
    }

    fn held_out_windows(&self) -> Vec<Range<u64>> {
        let segments = self.held_out.windows(2).map(|pair| pair[0]..pair[1]);
        segments
            .flat_map(|segment| {
                let end = segment.end;
                let starts = segment.step_by(self.context);
                starts.map(move |start| start..end.min(start + self.context as u64))
            })
            .collect()
    }
}

/// Bounds of the training and of the held-out segments.
fn split(bounds: &[u64], val_fraction: f64) -> (Vec<u64>, Vec<u64>) {
    let documents = bounds.len() - 1;
    if documents == 1 {
        let (start, end) = (bounds[0], bounds[1]);
        let cut = end - ((end - start) as f64 * val_fraction) as u64;
        return (vec![start, cut], vec![cut, end]);
    }
    let held_out = ((documents as f64 * val_fraction).ceil() as usize).min(documents - 1);
    let cut = documents - held_out;
    (bounds[..=cut].to_vec(), bounds[cut..].to_vec())
}
