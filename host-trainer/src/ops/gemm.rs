//! Safe face of the `gemm` crate: strided matrix views over slices, bounds checked once.
#![allow(unsafe_code)]

use rayon::prelude::*;

/// A matrix view, `rows x cols`, element `(r, c)` at `r * row_stride + c * col_stride`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix over all of `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows}x{cols} matrix");
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// The view of `rows` rows from row `start`.
    pub fn rows_from(self, start: usize, rows: usize) -> Self {
        assert!(start + rows <= self.rows, "rows of the matrix");
        Self {
            data: &self.data[start * self.row_stride..],
            rows,
            ..self
        }
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// Rows of the result computed by one task. `gemm`'s own threads wait for each other by spinning,
/// which on a busy machine cost half of the time; tasks of whole rows need no waiting.
const ROWS: usize = 256;

/// `a * b`, row-major. Sums whose partial sums are integers below 2^24 come out exact.
pub fn matmul(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    let mut out = vec![0.0f32; a.rows * b.cols];
    if out.is_empty() || a.cols == 0 {
        return out;
    }
    // A result of few rows (a gradient of weights) is cut for all threads.
    let rows = ROWS.min(a.rows.div_ceil(rayon::current_num_threads()));
    out.par_chunks_mut(rows * b.cols)
        .enumerate()
        .for_each(|(i, out)| product(a.rows_from(i * rows, out.len() / b.cols), b, out));
    out
}

/// `out = a * b`, row-major, on this thread.
pub fn product(a: Mat<'_>, b: Mat<'_>, out: &mut [f32]) {
    multiply(a, b, out, false);
}

/// `out += a * b`, row-major, on this thread.
pub fn add_product(a: Mat<'_>, b: Mat<'_>, out: &mut [f32]) {
    multiply(a, b, out, true);
}

fn multiply(a: Mat<'_>, b: Mat<'_>, out: &mut [f32], add: bool) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert_eq!(out.len(), a.rows * b.cols, "size of the result");
    // SAFETY: `Mat::new` and `Mat::rows_from` keep views inside their slices (transposing permutes
    // the same index set), and `out` is a row-major `a.rows x b.cols` buffer borrowed exclusively.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
