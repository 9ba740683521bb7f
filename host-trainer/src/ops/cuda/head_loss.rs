//! The int8 head and its cross-entropy at once, values and gradients, some rows at a time: the logits of all of them, and
//! their gradients, would be most of what a step of a small model writes and keeps.

use candle_core::Result;

use super::bit_linear::quantise;
use super::{Launch, Machine, Matrix, Product, Span};

/// Logits at a time.
pub const CHUNK: usize = 1 << 25;

/// Operands of the operation.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// `[n, k]`.
    pub x: Span<'a, f32>,
    /// Head, `[V, k]`.
    pub weight: Span<'a, f32>,
    /// A token of each row, or `IGNORE`.
    pub targets: &'a [u32],
    /// How many of them count.
    pub counted: usize,
}

/// The mean loss `[1]`, and its gradients for `x` and for `weight`; `chunk` logits at a time, at least a row's.
///
/// # Errors
/// Too little memory, or kernels that do not start.
pub fn forward<M: Machine>(m: &M, o: Operands<'_>, chunk: usize) -> Result<[M::Memory<f32>; 3]> {
    let n = o.targets.len();
    let k = o.x.len() / n;
    let vocab = o.weight.len() / k;
    let (input, input_scales) = (m.alloc(n * k)?, m.alloc(n)?);
    quantise(m, "quantise_rows", o.x, (n, k), [&input], [&input_scales])?;
    let (weight, weight_scales) = (m.alloc(vocab * k)?, m.alloc(vocab)?);
    quantise(
        m,
        "int8_rows",
        o.weight,
        (vocab, k),
        [&weight],
        [&weight_scales],
    )?;
    let weight = Matrix::new(m.span(&weight));
    let targets = m.upload(o.targets)?;
    let (losses, dx, dw) = (m.alloc(n)?, m.alloc(n * k)?, m.alloc(vocab * k)?);

    let most = (chunk / vocab).clamp(1, n);
    let logits = m.alloc(most * vocab)?;
    let (for_input, for_weight) = (m.alloc(most * vocab)?, m.alloc(most * vocab)?);
    for start in (0..n).step_by(most) {
        let rows = most.min(n - start);
        let logits = m.span(&logits).part(0, rows * vocab);
        let [for_input, for_weight] =
            [&for_input, &for_weight].map(|all| m.span(all).part(0, rows * vocab));
        let input = Matrix::new(m.span(&input).part(start * k, rows * k));
        Product {
            a: input,
            b: weight.t(),
            out: logits,
            add: false,
            dims: (rows, vocab, k),
        }
        .run(m)?;
        m.launch(
            &Launch::blocks("head_loss", rows, vocab, 1024),
            &[
                logits.into(),
                m.span(&input_scales).part(start, rows).into(),
                m.span(&weight_scales).into(),
                m.span(&targets).part(start, rows).into(),
                o.counted.into(),
                vocab.into(),
                m.span(&losses).part(start, rows).into(),
                for_input.into(),
                for_weight.into(),
            ],
        )?;
        Product {
            a: Matrix::new(for_input),
            b: weight,
            out: m.span(&dx).part(start * k, rows * k),
            add: false,
            dims: (rows, k, vocab),
        }
        .run(m)?;
        Product {
            a: Matrix::new(for_weight).t(),
            b: input,
            out: m.span(&dw),
            add: start > 0,
            dims: (vocab, k, rows),
        }
        .run(m)?;
    }
    Ok([super::loss::mean(m, m.span(&losses), o.counted)?, dx, dw])
}
