//! BitLinear and the int8 head: codes and trits in bfloat16, multiplied on the tensor cores, scaled afterwards.

use candle_core::{Result, bail};

use super::{Arg, Launch, Machine, Matrix, Product, Span};
use crate::ops::bit_linear::Weights;

/// Blocks that sum the absolute values of a matrix.
const SUM_BLOCKS: usize = 256;

/// What the backward pass needs of the forward pass.
pub struct Saved<M: Machine> {
    /// Integer codes of the input, `[n, k]`.
    input: M::Memory<u16>,
    input_scales: M::Memory<f32>,
    /// Integer codes of the weights, `[m, k]`.
    weight: M::Memory<u16>,
    weight_scales: M::Memory<f32>,
    /// Rows of weights that share a scale.
    group: usize,
    /// `(n, k, m)`.
    dims: (usize, usize, usize),
}

/// `x [n, k]` times `w [m, k]^T`: `[n, m]`; `dims` is `(n, k, m)`.
///
/// # Errors
/// Too little memory, or kernels that do not start.
pub fn forward<M: Machine>(
    m: &M,
    x: Span<'_, f32>,
    w: Span<'_, f32>,
    dims: (usize, usize, usize),
    weights: Weights,
) -> Result<(M::Memory<f32>, Saved<M>)> {
    let (n, k, outputs) = dims;
    let (input, input_scales) = (m.alloc(n * k)?, m.alloc(n)?);
    quantise(m, "quantise_rows", x, (n, k), [&input], [&input_scales])?;
    let (weight, weight_scales, group) = match weights {
        Weights::IntRows { top } if top != 127 => {
            bail!("quant-linear: a GPU has no kernel for rows of -{top} to {top}")
        }
        Weights::IntRows { .. } => {
            let (codes, scales) = (m.alloc(outputs * k)?, m.alloc(outputs)?);
            quantise(m, "int8_rows", w, (outputs, k), [&codes], [&scales])?;
            (codes, scales, 1)
        }
        Weights::Ternary { groups } => {
            let (codes, scales) = ternarise(m, w, groups)?;
            (codes, scales, outputs / groups)
        }
    };
    let y = m.alloc(n * outputs)?;
    Product {
        a: Matrix::new(m.span(&input)),
        b: Matrix::new(m.span(&weight)).t(),
        out: m.span(&y),
        add: false,
        dims: (n, outputs, k),
    }
    .run(m)?;
    m.launch(
        &Launch::fours("scale_product", n, outputs),
        &[
            m.span(&y).into(),
            m.span(&input_scales).into(),
            m.span(&weight_scales).into(),
            group.into(),
            outputs.into(),
        ],
    )?;
    let saved = Saved {
        input,
        input_scales,
        weight,
        weight_scales,
        group,
        dims,
    };
    Ok((y, saved))
}

/// Gradients for `x` and `w`. Only `dy`, with its scales, is rounded to bfloat16; codes and trits are exact.
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    saved: &Saved<M>,
    dy: Span<'_, f32>,
) -> Result<(M::Memory<f32>, M::Memory<f32>)> {
    let (n, k, outputs) = saved.dims;
    let (for_input, for_weight) = (m.alloc(n * outputs)?, m.alloc(n * outputs)?);
    m.launch(
        &Launch::fours("scale_gradient", n, outputs),
        &[
            dy.into(),
            m.span(&saved.input_scales).into(),
            m.span(&saved.weight_scales).into(),
            saved.group.into(),
            outputs.into(),
            m.span(&for_input).into(),
            m.span(&for_weight).into(),
        ],
    )?;
    let (dx, dw) = (m.alloc(n * k)?, m.alloc(outputs * k)?);
    Product {
        a: Matrix::new(m.span(&for_input)),
        b: Matrix::new(m.span(&saved.weight)),
        out: m.span(&dx),
        add: false,
        dims: (n, k, outputs),
    }
    .run(m)?;
    Product {
        a: Matrix::new(m.span(&for_weight)).t(),
        b: Matrix::new(m.span(&saved.input)),
        out: m.span(&dw),
        add: false,
        dims: (outputs, k, n),
    }
    .run(m)?;
    Ok((dx, dw))
}

/// Codes and scales of the rows of a matrix.
pub(super) fn quantise<M: Machine>(
    m: &M,
    kernel: &'static str,
    values: Span<'_, f32>,
    (rows, width): (usize, usize),
    [codes]: [&M::Memory<u16>; 1],
    [scales]: [&M::Memory<f32>; 1],
) -> Result<()> {
    m.launch(
        &Launch::warps(kernel, rows),
        &[
            values.into(),
            rows.into(),
            width.into(),
            m.span(codes).into(),
            m.span(scales).into(),
        ],
    )
}

/// Trits of `groups` equal matrices one below the other, and the scale of each.
fn ternarise<M: Machine>(
    m: &M,
    w: Span<'_, f32>,
    groups: usize,
) -> Result<(M::Memory<u16>, M::Memory<f32>)> {
    let each = w.len() / groups;
    let len = Arg::Len(each as u64);
    let parts = m.alloc::<f64>(groups * SUM_BLOCKS)?;
    let (codes, scales) = (m.alloc(w.len())?, m.alloc(groups)?);
    m.launch(
        &Launch::rows("abs_sums", [SUM_BLOCKS, groups], 256),
        &[w.into(), len, m.span(&parts).into()],
    )?;
    m.launch(
        &Launch::rows("mean_of_parts", [groups, 1], 32),
        &[
            m.span(&parts).into(),
            SUM_BLOCKS.into(),
            len,
            m.span(&scales).into(),
        ],
    )?;
    m.launch(
        &Launch::rows("ternarise", [each.div_ceil(256), groups], 256),
        &[w.into(), m.span(&scales).into(), len, m.span(&codes).into()],
    )?;
    Ok((codes, scales))
}
