//! Products of bfloat16 matrices with f32 sums, as cuBLAS takes them. Codes and trits are exact in bfloat16, and so are
//! their products' sums in f32 below 2^24.

use super::{Machine, Span};
use candle_core::Result;

/// A row-major matrix of bfloat16, used as it is or transposed.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: Span<'a, u16>,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// The matrix as it is stored.
    pub fn new(values: Span<'a, u16>) -> Self {
        Self {
            values,
            transposed: false,
        }
    }

    /// Its transpose.
    pub fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }
}

/// `out [m, n] = a [m, k] * b [k, n]`, all row-major, `a` and `b` after their transposition.
pub struct Product<'a> {
    /// Left operand.
    pub a: Matrix<'a>,
    /// Right operand.
    pub b: Matrix<'a>,
    /// Result.
    pub out: Span<'a, f32>,
    /// Whether it is added to what stands there.
    pub add: bool,
    /// `(m, n, k)`.
    pub dims: (usize, usize, usize),
}

/// The same in the terms of BLAS, whose matrices are column-major: `c [m, n] = op(a) * op(b)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnMajor {
    /// Whether the operand is transposed, where it lies, and the distance of its columns.
    pub a: (bool, u64, usize),
    /// As `a`.
    pub b: (bool, u64, usize),
    /// Where the result goes, and the distance of its columns.
    pub c: (u64, usize),
    /// Whether it is added to what stands there.
    pub add: bool,
    /// `(m, n, k)`.
    pub dims: (usize, usize, usize),
}

impl Product<'_> {
    /// A row-major matrix is a column-major one transposed, so the product is made as `out^T = b^T a^T`.
    pub fn column_major(&self) -> ColumnMajor {
        let (m, n, k) = self.dims;
        let operand = |matrix: Matrix<'_>, rows, cols| {
            let width = if matrix.transposed { rows } else { cols };
            (matrix.transposed, matrix.values.address, width)
        };
        ColumnMajor {
            a: operand(self.b, k, n),
            b: operand(self.a, m, k),
            c: (self.out.address, n),
            add: self.add,
            dims: (n, m, k),
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn run<M: Machine>(&self, machine: &M) -> Result<()> {
        let (m, n, k) = self.dims;
        debug_assert_eq!(self.a.values.len(), m * k, "left operand");
        debug_assert_eq!(self.b.values.len(), k * n, "right operand");
        debug_assert_eq!(self.out.len(), m * n, "result");
        machine.multiply(&self.column_major())
    }
}
