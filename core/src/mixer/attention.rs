//! Grouped-query attention (Vaswani et al. 2017; Ainslie et al. 2023) with rotary positions, over a cache of keys and
//! values in the session's memory: all of the context, or a ring of the last tokens.
//!
//! Tokens see a cache tile by tile, in the order of its places. A pass stores the keys and values of all its tokens
//! first and then takes each tile to every token that sees it; a token's own sums are the same as if it came alone.

use super::cache::Cache;
use super::{Heads, Rows};
use crate::format::{Config, LayerConfig};
use crate::kernel::Backend;
use crate::kernel::attention::{KEY, OUT, QUERY, Queries, RUNNING, Tile, VALUE};
use crate::kernel::lanes::copy;
use crate::kernel::parallel::{Divided, split};
use crate::math::sqrt;
use crate::memory::{Batch, TILE, cache_words, slots, widened_words};
use crate::model::Floats;
use crate::pieces::Cut;
use crate::workspace::Pass;
use core::ops::Range;

/// Attends from every token of the pass; the parts are heads of keys and values with the query heads that share them.
#[cfg_attr(bitttt_micro, inline(never))]
pub(super) fn attend(
    record: &LayerConfig,
    pass: &Pass<'_>,
    state: &mut [f32],
    heads: Heads<'_>,
    [q, k, v, x]: Rows<'_>,
) {
    let (config, n) = (pass.config, pass.tokens);
    let d = config.d_head() as usize;
    let kv_heads = usize::from(record.kv_heads).max(1);
    let group = usize::from(config.n_heads) / kv_heads;
    let Some((running, widened)) = heads
        .temp
        .split_at_mut_checked(n * 2 * usize::from(config.n_heads))
    else {
        return;
    };
    let words = cache_words(config, record, pass.batch);
    let wide = widened_words(config, record, pass.batch.tokens());
    split(
        pass.parallel,
        kv_heads,
        &mut [Divided::new(state, words), Divided::new(widened, wide)],
        &mut [
            Divided::new(q, group * d),
            Divided::new(k, d),
            Divided::new(v, d),
            Divided::new(x, group * d),
            Divided::new(running, 2 * group),
        ],
        &|_, [words, widened], rows| {
            let mut head = Head {
                cache: Cache {
                    words,
                    f32: record.kv_f32,
                    slots: slots(config, record, pass.batch),
                    d,
                },
                queries: Queries {
                    rows,
                    group,
                    d,
                    scale: 1.0 / sqrt(d as f32),
                    tokens: 0..0,
                    visible: 0,
                },
                widened,
            };
            head.run(pass, record.window != 0, heads.angles);
        },
    );
}

/// Puts a layer's cache back to zeros, of which the first `touched` tokens' places may have been written to.
pub(super) fn reset(
    record: &LayerConfig,
    config: &Config,
    batch: Batch,
    state: &mut [f32],
    touched: u64,
) {
    let slots = slots(config, record, batch);
    let touched = usize::try_from(touched).unwrap_or(slots).min(slots);
    let row = config.d_head() as usize / if record.kv_f32 { 1 } else { 2 };
    for words in state.pieces_mut(cache_words(config, record, batch)) {
        let Some((values, keys)) = words.split_at_mut_checked(slots * row) else {
            return;
        };
        let tiles = touched.next_multiple_of(TILE) * row;
        values
            .get_mut(..touched * row)
            .unwrap_or_default()
            .fill(0.0);
        keys.get_mut(..tiles).unwrap_or_default().fill(0.0);
    }
}

/// One head of keys and values over a pass.
struct Head<'s> {
    cache: Cache<'s>,
    queries: Queries<'s>,
    /// Room for a tile of values and keys as f32; empty where that does not pay.
    widened: &'s mut [f32],
}

impl Head<'_> {
    /// Takes the pass's tokens in runs whose keys and values have room beside everything that the run's tokens see. A
    /// full ring has room for one more token at a time, since storing it overwrites what the token before it saw.
    fn run(&mut self, pass: &Pass<'_>, ring: bool, angles: &[f32]) {
        let mut t = 0;
        while t < pass.tokens {
            let position = pass.position.saturating_add(t as u64);
            let seen = usize::try_from(position).unwrap_or(usize::MAX);
            let run = match ring {
                true => self.cache.slots.saturating_sub(seen).max(1),
                false => usize::MAX,
            };
            let tokens = t..t.saturating_add(run).min(pass.tokens);
            for (t, position) in tokens.clone().zip(position..) {
                let angles = angles.get(t * self.cache.d..).unwrap_or(&[]);
                let rows = &mut self.queries.rows;
                pass.backend.rotate(rows.row::<KEY>(t), angles);
                for query in rows.row::<QUERY>(t).pieces_mut(self.cache.d) {
                    pass.backend.rotate(query, angles);
                }
                let (key, value) = (rows.read::<KEY>(t), rows.read::<VALUE>(t));
                self.cache.store(pass.backend, position, key, value);
            }
            let visible = seen.saturating_add(1).min(self.cache.slots);
            self.attend(pass, tokens.clone(), visible);
            t = tokens.end;
        }
    }

    /// Attention of a run of tokens, of which the first sees the first `visible` places and each next one sees one more.
    fn attend(&mut self, pass: &Pass<'_>, tokens: Range<usize>, visible: usize) {
        for t in tokens.clone() {
            self.queries.rows.row::<OUT>(t).fill(0.0);
            for running in self.queries.rows.row::<RUNNING>(t).chunks_exact_mut(2) {
                copy(running, &[f32::NEG_INFINITY, 0.0]);
            }
        }
        let places = visible + tokens.len() - 1;
        for first in (0..places).step_by(TILE) {
            // tokens from the first one that sees the tile
            let start = tokens.start + (first + 1).saturating_sub(visible);
            self.queries.tokens = start..tokens.end;
            self.queries.visible = visible + (start - tokens.start);
            let mut tile = self.cache.tile(first, places);
            if tokens.len() > 1 && !self.widened.is_empty() {
                tile = widen(&tile, self.widened, pass.backend);
            }
            pass.backend.attend(&tile, &mut self.queries);
        }
        for t in tokens {
            let [.., out, running] = self.queries.rows.rows(t);
            let out = out.pieces_mut(self.cache.d);
            for (out, running) in out.zip(running.chunks_exact(2)) {
                let sum = running.get(1).copied().unwrap_or(0.0);
                let inverse = if sum > 0.0 { 1.0 / sum } else { 0.0 };
                out.iter_mut().for_each(|out| *out *= inverse);
            }
        }
    }
}

/// The tile in `to`, values first as in the cache, so that reading beyond the last row meets keys.
fn widen<'t>(tile: &Tile<'_>, to: &'t mut [f32], backend: Backend) -> Tile<'t> {
    let half = to.len() / 2;
    if let Some((values, keys)) = to.split_at_mut_checked(half) {
        backend.widen_tile(tile.values, values);
        backend.widen_tile(tile.keys, keys);
    }
    Tile {
        keys: Floats::F32(to.get(half..).unwrap_or(&[])),
        values: Floats::F32(to),
        ..*tile
    }
}
