//! One query head against its keys and values, a tile of queries at a time.

use super::super::gemm::{Mat, add_product, product};
use super::super::math;
use super::{Settings, simd};

/// Queries of one tile: a tile's scores against 256 keys stay in the second-level cache.
const TILE: usize = 64;

/// Scaled queries, keys and values after RoPE, `[T, d]` each.
pub struct Head<'a> {
    settings: &'a Settings,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// Gradients of a key and value head, `[T, d]` each, summed over the query heads that share it.
pub struct KeyGrads {
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

impl KeyGrads {
    pub fn zeros(len: usize) -> Self {
        Self {
            k: vec![0.0; len],
            v: vec![0.0; len],
        }
    }
}

/// Queries `start..start + rows` and the keys `first..first + cols` that any of them sees.
#[derive(Clone, Copy)]
struct Tile {
    start: usize,
    rows: usize,
    first: usize,
    cols: usize,
}

impl<'a> Head<'a> {
    pub fn new(settings: &'a Settings, q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Self {
        Self { settings, q, k, v }
    }

    /// `softmax(q k^T) v` over the visible positions, `[T, d]`.
    pub fn forward(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.q.len()];
        let mut p = Vec::new();
        for tile in self.tiles() {
            self.probabilities(tile, &mut p);
            let at = self.range(tile.start, tile.rows);
            let p = Mat::new(&p, tile.rows, tile.cols);
            product(p, self.part(self.v, tile.first, tile.cols), &mut out[at]);
        }
        out
    }

    /// Gradient for the scaled queries, `[T, d]`; adds those of keys and values.
    /// With `p` the probabilities and `D_t = sum_j p_tj dp_tj`: `ds = p (dp - D)`.
    pub fn backward(&self, grad: &[f32], keys: &mut KeyGrads) -> Vec<f32> {
        let mut dq = vec![0.0; self.q.len()];
        let (mut p, mut dp) = (Vec::new(), Vec::new());
        for tile in self.tiles() {
            let Tile {
                start,
                rows,
                first,
                cols,
            } = tile;
            self.probabilities(tile, &mut p);
            let dout = self.part(grad, start, rows);
            let seen = self.range(first, cols);
            add_product(
                Mat::new(&p, rows, cols).t(),
                dout,
                &mut keys.v[seen.clone()],
            );
            dp.resize(rows * cols, 0.0);
            product(dout, self.part(self.v, first, cols).t(), &mut dp);
            simd(
                #[inline(always)]
                || through_softmax(&p, &mut dp, cols),
            );
            let ds = Mat::new(&dp, rows, cols);
            let at = self.range(start, rows);
            product(ds, self.part(self.k, first, cols), &mut dq[at]);
            add_product(ds.t(), self.part(self.q, start, rows), &mut keys.k[seen]);
        }
        dq
    }

    fn tiles(&self) -> impl Iterator<Item = Tile> {
        let tokens = self.q.len() / self.settings.d_head;
        (0..tokens).step_by(TILE).map(move |start| {
            let rows = TILE.min(tokens - start);
            let first = self.settings.first_visible(start);
            Tile {
                start,
                rows,
                first,
                cols: start + rows - first,
            }
        })
    }

    fn range(&self, start: usize, n: usize) -> std::ops::Range<usize> {
        start * self.settings.d_head..(start + n) * self.settings.d_head
    }

    fn part<'m>(&self, rows: &'m [f32], start: usize, n: usize) -> Mat<'m> {
        Mat::new(&rows[self.range(start, n)], n, self.settings.d_head)
    }

    /// Probabilities `[rows, cols]`, 0 where a query does not see a key.
    fn probabilities(&self, tile: Tile, p: &mut Vec<f32>) {
        p.resize(tile.rows * tile.cols, 0.0);
        let queries = self.part(self.q, tile.start, tile.rows);
        product(queries, self.part(self.k, tile.first, tile.cols).t(), p);
        simd(
            #[inline(always)]
            || {
                for (i, row) in p.chunks_exact_mut(tile.cols).enumerate() {
                    let t = tile.start + i;
                    let from = self.settings.first_visible(t) - tile.first;
                    let to = t + 1 - tile.first;
                    row[..from].fill(0.0);
                    row[to..].fill(0.0);
                    softmax(&mut row[from..to]);
                }
            },
        );
    }
}

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let largest = math::max(row);
    row.iter_mut().for_each(|s| *s = math::exp(*s - largest));
    let factor = 1.0 / math::sum(row);
    row.iter_mut().for_each(|s| *s *= factor);
}

/// Turns the gradient for the probabilities into that for the scores.
#[inline(always)]
fn through_softmax(p: &[f32], dp: &mut [f32], cols: usize) {
    for (p, dp) in p.chunks_exact(cols).zip(dp.chunks_exact_mut(cols)) {
        let mean = math::dot(p, dp);
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - mean);
        }
    }
}
