//! Attention's arithmetic over one tile of keys and values, for all queries that look at it.
//!
//! Softmax runs online (Milakov and Gimelshein 2018): a running maximum and sum a query, and what has been summed up is
//! rescaled when the maximum grows. Keys are stored so that places lie side by side: scores, too, are sums in axpy
//! form, with the same bits at any register width.
//!
//! Invariant: a query's sums depend on no other query that happens to share its loads, and scores that are NaN count
//! as impossible, so finite values give a finite output.

use super::halves::Stored;
use super::lanes::{LANES, WIDE, copy, tree};
use super::parallel::Rows;
use crate::math::exp;
use crate::memory::TILE;
use crate::model::Floats;

/// Places of a cache that are looked at together.
pub(crate) struct Tile<'a> {
    /// `[d, TILE]`.
    pub keys: Floats<'a>,
    /// `[places, d]` and what follows, at least [`SLACK`] elements.
    pub values: Floats<'a>,
    /// Place of the first one, counted as [`Queries::visible`] counts.
    pub first: usize,
    /// How many there are, at most [`TILE`].
    pub places: usize,
}

/// The queries of the tokens `tokens` for one head of keys and values: `group` query heads of `d` a token.
pub(crate) struct Queries<'a> {
    /// By the constants below: [`QUERY`] `[n, group, d]`, rotated; [`KEY`] and [`VALUE`] `[n, d]`; [`OUT`] `[n, group, d]`,
    /// sum of `exp(score - maximum) * value` so far; [`RUNNING`] `[n, group, 2]`, maximum of the scores so far and sum of
    /// their `exp(score - maximum)`.
    pub rows: Rows<'a, 5>,
    /// Query heads that share the keys.
    pub group: usize,
    /// Width of a head.
    pub d: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// The pass's tokens that look.
    pub tokens: core::ops::Range<usize>,
    /// Places that the first of them sees, from the cache's first on; each next one sees one more.
    pub visible: usize,
}

/// Matrices of [`Queries::rows`].
pub(crate) const QUERY: usize = 0;
pub(crate) const KEY: usize = 1;
pub(crate) const VALUE: usize = 2;
pub(crate) const OUT: usize = 3;
pub(crate) const RUNNING: usize = 4;

/// Values are read in blocks of columns; a last block may read this many elements beyond its row. Their sums are dropped.
pub(crate) const SLACK: usize = 32;

/// Adds a tile to the attention of every query.
#[inline(always)]
pub(crate) fn attend(tile: &Tile<'_>, queries: &mut Queries<'_>) {
    if !WIDE {
        return attend_to(tile.keys, tile.values, tile, queries); // one copy of the code for both types
    }
    match (tile.keys, tile.values) {
        (Floats::F16(keys), Floats::F16(values)) => attend_to(keys, values, tile, queries),
        (Floats::F32(keys), Floats::F32(values)) => attend_to(keys, values, tile, queries),
        _ => {} // a cache has one type
    }
}

/// Four queries share each load of a key or value: their sums of 16 columns are 64 lanes, what registers hold besides
/// operands on most machines. One query alone takes 32 columns.
#[inline(always)]
fn attend_to<M: Elements>(keys: M, values: M, tile: &Tile<'_>, queries: &mut Queries<'_>) {
    let mut row = queries.tokens.start * queries.group;
    let end = queries.tokens.end * queries.group;
    while WIDE && row + 4 <= end {
        share::<4, 16, M>(keys, values, tile, queries, row);
        row += 4;
    }
    while row < end {
        if WIDE {
            share::<1, 32, M>(keys, values, tile, queries, row);
        } else {
            share::<1, 8, M>(keys, values, tile, queries, row);
        }
        row += 1;
    }
}

/// Queries `row..row + G`, columns in blocks of `B`.
#[inline(always)]
fn share<const G: usize, const B: usize, M: Elements>(
    keys: M,
    values: M,
    tile: &Tile<'_>,
    queries: &mut Queries<'_>,
    row: usize,
) {
    let places = queries.visible(row + G - 1, tile);
    if places == 0 {
        return;
    }
    let mut weights = [[0.0f32; TILE]; G];
    scores::<G, B, M>(keys, queries, row, places, &mut weights);
    for (i, weights) in weights.iter_mut().enumerate() {
        let visible = queries.visible(row + i, tile);
        queries.weigh(row + i, weights, visible);
    }
    let mut at = 0;
    while at < queries.d {
        let values = values.skip(at);
        let sums = weigh_values::<G, B, M>(&weights, places, values, queries.d);
        for (i, sums) in sums.iter().enumerate() {
            if let Some(out) = queries.out(row + i).get_mut(at..) {
                super::lanes::add(out, sums);
            }
        }
        at += B;
    }
}

/// Factors that are copied before they are used: all of a tile where they stay in registers, fewer on a device's stack.
const PART: usize = if WIDE { TILE } else { 16 };

/// `sum_j weights[g][j] * values[j][..B]`.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
fn weigh_values<const G: usize, const B: usize, M: Elements>(
    weights: &[[f32; TILE]; G],
    places: usize,
    values: M,
    stride: usize,
) -> [[f32; B]; G] {
    let mut sums = [[0.0; B]; G];
    if WIDE {
        accumulate::<G, B, TILE, M>(&mut sums, weights, places, values, stride);
        return sums;
    }
    let mut from = 0;
    while from < places {
        let factors = load::<G, PART>(weights, from);
        let (count, values) = ((places - from).min(PART), values.skip(from * stride));
        accumulate::<G, B, PART, M>(&mut sums, &factors, count, values, stride);
        from += PART;
    }
    sums
}

/// `scores[g][j] += q_g . k_j` for at least the first `places`, each a chain of additions over the head's width.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
fn scores<const G: usize, const B: usize, M: Elements>(
    keys: M,
    queries: &Queries<'_>,
    row: usize,
    places: usize,
    scores: &mut [[f32; TILE]; G],
) {
    let mut from = 0;
    while from < queries.d {
        let count = (queries.d - from).min(PART);
        let mut factors = [[0.0f32; PART]; G];
        for (i, factors) in factors.iter_mut().enumerate() {
            copy(factors, queries.query(row + i).get(from..).unwrap_or(&[]));
        }
        let mut at = 0;
        while at < places {
            let keys = keys.skip(from * TILE + at);
            let mut sums = load::<G, B>(scores, at);
            accumulate::<G, B, PART, M>(&mut sums, &factors, count, keys, TILE);
            for (scores, sums) in scores.iter_mut().zip(&sums) {
                copy(scores.get_mut(at..).unwrap_or_default(), sums);
            }
            at += B;
        }
        from += PART;
    }
}

/// Columns `at..at + B`.
#[inline(always)]
fn load<const G: usize, const B: usize>(rows: &[[f32; TILE]; G], at: usize) -> [[f32; B]; G] {
    let mut block = [[0.0; B]; G];
    for (block, row) in block.iter_mut().zip(rows) {
        copy(block, row.get(at..).unwrap_or(&[]));
    }
    block
}

/// `sums[g] += sum_r factors[g][r] * matrix[r][..B]`, `r` ascending to `count`; rows are `stride` elements apart.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
fn accumulate<const G: usize, const B: usize, const F: usize, M: Elements>(
    sums: &mut [[f32; B]; G],
    factors: &[[f32; F]; G],
    count: usize,
    matrix: M,
    stride: usize,
) {
    let mut rest = matrix;
    for r in 0..count.min(F) {
        let Some(row) = rest.block::<B>() else {
            return;
        };
        // by hand: in a loop over the four, compilers vectorise across them, at a twentieth of the speed
        add_row(sums, factors, 0, r, &row);
        add_row(sums, factors, 1, r, &row);
        add_row(sums, factors, 2, r, &row);
        add_row(sums, factors, 3, r, &row);
        rest = rest.skip(stride);
    }
}

/// Keys or values, read from the front.
trait Elements: Copy {
    /// Those behind the first `count`.
    fn skip(self, count: usize) -> Self;
    /// The first `B`, widened.
    fn block<const B: usize>(self) -> Option<[f32; B]>;
}

impl<W: Stored> Elements for &[W] {
    #[inline(always)]
    fn skip(self, count: usize) -> Self {
        self.get(count..).unwrap_or(&[])
    }

    #[inline(always)]
    fn block<const B: usize>(self) -> Option<[f32; B]> {
        let mut wide = [0.0; B];
        for (wide, x) in wide.iter_mut().zip(self.first_chunk::<B>()?) {
            *wide = x.widen();
        }
        Some(wide)
    }
}

impl Elements for Floats<'_> {
    fn skip(self, count: usize) -> Self {
        match self {
            Floats::F16(all) => Floats::F16(all.skip(count)),
            Floats::F32(all) => Floats::F32(all.skip(count)),
        }
    }

    fn block<const B: usize>(self) -> Option<[f32; B]> {
        match self {
            Floats::F16(all) => all.block(),
            Floats::F32(all) => all.block(),
        }
    }
}

#[inline(always)]
fn add_row<const G: usize, const B: usize, const F: usize>(
    sums: &mut [[f32; B]; G],
    factors: &[[f32; F]; G],
    g: usize,
    r: usize,
    row: &[f32; B],
) {
    if let (Some(sums), Some(factors)) = (sums.get_mut(g), factors.get(g)) {
        let factor = factors.get(r).copied().unwrap_or(0.0);
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += factor * x;
        }
    }
}

impl Queries<'_> {
    /// Token and query head of a row.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn place(&self, row: usize) -> (usize, usize) {
        let token = row.checked_div(self.group).unwrap_or(0);
        (token, row - token * self.group)
    }

    #[inline(always)]
    fn query(&self, row: usize) -> &[f32] {
        let (token, head) = self.place(row);
        let range = head * self.d..(head + 1) * self.d;
        self.rows.read::<QUERY>(token).get(range).unwrap_or(&[])
    }

    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn out(&mut self, row: usize) -> &mut [f32] {
        let (token, head) = self.place(row);
        let range = head * self.d..(head + 1) * self.d;
        self.rows
            .row::<OUT>(token)
            .get_mut(range)
            .unwrap_or_default()
    }

    #[inline(always)]
    fn running(&mut self, row: usize) -> Option<&mut [f32; 2]> {
        let (token, head) = self.place(row);
        self.rows
            .row::<RUNNING>(token)
            .as_chunks_mut()
            .0
            .get_mut(head)
    }

    /// How many places of a tile a row sees.
    #[inline(always)]
    fn visible(&self, row: usize, tile: &Tile<'_>) -> usize {
        let (token, _) = self.place(row);
        let visible = (self.visible + token).saturating_sub(self.tokens.start + tile.first);
        visible.min(tile.places)
    }

    /// Scores become weights `exp(score - maximum)`, beyond the first `visible` zeros; what the row has summed up is
    /// rescaled to a maximum that grew.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    fn weigh(&mut self, row: usize, scores: &mut [f32; TILE], visible: usize) {
        let whole = visible.next_multiple_of(LANES);
        scores.iter_mut().for_each(|s| *s *= self.scale);
        scores
            .get_mut(visible..whole)
            .unwrap_or_default()
            .fill(f32::NAN);
        scores.get_mut(whole..).unwrap_or_default().fill(0.0);
        let Some([max, sum]) = self.running(row) else {
            return;
        };
        let lanes = whole / LANES; // those behind would add zeros
        let mut highest = [f32::NEG_INFINITY; LANES];
        for part in scores.as_chunks::<LANES>().0.iter().take(lanes) {
            for (highest, &s) in highest.iter_mut().zip(part) {
                *highest = larger(s, *highest);
            }
        }
        let highest = larger(tree(highest, larger), *max);
        let mut weights = [0.0; LANES];
        for part in scores.as_chunks_mut::<LANES>().0.iter_mut().take(lanes) {
            for (sum, s) in weights.iter_mut().zip(part) {
                let weight = exp(*s - highest);
                *s = if weight.is_nan() { 0.0 } else { weight };
                *sum += *s;
            }
        }
        let weights = tree(weights, |a, b| a + b);
        if highest > *max {
            let shrink = exp(*max - highest);
            *max = highest;
            *sum = *sum * shrink + weights;
            self.out(row).iter_mut().for_each(|out| *out *= shrink);
        } else {
            *sum += weights;
        }
    }
}

/// The larger one; `b` where `a` is NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::super::Backend;
    use super::super::parallel::{Alone, Divided, split};
    use super::*;
    use std::vec::Vec;

    /// One tile for two tokens of three query heads, in one go; the output before the division by the sums.
    fn outputs(backend: Backend, query: &[f32], keys: &[u16], values: &[u16]) -> Vec<u32> {
        let (d, group) = (query.len() / 6, 3);
        let mut query = query.to_vec();
        let (mut out, mut running) = (std::vec![0.0; 6 * d], [f32::NEG_INFINITY, 0.0].repeat(6));
        let rows = [
            (&mut query[..], group * d),
            (&mut [][..], 0),
            (&mut [][..], 0),
            (&mut out, group * d),
            (&mut running, 2 * group),
        ];
        let mut rows = rows.map(|(rows, each)| Divided::new(rows, each));
        split(&Alone, 1, &mut [], &mut rows, &|_, [], rows| {
            let mut queries = Queries {
                rows,
                group,
                d,
                scale: 0.25,
                tokens: 0..2,
                visible: 40,
            };
            let tile = Tile {
                keys: Floats::F16(keys),
                values: Floats::F16(values),
                first: 0,
                places: 41,
            };
            backend.attend(&tile, &mut queries);
        });
        out.into_iter().chain(running).map(f32::to_bits).collect()
    }

    #[test]
    fn queries_of_any_bits_give_finite_sums_and_the_same_on_every_backend() {
        let d = 10;
        let half = |i: usize| half::f16::from_f32((i * 37 % 101) as f32 / 9.0 - 5.0).to_bits();
        let cache: Vec<u16> = (0..2 * TILE * d).map(half).collect();
        let (values, keys) = cache.split_at(TILE * d);
        for strange in [1.0, 1e30, 3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let query: Vec<f32> = (0..6 * d)
                .map(|i| {
                    if i % 13 == 5 {
                        strange
                    } else {
                        (i % 7) as f32 - 3.0
                    }
                })
                .collect();
            let expected = outputs(Backend::SCALAR, &query, keys, &cache);
            let sums = expected
                .iter()
                .take(6 * d)
                .map(|&bits| f32::from_bits(bits));
            assert!(sums.into_iter().all(f32::is_finite), "{strange}");
            for backend in Backend::all() {
                let found = outputs(backend, &query, keys, &cache);
                assert_eq!(found, expected, "{strange} on {}", backend.name());
            }
        }
        assert!(values.len() > SLACK);
    }
}
