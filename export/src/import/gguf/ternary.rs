//! Matrices whose weights are exactly -s, 0 and s, in whatever type they are stored.

use super::I2sLayout;
use super::decode::{self, floats, trits, trits_of_arm};
use super::file::{Gguf, Stored};
use super::kind::{I2_S_TAIL, Kind};
use crate::import::{ImportError, Rows, in_runs};
use crate::stream::Scale;

/// A tensor's values.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    pub file: &'a Gguf,
    pub stored: &'a Stored,
    pub layout: I2sLayout,
    /// Scale of an [`Kind::I2_S`] tensor, else 1.
    scale: f32,
}

/// The signs of a tensor's values: its weights where [`Values::scale`] found a scale.
#[derive(Clone, Copy)]
pub struct Signs<'a>(pub Values<'a>);

impl<'a> Values<'a> {
    /// The values of a tensor.
    ///
    /// # Errors
    /// A file that cannot be read, or a scale of [`Kind::I2_S`] that is none.
    pub fn new(file: &'a Gguf, stored: &'a Stored, layout: I2sLayout) -> Result<Self, ImportError> {
        let mut scale = 1.0;
        if stored.kind == Kind::I2_S {
            let mut bytes = [0; 4];
            file.read(stored.offset + stored.bytes - I2_S_TAIL, &mut bytes)?;
            scale = f32::from_le_bytes(bytes);
            if !scale.is_normal() {
                let what = format!(
                    "has the scale {scale}: it was quantised by more than one thread, which that type's quantiser cannot do; make the file again with one"
                );
                return Err(ImportError::tensor(file.path(), &stored.name, what));
            }
        }
        Ok(Self {
            file,
            stored,
            layout,
            scale,
        })
    }

    /// Scales by which all values are -1, 0 or 1, or which row is in the way of that.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn scale(&self) -> Result<Result<Scale, usize>, ImportError> {
        if self.stored.kind == Kind::I2_S {
            return Ok(Ok(Scale::Tensor(self.scale)));
        }
        let mut scales = Vec::with_capacity(self.stored.rows as usize);
        let mut other = None;
        let mut take = |row: usize, scale: Option<f32>| match scale {
            Some(scale) => scales.push(scale),
            None => {
                other.get_or_insert(row);
            }
        };
        match self.stored.kind {
            Kind::Tq1_0 | Kind::Tq2_0 => {
                in_runs(&Blocks(self), self.stored.rows as usize, |first, bytes| {
                    let (_, length) = self.stored.kind.block();
                    let rows = bytes.chunks(self.row_bytes());
                    (first..).zip(rows).for_each(|(row, blocks)| {
                        take(row, block_scale(self.stored.kind, blocks, length as usize))
                    });
                    Ok(())
                })?
            }
            _ => in_runs(self, self.stored.rows as usize, |first, values| {
                let rows = values.chunks(self.cols());
                (first..)
                    .zip(rows)
                    .for_each(|(row, values)| take(row, row_scale(values)));
                Ok(())
            })?,
        }
        Ok(match other {
            Some(row) => Err(row),
            None => Ok(together(scales)),
        })
    }

    /// Bytes of a row of a type whose rows are whole blocks.
    fn row_bytes(&self) -> usize {
        let (weights, bytes) = self.stored.kind.block();
        (self.stored.cols / weights * bytes) as usize
    }

    /// Bytes of `rows` rows.
    fn bytes(&self, first: usize, rows: usize) -> Result<Vec<u8>, ImportError> {
        let row = self.row_bytes();
        let mut bytes = vec![0; rows * row];
        let at = self.stored.offset + first as u64 * row as u64;
        self.file.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Weights of an [`Kind::I2_S`] tensor, whose blocks go over the ends of rows.
    fn i2_s(&self, first: usize, out: &mut [i8]) -> Result<(), ImportError> {
        let (weights, length) = Kind::I2_S.block();
        let (weights, length) = (weights as usize, length as usize);
        let start = first * self.cols();
        let blocks = start / weights..(start + out.len()).div_ceil(weights);
        let mut bytes = vec![0; blocks.len() * length];
        let at = self.stored.offset + (blocks.start * length) as u64;
        self.file.read(at, &mut bytes)?;
        let mut all = vec![0; blocks.len() * weights];
        match self.layout {
            I2sLayout::X86 => trits(Kind::I2_S, &bytes, &mut all),
            I2sLayout::Arm => trits_of_arm(&bytes, &mut all),
        }
        out.copy_from_slice(&all[start - blocks.start * weights..][..out.len()]);
        Ok(())
    }
}

impl Rows<f32> for Values<'_> {
    fn cols(&self) -> usize {
        self.stored.cols as usize
    }

    fn read(&self, first: usize, out: &mut [f32]) -> Result<(), ImportError> {
        if self.stored.kind == Kind::I2_S {
            let mut weights = vec![0; out.len()];
            self.i2_s(first, &mut weights)?;
            let pairs = out.iter_mut().zip(weights);
            pairs.for_each(|(out, weight)| *out = self.scale * f32::from(weight));
            return Ok(());
        }
        let bytes = self.bytes(first, out.len() / self.cols().max(1))?;
        floats(self.stored.kind, &bytes, out);
        Ok(())
    }
}

impl Rows<i8> for Signs<'_> {
    fn cols(&self) -> usize {
        self.0.cols()
    }

    fn read(&self, first: usize, out: &mut [i8]) -> Result<(), ImportError> {
        match self.0.stored.kind {
            Kind::I2_S => self.0.i2_s(first, out),
            kind @ (Kind::Tq1_0 | Kind::Tq2_0) => {
                let bytes = self.0.bytes(first, out.len() / self.cols().max(1))?;
                trits(kind, &bytes, out);
                Ok(())
            }
            _ => {
                let mut values = vec![0.0; out.len()];
                self.0.read(first, &mut values)?;
                let pairs = out.iter_mut().zip(values);
                pairs.for_each(|(out, x)| *out = i8::from(x > 0.0) - i8::from(x < 0.0));
                Ok(())
            }
        }
    }
}

/// Rows as they are stored.
struct Blocks<'a>(&'a Values<'a>);

impl Rows<u8> for Blocks<'_> {
    fn cols(&self) -> usize {
        self.0.row_bytes()
    }

    fn read(&self, first: usize, out: &mut [u8]) -> Result<(), ImportError> {
        let at = first as u64 * self.0.row_bytes() as u64;
        self.0.file.read(self.0.stored.offset + at, out)
    }
}

/// The one scale of a row's blocks; 0 where all its weights are 0.
fn block_scale(kind: Kind, blocks: &[u8], length: usize) -> Option<f32> {
    let mut found = 0.0;
    for block in blocks.chunks_exact(length) {
        let scale = decode::scale(kind, block);
        if scale == found && scale != 0.0 {
            continue;
        }
        let mut weights = [0; 256];
        trits(kind, block, &mut weights);
        match weights.iter().all(|&weight| weight == 0) {
            true => {} // such blocks have the scale 0, or any
            false if found == 0.0 && scale != 0.0 => found = scale,
            false => return None,
        }
    }
    Some(found)
}

/// The one absolute value that a row has beside 0; 0 where all its values are 0.
fn row_scale(values: &[f32]) -> Option<f32> {
    let scale = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let ternary = |x: &f32| x.abs() == scale || *x == 0.0;
    values.iter().all(ternary).then_some(scale)
}

/// One scale where all rows have the same; rows of zeros take any.
fn together(scales: Vec<f32>) -> Scale {
    let first = scales.iter().copied().find(|&scale| scale != 0.0);
    let first = first.unwrap_or(1.0);
    match scales.iter().all(|&scale| scale == first || scale == 0.0) {
        true => Scale::Tensor(first),
        false => Scale::Rows(scales),
    }
}
