//! Values left out of a training step.

use candle_core::Result;

use super::{Arg, Launch, Machine, Span};
use crate::ops::dropout::Dropout;

/// `x [rows, width]`, whose first value has place `first`, without what is left out.
///
/// # Errors
/// Too little memory, or a kernel that does not start.
pub fn apply<M: Machine>(
    m: &M,
    d: Dropout,
    x: Span<'_, f32>,
    (rows, width): (usize, usize),
    first: u64,
) -> Result<M::Memory<f32>> {
    let out = m.alloc(x.len())?;
    m.launch(
        &Launch::elements("dropout", rows, width),
        &[
            x.into(),
            Arg::Len(d.key),
            Arg::Len(first),
            Arg::Len(d.bound()),
            d.scale().into(),
            width.into(),
            m.span(&out).into(),
        ],
    )?;
    Ok(out)
}
