//! Integer products on microcontrollers, where one weight at a time costs most of a token.
//!
//! A byte of a `t5` row stands for five weights, so a row needs only the right one of 256 sums of five activations. They
//! are computed once a product, eight bytes of every row at a time, and each row looks its own up. Exact, like every
//! integer product: the results are those of `scalar`.
//!
//! Which way: `t5` always takes tables. A table costs about 220 instructions (Thumb-2) and saves about 20 for each row
//! that looks into it, so it pays from some ten rows on, and matrices have more. `i8` has no byte that is worth a table:
//! with the DSP extension two weights are multiplied at a time. Everything else, `t2` too, which is for hosts, runs the
//! plain loops of `scalar`.

#[cfg(bitttt_dsp)]
mod dsp;
#[cfg_attr(bitttt_thumb2, allow(dead_code))] // has its own way to build them
mod table;
#[cfg(bitttt_thumb2)]
mod thumb;

#[cfg(not(bitttt_thumb2))]
use self::table as tables;
use super::Product;
use crate::model::{Scale, Weights};
use crate::pieces::Cut;
use core::ops::Range;
use table::{BASE, TABLE, TABLES};
#[cfg(bitttt_thumb2)]
use thumb as tables;

const _: () = assert!(super::TABLE_WORDS == TABLE * TABLES);

/// `out[t, r] = row_r . activations_t`, see [`super::Backend::matmul`]. All rows of a product in one call: they share the
/// tables.
pub(super) fn product(p: &Product<'_>, rows: Range<usize>) {
    match p.m.weights {
        Weights::T5(data, scale) => t5_product(data, scale, p, rows),
        #[cfg(bitttt_dsp)]
        Weights::I8(data, scales) => dsp::i8_product(data, scales, p, rows),
        _ => super::scalar::product(p, rows),
    }
}

/// A byte column's table holds [`BASE`] too much for each row that looks into it, and digits are weights plus one.
fn t5_product(data: &[u8], scale: Scale<'_>, p: &Product<'_>, rows: Range<usize>) {
    let width = super::row_width(data, p.m);
    // SAFETY: the scratch belongs to this product, which is not cut: `Backend::matmul` gives it one part.
    let Ok(words) =
        bytemuck::try_cast_slice_mut(unsafe { p.q.tables.piece(0..super::TABLE_WORDS) })
    else {
        return;
    };
    let data = data.get(rows.start * width..).unwrap_or(&[]);
    let codes = p.q.codes.pieces(p.q.stride);
    for (t, ((codes, &token), &total)) in codes.zip(p.q.scales).zip(p.q.sums).enumerate() {
        let out = p.out(t, rows.clone());
        let Ok(sums) = bytemuck::try_cast_slice_mut::<f32, u32>(out) else {
            return;
        };
        let excess = (BASE as usize * width) as u32;
        let start = excess.wrapping_add(total as u32).wrapping_neg();
        by_fours(sums, &mut |sum, _| *sum = start);
        add_columns(data, width, codes, words, sums);
        match scale {
            Scale::Tensor(scale) => {
                let scale = token * scale;
                by_fours(sums, &mut |sum, _| {
                    *sum = (*sum as i32 as f32 * scale).to_bits();
                });
            }
            Scale::Rows(scales) => by_fours(sums, &mut |sum, r| {
                let scale = super::at(scales, rows.start + r);
                *sum = (*sum as i32 as f32 * (token * scale)).to_bits();
            }),
        }
    }
}

/// Does the same to every element and its place, four to a turn of the loop: with one, the turns cost as much as the work.
#[inline(always)]
fn by_fours(all: &mut [u32], each: &mut impl FnMut(&mut u32, usize)) {
    let (fours, rest) = all.as_chunks_mut::<4>();
    let mut place = 0;
    for [a, b, c, d] in fours {
        each(a, place);
        each(b, place + 1);
        each(c, place + 2);
        each(d, place + 3);
        place += 4;
    }
    for one in rest {
        each(one, place);
        place += 1;
    }
}

/// Adds every byte of the rows, as many columns at a time as there are tables.
fn add_columns(data: &[u8], width: usize, codes: &[i8], words: &mut [u32], sums: &mut [u32]) {
    const BLOCK: usize = 64;
    let mut at = 0;
    while at < width {
        let inside = at % BLOCK;
        let stride = (width - (at - inside)).min(BLOCK);
        let columns = match stride - inside {
            TABLES.. => TABLES,
            4.. => 4,
            _ => 1,
        };
        let planes = codes.get((at - inside) * 5 + inside..).unwrap_or(&[]);
        tables::build(columns, words, planes, stride);
        let bytes = data.get(at..).unwrap_or(&[]);
        tables::add(columns, words, bytes, width, sums);
        at += columns;
    }
}
