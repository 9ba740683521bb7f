//! Loss by place in the document.

use serde::{Deserialize, Serialize};

/// Mean loss over the places `from..to` of documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// First place.
    pub from: usize,
    /// Behind the last place.
    pub to: usize,
    /// Nats a token.
    pub loss: f64,
    /// Tokens there.
    pub tokens: usize,
}

impl Bucket {
    /// Where to draw it on a logarithmic axis.
    pub fn middle(&self) -> f64 {
        ((self.from.max(1) * self.to.max(1)) as f64).sqrt()
    }
}

/// Sums of losses by place, in buckets whose width doubles: 0-16, 16-32, 32-64, …
#[derive(Clone, Debug, Default)]
pub struct ByPosition {
    /// Sum and number of losses in each bucket.
    sums: Vec<(f64, usize)>,
    longest: usize,
}

impl ByPosition {
    const FIRST: usize = 16;

    /// Counts the losses of one document, or of a piece that was read from a fresh start, from place `first` on.
    pub fn add(&mut self, first: usize, losses: &[f32]) {
        let end = first + losses.len();
        self.longest = self.longest.max(end);
        let (mut from, mut to) = (0, Self::FIRST);
        for bucket in 0.. {
            if from > end {
                return;
            }
            let inside = from.max(first)..to.min(end).max(first);
            let inside = inside.start.min(inside.end) - first..inside.end - first;
            let inside = &losses[inside];
            if bucket == self.sums.len() {
                self.sums.push((0.0, 0));
            }
            let (sum, count) = &mut self.sums[bucket];
            *sum += inside.iter().map(|&l| f64::from(l)).sum::<f64>();
            *count += inside.len();
            (from, to) = (to, to * 2);
        }
    }

    /// The means.
    pub fn buckets(&self) -> Vec<Bucket> {
        let bucket = |(i, &(sum, tokens)): (usize, &(f64, usize))| Bucket {
            from: if i == 0 { 0 } else { Self::FIRST << (i - 1) },
            to: self.longest.min(Self::FIRST << i),
            loss: sum / tokens.max(1) as f64,
            tokens,
        };
        let filled = self.sums.iter().enumerate().filter(|(_, s)| s.1 > 0);
        filled.map(bucket).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double_and_end_with_the_longest_text() {
        let mut by_position = ByPosition::default();
        by_position.add(0, &[vec![2.0; 16], vec![1.0; 4]].concat());
        by_position.add(0, &[4.0; 16]);
        by_position.add(0, &[]);
        let buckets: Vec<_> = by_position.buckets();
        let plain: Vec<_> = buckets
            .iter()
            .map(|b| (b.from, b.to, b.loss, b.tokens))
            .collect();
        assert_eq!(plain, [(0, 16, 3.0, 32), (16, 20, 1.0, 4)]);
    }
}
