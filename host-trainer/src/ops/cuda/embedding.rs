//! Token embedding from int8 rows.

use candle_core::Result;

use super::{Launch, Machine, Span};

/// Rows `ids`, all below the number of rows of `weight [V, width]`: `[ids, width]`.
///
/// # Errors
/// Too little memory, or a kernel that does not start.
pub fn forward<M: Machine>(
    m: &M,
    ids: &[u32],
    weight: Span<'_, f32>,
    width: usize,
) -> Result<M::Memory<f32>> {
    let out = m.alloc(ids.len() * width)?;
    let uploaded = m.upload(ids)?;
    m.launch(
        &Launch::warps("embedding_rows", ids.len()),
        &[
            m.span(&uploaded).into(),
            weight.into(),
            ids.len().into(),
            width.into(),
            m.span(&out).into(),
        ],
    )?;
    Ok(out)
}

/// Gradient for `weight [vocab, width]` from that of the rows. Each row sums its places in their order.
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    ids: &[u32],
    dy: Span<'_, f32>,
    (vocab, width): (usize, usize),
) -> Result<M::Memory<f32>> {
    let (starts, order) = places(ids, vocab);
    let (starts, order) = (m.upload(&starts)?, m.upload(&order)?);
    let dw = m.alloc(vocab * width)?;
    m.launch(
        &Launch::elements("embedding_backward", vocab, width),
        &[
            m.span(&starts).into(),
            m.span(&order).into(),
            dy.into(),
            width.into(),
            m.span(&dw).into(),
        ],
    )?;
    Ok(dw)
}

/// Where each id stands: those of id `v` are `order[starts[v]..starts[v + 1]]`, ascending (a counting sort).
fn places(ids: &[u32], vocab: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; vocab + 1];
    for &id in ids {
        starts[id as usize + 1] += 1;
    }
    for v in 0..vocab {
        starts[v + 1] += starts[v];
    }
    let (mut next, mut order) = (starts.clone(), vec![0; ids.len()]);
    for (place, &id) in ids.iter().enumerate() {
        let slot = &mut next[id as usize];
        order[*slot as usize] = place as u32;
        *slot += 1;
    }
    (starts, order)
}
