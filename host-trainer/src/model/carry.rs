//! What goes over from one segment of long rows to the next: values without gradient (truncated back-propagation through
//! time), so that memory depends on the segment and not on the row.

use candle_core::{Result, Tensor};

use crate::ops::conv::{WIDTH, causal_conv};
use crate::ops::ttt::FastState;

/// State of every block behind the segments so far; empty before the first.
#[derive(Default)]
pub struct Carry {
    pub(super) blocks: Vec<BlockCarry>,
}

/// State of one block.
#[derive(Clone, Default)]
pub(super) struct BlockCarry {
    /// Last inputs `[B, 3, D]` of the convolution before the mixer.
    pub conv: Option<Tensor>,
    /// The same before the feed-forward network.
    pub ffn_conv: Option<Tensor>,
    /// Fast weights.
    pub fast: Option<FastState>,
}

/// Convolution of `x [B, T, D]` behind what `carried` holds, which then holds the end of `x`. Without a place to carry,
/// rows start here and end here.
pub(super) fn convolve(
    x: &Tensor,
    taps: &Tensor,
    carried: Option<&mut Option<Tensor>>,
) -> Result<Tensor> {
    let Some(carried) = carried else {
        return causal_conv(x, taps);
    };
    let tokens = x.dim(1)?;
    let history = match carried.take() {
        Some(history) => history,
        None => x.narrow(1, 0, 1)?.zeros_like()?.repeat((1, WIDTH - 1, 1))?,
    };
    let all = Tensor::cat(&[&history, x], 1)?;
    *carried = Some(all.narrow(1, tokens, WIDTH - 1)?.contiguous()?.detach());
    causal_conv(&all, taps)?.narrow(1, WIDTH - 1, tokens)
}
