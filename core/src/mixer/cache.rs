//! Keys and values of one head: values in rows `[slots, d]`, then keys in tiles `[d, TILE]`, as f16 or f32.
//!
//! Invariant: what is stored is finite.

use crate::kernel::attention::{SLACK, Tile};
use crate::math::clamp;
use crate::memory::TILE;
use crate::model::Floats;

/// Reading beyond the last row of values meets keys: a tile of the narrowest head at least.
const _: () = assert!(SLACK <= 2 * TILE);

/// The cache of one head over its words of the state.
pub(super) struct Cache<'s> {
    pub words: &'s mut [f32],
    /// Elements are f32, not f16.
    pub f32: bool,
    /// Tokens that there is room for.
    pub slots: usize,
    /// Width of the head.
    pub d: usize,
}

impl Cache<'_> {
    /// Stores a token's key and value in its place, over those of the token `slots` before.
    pub fn store(&mut self, position: u64, key: &[f32], value: &[f32]) {
        let slot = (position % (self.slots as u64).max(1)) as usize;
        let (d, values) = (self.d, self.slots * self.d);
        if self.f32 {
            store(self.words, values, d, slot, [key, value], finite);
        } else if let Ok(halves) = bytemuck::try_cast_slice_mut(self.words) {
            store(halves, values, d, slot, [key, value], half);
        }
    }

    /// The tile whose first place is `first`, of `places` in use.
    pub fn tile(&self, first: usize, places: usize) -> Tile<'_> {
        let (keys, values) = (self.slots * self.d + first * self.d, first * self.d);
        let floats = |from: usize| match (self.f32, bytemuck::try_cast_slice(self.words)) {
            (false, Ok(halves)) => Floats::F16(halves.get(from..).unwrap_or(&[])),
            _ => Floats::F32(self.words.get(from..).unwrap_or(&[])),
        };
        Tile {
            keys: floats(keys),
            values: floats(values),
            first,
            places: (places - first).min(TILE),
        }
    }
}

fn store<T>(
    cache: &mut [T],
    values: usize,
    d: usize,
    slot: usize,
    [key, value]: [&[f32]; 2],
    narrow: fn(f32) -> T,
) {
    let Some((values, keys)) = cache.split_at_mut_checked(values) else {
        return;
    };
    let row = values.get_mut(slot * d..).unwrap_or_default();
    row.iter_mut()
        .zip(value)
        .for_each(|(to, &v)| *to = narrow(v));
    let tile = keys.get_mut(slot / TILE * TILE * d..).unwrap_or_default();
    for (row, &k) in tile.chunks_exact_mut(TILE).zip(key) {
        if let Some(to) = row.get_mut(slot % TILE) {
            *to = narrow(k);
        }
    }
}

fn finite(x: f32) -> f32 {
    if x.is_finite() { x } else { 0.0 }
}

/// Rounded to even, held within the finite numbers, by software on every target; NaN becomes 0.
fn half(x: f32) -> u16 {
    const MAX: f32 = 65_504.0;
    let x = if x.is_nan() { 0.0 } else { x };
    half::f16::from_f32_const(clamp(x, -MAX, MAX)).to_bits()
}
