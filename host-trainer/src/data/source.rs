//! One source of rows: a store of documents, its training and its held-out part, each cut into windows.

use std::ops::Range;

use super::shuffle::Shuffle;
use super::store::Tokens;
use crate::rng;

/// Documents with a name and, where the user gave one, a weight.
pub struct Source {
    /// How the user called it.
    pub name: String,
    /// Its documents.
    pub tokens: Tokens,
    /// Its weight among the sources; none for as much as it has.
    pub weight: Option<f64>,
}

/// Consecutive segments of a store, whole documents or a part of the only one, each cut into windows of at most `context`
/// tokens.
pub struct Part {
    first: usize,
    segments: usize,
    /// Bounds the first and the last segment.
    tokens: Range<u64>,
    context: u64,
    /// How many windows a segment of this length gives, by the context.
    cut: fn(u64, u64) -> u64,
    /// Windows before every [`STRIDE`]-th segment.
    index: Vec<u64>,
    windows: u64,
}

/// In training, as many windows as contexts go into the segment, to the nearest one: a document little longer than the
/// context is no two rows.
fn nearest(len: u64, context: u64) -> u64 {
    ((len + context / 2) / context).max(len.min(1))
}

/// So that the index of a billion documents takes 32 MB.
const STRIDE: usize = 256;

/// Cuts a store into its training part and its held-out part: the last `val_fraction` of the documents, or of the tokens
/// when there is only one.
pub fn split(tokens: &Tokens, val_fraction: f64, context: usize) -> [Part; 2] {
    let (documents, end) = (tokens.documents(), tokens.len());
    if documents == 1 {
        let cut = end - (end as f64 * val_fraction) as u64;
        return [
            Part::new(tokens, 0..1, 0..cut, (context, nearest)),
            Part::new(tokens, 0..1, cut..end, (context, u64::div_ceil)),
        ];
    }
    let held_out = ((documents as f64 * val_fraction).ceil() as usize).min(documents - 1);
    let cut = documents - held_out;
    let middle = tokens.bound(cut);
    [
        Part::new(tokens, 0..cut, 0..middle, (context, nearest)),
        Part::new(
            tokens,
            cut..documents,
            middle..end,
            (context, u64::div_ceil),
        ),
    ]
}

impl Part {
    fn new(
        tokens: &Tokens,
        segments: Range<usize>,
        span: Range<u64>,
        (context, cut): (usize, fn(u64, u64) -> u64),
    ) -> Self {
        let mut part = Self {
            first: segments.start,
            segments: segments.len(),
            tokens: span,
            context: context as u64,
            cut,
            index: Vec::new(),
            windows: 0,
        };
        for i in 0..part.segments {
            if i % STRIDE == 0 {
                part.index.push(part.windows);
            }
            part.windows += part.windows_of(&part.segment(tokens, i));
        }
        part
    }

    /// Tokens in all.
    pub fn tokens(&self) -> u64 {
        self.tokens.end - self.tokens.start
    }

    /// Windows in all.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    fn segment(&self, tokens: &Tokens, i: usize) -> Range<u64> {
        let i = self.first + i;
        tokens.bound(i).max(self.tokens.start)..tokens.bound(i + 1).min(self.tokens.end)
    }

    fn windows_of(&self, segment: &Range<u64>) -> u64 {
        (self.cut)(segment.end - segment.start, self.context)
    }

    /// The segment of window `i`, and which of its windows it is.
    fn find(&self, tokens: &Tokens, i: u64) -> (Range<u64>, u64) {
        let stride = self.index.partition_point(|before| *before <= i) - 1;
        let mut at = self.index[stride];
        let mut segment = stride * STRIDE;
        loop {
            let range = self.segment(tokens, segment);
            let windows = self.windows_of(&range);
            if i < at + windows {
                return (range, i - at);
            }
            at += windows;
            segment += 1;
        }
    }

    /// Window `i` of a segment read from its start on, without overlap.
    pub fn window(&self, tokens: &Tokens, i: u64) -> Range<u64> {
        let (segment, i) = self.find(tokens, i);
        let start = segment.start + i * self.context;
        start..segment.end.min(start + self.context)
    }

    /// Row `i` of training without end: epoch by epoch, each a new order of all windows. A segment longer than the
    /// context gives full windows: where they may start is divided into as many parts, and each starts somewhere in its
    /// own.
    pub fn row(&self, tokens: &Tokens, i: u64, key: u64) -> Range<u64> {
        let key = rng::hash(&[key, i / self.windows]);
        let window = Shuffle::new(self.windows, key).at(i % self.windows);
        let (segment, i) = self.find(tokens, window);
        let len = segment.end - segment.start;
        if len <= self.context {
            return segment;
        }
        let (starts, windows) = (len - self.context + 1, self.windows_of(&segment));
        let bound = |i: u64| (u128::from(starts) * u128::from(i) / u128::from(windows)) as u64;
        let (from, to) = (bound(i), bound(i + 1));
        let start = segment.start + from + rng::below(rng::hash(&[key, window, 1]), to - from);
        start..start + self.context
    }
}
