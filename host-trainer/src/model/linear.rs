//! Products with a block's matrices, quantised as the configuration says.

use candle_core::{Result, Tensor};

use crate::config::WeightType;
use crate::ops::bit_linear::{bit_linear, int_linear};

/// Multiplies by matrices of one type.
#[derive(Clone, Copy)]
pub struct Linear(pub WeightType);

impl Linear {
    /// `x [.., K]` times `weight [M, K]`: `[.., M]`. The rows of `weight` are `groups` equal matrices one below the other.
    pub fn apply(self, x: &Tensor, weight: &Tensor, groups: usize) -> Result<Tensor> {
        match self.0 {
            WeightType::Ternary => bit_linear(x, weight, groups),
            WeightType::Int8 => int_linear(x, weight, 127),
            WeightType::Int4 => int_linear(x, weight, 7),
            WeightType::Float => x.broadcast_matmul(&weight.t()?),
        }
    }
}
