//! Keys and values of one head: values in rows `[slots, d]`, then keys in tiles `[d, TILE]`, as f16 or f32.
//!
//! Invariant: what is stored is finite.

use crate::kernel::Backend;
use crate::kernel::attention::{SLACK, Tile};
use crate::math::modulo;
use crate::memory::TILE;
use crate::model::Floats;
use crate::pieces::Cut;

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
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn store(&mut self, backend: Backend, position: u64, key: &[f32], value: &[f32]) {
        let slot = modulo(position, self.slots as u32) as usize;
        let (d, values) = (self.d, self.slots * self.d);
        if self.f32 {
            store(self.words, values, d, slot, [key, value], finite);
        } else if let Ok(halves) = bytemuck::try_cast_slice_mut(self.words) {
            let narrow = |from: &[f32], to: &mut [u16]| backend.narrow(from, to);
            store(halves, values, d, slot, [key, value], narrow);
        }
    }

    /// The tile whose first place is `first`, of `places` in use.
    #[cfg_attr(bitttt_micro, inline(never))]
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

/// Elements of a key that are narrowed together.
const BLOCK: usize = 32;

fn store<T: Copy + Default>(
    cache: &mut [T],
    values: usize,
    d: usize,
    slot: usize,
    [key, value]: [&[f32]; 2],
    narrow: impl Fn(&[f32], &mut [T]),
) {
    let Some((values, keys)) = cache.split_at_mut_checked(values) else {
        return;
    };
    narrow(value, values.get_mut(slot * d..).unwrap_or_default());
    let tile = keys.get_mut(slot / TILE * TILE * d..).unwrap_or_default();
    let mut rest = tile;
    for key in key.parts(BLOCK) {
        let (rows, behind) = core::mem::take(&mut rest)
            .split_at_mut_checked(TILE * key.len())
            .unwrap_or_default();
        rest = behind;
        let mut column = [T::default(); BLOCK];
        narrow(key, &mut column);
        let elements = column.iter().take(key.len());
        for (row, &k) in rows.pieces_mut(TILE).zip(elements) {
            if let Some(to) = row.get_mut(slot % TILE) {
                *to = k;
            }
        }
    }
}

fn finite(from: &[f32], to: &mut [f32]) {
    for (to, &x) in to.iter_mut().zip(from) {
        *to = if x.is_finite() { x } else { 0.0 };
    }
}
