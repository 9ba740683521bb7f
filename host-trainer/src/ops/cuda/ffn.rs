//! Middle of the feed-forward network.

use candle_core::{Result, bail};

use super::{Arg, Launch, Machine, Span, sum_in_parts};
use crate::config::Activation;

/// Operands: `x [rows, 2 width]` of gate and up, `gain [width]`.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// Gate, then up, in each row.
    pub x: Span<'a, f32>,
    /// Gain of the norm.
    pub gain: Span<'a, f32>,
    /// Activation of the gate.
    pub activation: Activation,
    /// Epsilon of the norm.
    pub eps: f32,
}

impl Operands<'_> {
    fn rows(&self) -> (usize, usize) {
        let width = self.gain.len();
        (self.x.len() / (2 * width), width)
    }

    fn relu2(&self) -> bool {
        self.activation == Activation::Relu2
    }
}

/// A block a row, which keeps `kept` values for each of `width`.
fn launch<M: Machine>(
    m: &M,
    kernel: &'static str,
    rows: usize,
    width: usize,
    kept: usize,
) -> Result<Launch> {
    let shared = kept * width * size_of::<f32>();
    if shared > m.max_shared() {
        bail!(
            "a feed-forward network {width} wide needs {shared} bytes of shared memory, a block has {}; make model.d_ffn \
             smaller, or use --device cpu",
            m.max_shared()
        );
    }
    Ok(Launch {
        shared,
        ..Launch::blocks(kernel, rows, width, 256)
    })
}

/// `RMSNorm(act(gate) * up)`, `[rows, width]`.
///
/// # Errors
/// Too little memory, or a kernel that does not start.
pub fn forward<M: Machine>(m: &M, o: Operands<'_>) -> Result<M::Memory<f32>> {
    let (rows, width) = o.rows();
    let out = m.alloc(rows * width)?;
    m.launch(
        &launch(m, "glu_norm", rows, width, 1)?,
        &[
            o.x.into(),
            o.gain.into(),
            o.relu2().into(),
            width.into(),
            o.eps.into(),
            m.span(&out).into(),
        ],
    )?;
    Ok(out)
}

/// Gradients for `x` and `gain` from that of the result.
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    o: Operands<'_>,
    dy: Span<'_, f32>,
) -> Result<(M::Memory<f32>, M::Memory<f32>)> {
    let (rows, width) = o.rows();
    let (dx, factors) = (m.alloc::<f32>(o.x.len())?, m.alloc::<f32>(rows)?);
    m.launch(
        &launch(m, "glu_norm_backward", rows, width, 3)?,
        &[
            o.x.into(),
            o.gain.into(),
            o.relu2().into(),
            dy.into(),
            width.into(),
            o.eps.into(),
            m.span(&dx).into(),
            m.span(&factors).into(),
        ],
    )?;
    let first = [
        Arg::from(o.x),
        o.relu2().into(),
        dy.into(),
        m.span(&factors).into(),
    ];
    let dgain = sum_in_parts(m, "glu_gain_parts", &first, (rows, width), &[width.into()])?;
    Ok((dx, dgain))
}
