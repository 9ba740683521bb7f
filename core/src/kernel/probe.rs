//! Single kernels, for the boards' measurements and checks of them. No part of the interface.

use super::{Alone, Backend, Quantised, TABLE_WORDS};
use crate::kernel::parallel::Shared;
use crate::model::{Matrix, Scale, Weights};

/// Packed rows of weights.
#[derive(Clone, Copy, Debug)]
pub enum Packed<'a> {
    /// `t2` rows.
    T2(&'a [u8]),
    /// `t5` rows.
    T5(&'a [u8]),
    /// Signed bytes.
    I8(&'a [i8]),
}

/// Scratch that [`product`] takes.
pub type Tables = [f32; TABLE_WORDS];

/// `out[r] = row_r . q`, with all scales one, by the backend that this machine would take. `q` is `cols` codes, followed
/// by zeros up to a multiple of 64 and 64 more; `total` is their sum.
pub fn product(
    packed: Packed<'_>,
    cols: usize,
    q: &[i8],
    total: i32,
    tables: &mut Tables,
    out: &mut [f32],
) {
    const ONES: &[f32] = &[1.0; 1024];
    let m = Matrix {
        rows: out.len(),
        cols,
        weights: match packed {
            Packed::T2(data) => Weights::T2(data, Scale::Tensor(1.0)),
            Packed::T5(data) => Weights::T5(data, Scale::Tensor(1.0)),
            Packed::I8(data) => Weights::I8(data, ONES),
        },
    };
    let q = Quantised {
        stride: q.len(),
        codes: q,
        scales: &[1.0],
        sums: &[total],
        wide: false,
        tables: Shared::new(tables),
    };
    Backend::detect().matmul(&Alone, &q, &[], [(&m, out)]);
}
