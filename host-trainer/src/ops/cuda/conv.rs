//! Causal depthwise convolution.

use candle_core::Result;

use super::{Arg, Launch, Machine, Span, sum_in_parts};
use crate::ops::conv::WIDTH;

/// Rows of a batch, tokens of a row and width: `[B, T, D]`.
pub type Dims = (usize, usize, usize);

/// Result for `x [B, T, D]` and taps `w [4, D]`.
///
/// # Errors
/// Too little memory, or a kernel that does not start.
pub fn forward<M: Machine>(
    m: &M,
    x: Span<'_, f32>,
    w: Span<'_, f32>,
    (batch, tokens, width): Dims,
) -> Result<M::Memory<f32>> {
    let out = m.alloc(x.len())?;
    m.launch(
        &Launch::elements("causal_conv", batch * tokens, width),
        &[
            x.into(),
            w.into(),
            tokens.into(),
            width.into(),
            m.span(&out).into(),
        ],
    )?;
    Ok(out)
}

/// Gradients for `x` and `w` from that of the result.
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    x: Span<'_, f32>,
    w: Span<'_, f32>,
    dy: Span<'_, f32>,
    (batch, tokens, width): Dims,
) -> Result<(M::Memory<f32>, M::Memory<f32>)> {
    let dx = m.alloc(x.len())?;
    m.launch(
        &Launch::elements("causal_conv_backward", batch * tokens, width),
        &[
            w.into(),
            dy.into(),
            tokens.into(),
            width.into(),
            m.span(&dx).into(),
        ],
    )?;
    let first = [Arg::from(x), dy.into(), tokens.into()];
    let sums = (batch * tokens, WIDTH * width);
    let dw = sum_in_parts(m, "conv_weight_parts", &first, sums, &[width.into()])?;
    Ok((dx, dw))
}
