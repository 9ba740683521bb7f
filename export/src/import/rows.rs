//! Tensors of a checkpoint, read in runs of rows, in the order in which a blob wants them.

use super::{ImportError, Loss};
use crate::stream::Scale;

/// A tensor as a reader hands it over: in the shape of its place in the blob.
pub struct Tensor<'a> {
    /// Its elements.
    pub elements: Elements<'a>,
    /// Bytes that it takes in the checkpoint.
    pub bytes: u64,
    /// How much of it was rounded away, where that was asked for.
    pub loss: Option<Loss>,
}

/// What a tensor is made of.
pub enum Elements<'a> {
    /// Weights -1, 0, 1; any other is refused when they are written.
    Ternary(Box<dyn Rows<i8> + 'a>, Scale),
    /// Floats that were this wide in the checkpoint.
    Float(Box<dyn Rows<f32> + 'a>, Width),
}

/// Types of floats in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Binary32, or something that only binary32 holds.
    F32,
    /// Binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

/// Rows of a tensor.
pub trait Rows<T> {
    /// Elements of a row.
    fn cols(&self) -> usize;

    /// Reads the rows from `first` on into `out`, which is a whole number of rows long.
    ///
    /// # Errors
    /// A file that cannot be read, or a value that is no weight.
    fn read(&self, first: usize, out: &mut [T]) -> Result<(), ImportError>;
}

impl<T, R: Rows<T> + ?Sized> Rows<T> for Box<R> {
    fn cols(&self) -> usize {
        (**self).cols()
    }

    fn read(&self, first: usize, out: &mut [T]) -> Result<(), ImportError> {
        (**self).read(first, out)
    }
}

/// Values that are in memory already.
pub struct InMemory {
    values: Vec<f32>,
    cols: usize,
}

impl InMemory {
    /// Rows of `cols` values.
    pub fn new(values: Vec<f32>, cols: usize) -> Self {
        Self { values, cols }
    }
}

impl Rows<f32> for InMemory {
    fn cols(&self) -> usize {
        self.cols
    }

    fn read(&self, first: usize, out: &mut [f32]) -> Result<(), ImportError> {
        let start = first * self.cols;
        out.copy_from_slice(&self.values[start..start + out.len()]);
        Ok(())
    }
}

/// Rows of a query or key projection whose rotary pairs lie half a head apart, put side by side as the core rotates
/// them: within a head of `d` rows, rows `i` and `i + d/2` become rows `2i` and `2i + 1`.
pub struct HalfSplit<R> {
    /// The rows as they are stored.
    pub rows: R,
    /// Rows of a head, `d`.
    pub d_head: usize,
}

impl<T, R: Rows<T>> Rows<T> for HalfSplit<R> {
    fn cols(&self) -> usize {
        self.rows.cols()
    }

    fn read(&self, first: usize, out: &mut [T]) -> Result<(), ImportError> {
        let d = self.d_head;
        for (row, out) in (first..).zip(out.chunks_mut(self.rows.cols().max(1))) {
            let (head, at) = (row / d, row % d);
            self.rows.read(head * d + at % 2 * (d / 2) + at / 2, out)?;
        }
        Ok(())
    }
}

impl Scale {
    /// The scales of rows that [`HalfSplit`] puts side by side.
    pub(super) fn half_split(self, d_head: usize) -> Self {
        match self {
            Self::Tensor(_) => self,
            Self::Rows(scales) => {
                let from = |row| half_split(row, d_head);
                Self::Rows((0..scales.len()).map(|row| scales[from(row)]).collect())
            }
        }
    }
}

/// Which row [`HalfSplit`] puts at `row`.
fn half_split(row: usize, d: usize) -> usize {
    let (head, at) = (row / d, row % d);
    head * d + at % 2 * (d / 2) + at / 2
}

/// Float rows rounded to ternary: `clamp(round(w * (1 / scale)), -1, 1)`.
pub struct Ternarised<R> {
    /// The floats.
    pub rows: R,
    /// `1 / scale`.
    pub inverse: f32,
    /// Rounding to whole numbers.
    pub round: fn(f32) -> f32,
}

impl<R: Rows<f32>> Rows<i8> for Ternarised<R> {
    fn cols(&self) -> usize {
        self.rows.cols()
    }

    fn read(&self, first: usize, out: &mut [i8]) -> Result<(), ImportError> {
        let mut values = vec![0.0; out.len()];
        self.rows.read(first, &mut values)?;
        for (out, value) in out.iter_mut().zip(values) {
            *out = (self.round)(value * self.inverse).clamp(-1.0, 1.0) as i8;
        }
        Ok(())
    }
}

/// Elements that are read at once.
const RUN: usize = 1 << 18;

/// Calls `each` with runs of whole rows, `rows` in all: the first row's number and the elements.
///
/// # Errors
/// Of reading, or of `each`.
pub fn in_runs<T: Copy + Default>(
    from: &dyn Rows<T>,
    rows: usize,
    mut each: impl FnMut(usize, &[T]) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let cols = from.cols();
    let run = (RUN / cols.max(1)).clamp(1, rows.max(1));
    let mut buffer = vec![T::default(); run * cols];
    for first in (0..rows).step_by(run) {
        let part = &mut buffer[..run.min(rows - first) * cols];
        from.read(first, part)?;
        each(first, part)?;
    }
    Ok(())
}

/// Mean of all absolute values, summed in f64.
///
/// # Errors
/// Of reading.
pub fn absmean(from: &dyn Rows<f32>, rows: usize) -> Result<f32, ImportError> {
    let mut sum = 0.0;
    in_runs(from, rows, |_, values| {
        sum += values.iter().map(|&x| f64::from(x.abs())).sum::<f64>();
        Ok(())
    })?;
    Ok((sum / (rows * from.cols()) as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all<T: Copy + Default>(rows: &dyn Rows<T>, n: usize) -> Vec<T> {
        let mut all = vec![T::default(); n * rows.cols()];
        rows.read(0, &mut all).unwrap();
        all
    }

    #[test]
    fn half_split_rows_become_adjacent_pairs_within_each_head() {
        let rows = InMemory::new((0..12).map(|i| i as f32).collect(), 1);
        let split = HalfSplit { rows, d_head: 6 };
        let expected = [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.];
        assert_eq!(read_all(&split, 12), expected);
        let mut part = [0.0; 3];
        split.read(5, &mut part).unwrap();
        assert_eq!(part, [5., 6., 9.]);
    }

    #[test]
    fn ties_go_to_the_even_weight_and_large_ones_are_clamped() {
        let values = vec![0.5, -0.5, 0.51, -1.5, 7.0, 0.0];
        let weights = Ternarised {
            rows: InMemory::new(values, 3),
            inverse: 1.0,
            round: f32::round_ties_even,
        };
        assert_eq!(read_all(&weights, 2), [0, 0, 1, -1, 1, 0]);
    }

    #[test]
    fn runs_cover_every_row_once_and_the_mean_is_of_all_of_them() {
        let cols = RUN / 2 - 1; // runs of two rows
        let rows = InMemory::new((0..5 * cols).map(|i| -(i as f32)).collect(), cols);
        let mut seen = Vec::new();
        in_runs(&rows, 5, |first, values| {
            seen.push((first, values.len() / cols));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(0, 2), (2, 2), (4, 1)]);
        let mean = absmean(&rows, 5).unwrap();
        assert_eq!(mean, (5 * cols - 1) as f32 / 2.0);
    }
}
