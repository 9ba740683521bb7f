//! The optimiser's step. The norm of all gradients stays on the machine: nothing waits for it.

use candle_core::Result;

use super::{Arg, Launch, Machine, Span};

/// Blocks that sum the squares of a gradient.
const SUM_BLOCKS: usize = 256;

/// Numbers of one step, the same for all tensors.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Largest norm of all gradients together.
    pub clip: f32,
    /// Decay of the first and of the second moment.
    pub betas: [f32; 2],
    /// Learning rate over the correction of the first moment.
    pub rate: f32,
    /// One over the root of the correction of the second moment.
    pub root: f32,
}

/// Euclidean norm of all gradients together: one value.
///
/// # Errors
/// Too little memory, or a kernel that does not start.
pub fn norm<M: Machine>(m: &M, gradients: &[Span<'_, f32>]) -> Result<M::Memory<f64>> {
    let (count, norm) = (gradients.len() * SUM_BLOCKS, m.alloc(1)?);
    let parts = m.alloc::<f64>(count)?;
    let all = m.span(&parts);
    for (i, gradient) in gradients.iter().enumerate() {
        let part = all.part(i * SUM_BLOCKS, SUM_BLOCKS);
        m.launch(
            &Launch::rows("square_sums", [SUM_BLOCKS, 1], 256),
            &[
                (*gradient).into(),
                Arg::Len(gradient.len() as u64),
                part.into(),
            ],
        )?;
    }
    m.launch(
        &Launch::rows("norm_of_parts", [1, 1], 256),
        &[all.into(), count.into(), m.span(&norm).into()],
    )?;
    Ok(norm)
}

/// Updates `values` and both moments in place; `keep` is what weight decay leaves of a value. A norm that is not finite
/// changes nothing.
///
/// # Errors
/// A kernel that does not start.
pub fn update<M: Machine>(
    m: &M,
    step: &Step,
    [values, first, second, gradient]: [Span<'_, f32>; 4],
    norm: Span<'_, f64>,
    keep: f32,
) -> Result<()> {
    m.launch(
        &Launch::rows("adamw", [values.len().div_ceil(256), 1], 256),
        &[
            values.into(),
            first.into(),
            second.into(),
            gradient.into(),
            Arg::Len(values.len() as u64),
            norm.into(),
            step.clip.into(),
            step.betas[0].into(),
            step.betas[1].into(),
            step.rate.into(),
            step.root.into(),
            keep.into(),
        ],
    )
}
