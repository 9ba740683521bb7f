//! RMSNorm, plain and gated.

use candle_core::Result;

use super::{Arg, Launch, Machine, Span, sum_in_parts};

/// Operands: `x [rows, width]`, `gain [width]` and, where the norm is gated, `gate [rows, width]`.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// What is normalised.
    pub x: Span<'a, f32>,
    /// Gain.
    pub gain: Span<'a, f32>,
    /// Gate before its SiLU.
    pub gate: Option<Span<'a, f32>>,
    /// Epsilon.
    pub eps: f32,
}

/// Gradients for `x`, `gain` and the gate.
pub type Gradients<M> = (
    <M as Machine>::Memory<f32>,
    <M as Machine>::Memory<f32>,
    Option<<M as Machine>::Memory<f32>>,
);

impl Operands<'_> {
    fn rows(&self) -> (usize, usize) {
        let width = self.gain.len();
        (self.x.len() / width, width)
    }
}

/// The normalised rows.
///
/// # Errors
/// Too little memory, or a kernel that does not start.
pub fn forward<M: Machine>(m: &M, o: Operands<'_>) -> Result<M::Memory<f32>> {
    let (rows, width) = o.rows();
    let out = m.alloc(o.x.len())?;
    m.launch(
        &Launch::warps("rms_norm", rows),
        &[
            o.x.into(),
            o.gain.into(),
            o.gate.into(),
            rows.into(),
            width.into(),
            o.eps.into(),
            m.span(&out).into(),
        ],
    )?;
    Ok(out)
}

/// Gradients from that of the result.
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(m: &M, o: Operands<'_>, dy: Span<'_, f32>) -> Result<Gradients<M>> {
    let (rows, width) = o.rows();
    let (dx, factors) = (m.alloc::<f32>(o.x.len())?, m.alloc::<f32>(rows)?);
    let dgate = o.gate.map(|_| m.alloc(o.x.len())).transpose()?;
    m.launch(
        &Launch::warps("rms_norm_backward", rows),
        &[
            o.x.into(),
            o.gain.into(),
            o.gate.into(),
            dy.into(),
            rows.into(),
            width.into(),
            o.eps.into(),
            m.span(&dx).into(),
            dgate.as_ref().map(|d| m.span(d)).into(),
            m.span(&factors).into(),
        ],
    )?;
    let first = [
        Arg::from(o.x),
        o.gate.into(),
        dy.into(),
        m.span(&factors).into(),
    ];
    let dgain = sum_in_parts(m, "gain_parts", &first, (rows, width), &[width.into()])?;
    Ok((dx, dgain, dgate))
}
