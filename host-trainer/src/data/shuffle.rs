//! The order of rows, without state: any place in it can be asked for at once, so a run resumes wherever it stopped.

use crate::rng;

const ROUNDS: u64 = 6;

/// A random order of `0..n` by key: a Feistel network over the next larger power of 4, walked until it comes back below
/// `n` (cycle walking; Black and Rogaway 2002).
pub struct Shuffle {
    n: u64,
    half: u32,
    key: u64,
}

impl Shuffle {
    /// An order of `0..n`, `n > 0`, for each key.
    pub fn new(n: u64, key: u64) -> Self {
        let bits = 64 - (n - 1).leading_zeros();
        Self {
            n,
            half: bits.div_ceil(2).max(1),
            key,
        }
    }

    /// What stands at place `i < n`.
    pub fn at(&self, i: u64) -> u64 {
        let mut x = self.permute(i);
        while x >= self.n {
            x = self.permute(x);
        }
        x
    }

    fn permute(&self, x: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        for round in 0..ROUNDS {
            let word = rng::hash(&[self.key, round, right]);
            (left, right) = (right, (left ^ word) & mask);
        }
        left << self.half | right
    }
}

/// Takes rows from several sources by their shares, as evenly as whole rows allow.
///
/// The `j`-th row of a source with share `w` is due at `(j + 1/2) / w`; rows are taken as they are due, so that after any
/// number of them each source has given its share to within about a row.
pub struct Mix {
    shares: Vec<f64>,
}

impl Mix {
    /// Shares in proportion to `weights`, which are positive.
    pub fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        Self {
            shares: weights.iter().map(|w| w / total).collect(),
        }
    }

    /// Share of each source; they add up to 1.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// Rows of each source among the first `rows`.
    pub fn taken(&self, rows: u64) -> Vec<u64> {
        // What is due by a time a little before `rows` can be counted; the rest is taken one by one.
        let time = rows.saturating_sub(2 * self.shares.len() as u64) as f64;
        let due = |share: &f64| (share * time + 0.5).floor() as u64;
        let mut taken: Vec<u64> = self.shares.iter().map(due).collect();
        let counted: u64 = taken.iter().sum();
        for _ in counted..rows {
            self.next(&mut taken);
        }
        taken
    }

    /// Takes the next row: its source, and which of that source's rows it is.
    pub fn next(&self, taken: &mut [u64]) -> (usize, u64) {
        let due = |source: usize| (taken[source] as f64 + 0.5) / self.shares[source];
        let next = (0..taken.len()).min_by(|a, b| due(*a).total_cmp(&due(*b)));
        let next = next.expect("at least one source");
        taken[next] += 1;
        (next, taken[next] - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_place_is_taken_once(n in 1u64..600, key: u64) {
            let shuffle = Shuffle::new(n, key);
            let mut all: Vec<u64> = (0..n).map(|i| shuffle.at(i)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn rows_taken_at_once_are_those_taken_one_by_one(
            weights in proptest::collection::vec(0.001f64..10.0, 1..6),
            rows in 0u64..500,
        ) {
            let mix = Mix::new(&weights);
            let mut taken = vec![0; weights.len()];
            for _ in 0..rows {
                mix.next(&mut taken);
            }
            prop_assert_eq!(mix.taken(rows), taken);
        }

        #[test]
        fn shares_are_kept_to_within_about_a_row(
            weights in proptest::collection::vec(0.01f64..1.0, 2..5),
            rows in 1u64..1_000_000,
        ) {
            let mix = Mix::new(&weights);
            let taken = mix.taken(rows);
            prop_assert_eq!(taken.iter().sum::<u64>(), rows);
            for (taken, share) in taken.iter().zip(mix.shares()) {
                let off = *taken as f64 - share * rows as f64;
                prop_assert!(off.abs() <= weights.len() as f64 / 2.0, "{off}");
            }
        }
    }

    #[test]
    fn keys_give_unrelated_orders() {
        let order = |key| (0..1000).map(move |i| Shuffle::new(1000, key).at(i));
        let same = order(1).zip(order(2)).filter(|(a, b)| a == b).count();
        let neighbours = order(1).zip(order(1).skip(1));
        let ascending = neighbours.filter(|(a, b)| a + 1 == *b).count();
        // Two random orders of anything agree at one place on average, and so it is with neighbours that stay.
        assert!(same < 8 && ascending < 8, "{same}, {ascending}");
    }
}
