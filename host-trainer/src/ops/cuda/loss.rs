//! Cross-entropy.

use candle_core::Result;

use super::{Launch, Machine, Span};

/// Losses of the rows of `logits [targets, V]`, 0 where the target does not count.
///
/// # Errors
/// Too little memory, or a kernel that does not start.
pub fn row_losses<M: Machine>(
    m: &M,
    logits: Span<'_, f32>,
    targets: &[u32],
) -> Result<M::Memory<f32>> {
    let losses = m.alloc(targets.len())?;
    let uploaded = m.upload(targets)?;
    m.launch(
        &Launch::rows("row_losses", [targets.len(), 1], 256),
        &[
            logits.into(),
            m.span(&uploaded).into(),
            (logits.len() / targets.len()).into(),
            m.span(&losses).into(),
        ],
    )?;
    Ok(losses)
}

/// Their sum over `counted`: one value.
///
/// # Errors
/// As [`row_losses`].
pub fn forward<M: Machine>(
    m: &M,
    logits: Span<'_, f32>,
    targets: &[u32],
    counted: usize,
) -> Result<M::Memory<f32>> {
    let losses = row_losses(m, logits, targets)?;
    mean(m, m.span(&losses), counted)
}

/// The sum of `losses` over `counted`.
///
/// # Errors
/// As [`row_losses`].
pub fn mean<M: Machine>(m: &M, losses: Span<'_, f32>, counted: usize) -> Result<M::Memory<f32>> {
    let mean = m.alloc(1)?;
    m.launch(
        &Launch::rows("mean_loss", [1, 1], 256),
        &[
            losses.into(),
            losses.len().into(),
            counted.into(),
            m.span(&mean).into(),
        ],
    )?;
    Ok(mean)
}

/// Gradient for the logits from that of the mean, `grad [1]`.
///
/// # Errors
/// As [`row_losses`].
pub fn backward<M: Machine>(
    m: &M,
    logits: Span<'_, f32>,
    targets: &[u32],
    grad: Span<'_, f32>,
    counted: usize,
) -> Result<M::Memory<f32>> {
    let out = m.alloc(logits.len())?;
    let uploaded = m.upload(targets)?;
    m.launch(
        &Launch::rows("loss_gradient", [targets.len(), 1], 256),
        &[
            logits.into(),
            m.span(&uploaded).into(),
            grad.into(),
            counted.into(),
            (logits.len() / targets.len()).into(),
            m.span(&out).into(),
        ],
    )?;
    Ok(out)
}
