//! A foreign model, streamed into a blob.

use super::options::{Embedding, Options};
use super::rows::{Elements, Rows, Tensor, Width, in_runs};
use super::{ImportError, Metadata};
use crate::pack::pack_rows;
use crate::stream::{BlobWriter, Outline, Place, Scale};
use crate::{ExportError, tokenizer::Vocabulary};
use bitttt_core::format::{Config, DType, LayerConfig, Role};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

/// Where the tensors of a foreign model come from.
pub trait Source {
    /// The tensor for a place of the blob.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or type, or cannot be read.
    fn tensor(&self, place: &Place) -> Result<Tensor<'_>, ImportError>;

    /// Bytes of all tensors of the checkpoint.
    fn bytes(&self) -> u64;
}

/// A model of another format, ready to be written.
pub struct Foreign<'a> {
    /// Its dimensions here.
    pub config: Config,
    /// Its layers here.
    pub layers: Vec<LayerConfig>,
    /// How it is to be talked to.
    pub metadata: Metadata,
    /// Its tensors.
    pub source: Box<dyn Source + 'a>,
}

/// What was rounded away: sums of squares of errors and of values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of `(value - stored)^2`.
    pub error: f64,
    /// Sum of `value^2`.
    pub value: f64,
}

/// What was written.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Bytes that the tensors took in the checkpoint.
    pub source_bytes: u64,
    /// Weights -1, 0, 1.
    pub ternary_weights: u64,
    /// Bytes of embedding and head as stored.
    pub embedding_bytes: u64,
    /// Bytes that they would take as `i8`.
    pub embedding_bytes_i8: u64,
    /// Relative error (root of sum of squares, against that of the values) of each role that was ternarised.
    pub losses: BTreeMap<&'static str, f64>,
}

impl Loss {
    fn relative(self) -> f64 {
        (self.error / self.value.max(f64::MIN_POSITIVE)).sqrt()
    }
}

impl Foreign<'_> {
    /// Streams the model to `path`, whole or not at all. `progress` is told of bytes of the checkpoint that were read;
    /// `check` looks at the finished file, as in [`Outline::save`].
    ///
    /// # Errors
    /// What the source, the output or `check` return.
    pub fn save<T, E: From<ImportError> + From<ExportError>>(
        &self,
        path: &Path,
        options: &Options,
        mut progress: impl FnMut(u64),
        check: impl FnOnce(&File) -> Result<T, E>,
    ) -> Result<(Summary, T), E> {
        let metadata = self.metadata.to_text();
        let outline = Outline {
            config: &self.config,
            layers: &self.layers,
            tokenizer: None::<&Vocabulary>,
            metadata: &metadata,
        };
        let mut writing = Writing {
            options,
            progress: &mut progress,
            summary: Summary::default(),
            losses: BTreeMap::new(),
        };
        let checked = outline.save::<T, E>(
            path,
            |writer| {
                while let Some(place) = writer.due() {
                    let tensor = self.source.tensor(&place)?;
                    writing.tensor(writer, &place, &tensor)?;
                }
                Ok(())
            },
            check,
        )?;
        let losses = writing.losses.into_iter();
        let losses = losses.map(|(role, loss)| (role, loss.relative())).collect();
        let summary = Summary {
            losses,
            ..writing.summary
        };
        Ok((summary, checked))
    }
}

/// State of writing.
struct Writing<'a> {
    options: &'a Options,
    progress: &'a mut dyn FnMut(u64),
    summary: Summary,
    losses: BTreeMap<&'static str, Loss>,
}

impl Writing<'_> {
    fn tensor<W: Write + Seek>(
        &mut self,
        writer: &mut BlobWriter<W>,
        place: &Place,
        tensor: &Tensor<'_>,
    ) -> Result<(), ImportError> {
        if let Some(loss) = tensor.loss {
            let all = self.losses.entry(place.role.name()).or_default();
            all.error += loss.error;
            all.value += loss.value;
        }
        let bytes = tensor.bytes;
        match &tensor.elements {
            Elements::Ternary(weights, scale) => {
                self.ternary(writer, place, weights, scale, bytes)?
            }
            Elements::Float(values, width) => {
                let dtype = self.dtype(place, values, *width)?;
                self.count_embedding(place, dtype);
                self.floats(writer, place, values, dtype, bytes)?;
            }
        }
        self.summary.source_bytes += bytes;
        Ok(())
    }

    fn ternary<W: Write + Seek>(
        &mut self,
        writer: &mut BlobWriter<W>,
        place: &Place,
        weights: &dyn Rows<i8>,
        scale: &Scale,
        bytes: u64,
    ) -> Result<(), ImportError> {
        let dtype = self.options.weights;
        let mut packed = Vec::new();
        writer.begin(dtype)?;
        in_runs(weights, place.rows as usize, |_, weights| {
            packed.clear();
            pack_rows(weights, place.cols as usize, dtype, &mut packed)
                .ok_or_else(|| ExportError::NotTernary(place.name()))?;
            (self.progress)(share(bytes, weights.len(), place));
            Ok(writer.elements(&packed)?)
        })?;
        self.summary.ternary_weights += u64::from(place.rows) * u64::from(place.cols);
        Ok(writer.end(scale)?)
    }

    fn floats<W: Write + Seek>(
        &mut self,
        writer: &mut BlobWriter<W>,
        place: &Place,
        values: &dyn Rows<f32>,
        dtype: DType,
        bytes: u64,
    ) -> Result<(), ImportError> {
        let mut encoded = Vec::new();
        let mut scales = Vec::new();
        writer.begin(dtype)?;
        in_runs(values, place.rows as usize, |_, values| {
            encoded.clear();
            match dtype {
                DType::I8 => {
                    let rows = values.chunks(place.cols as usize);
                    scales.extend(rows.map(|row| int_row(row, &mut encoded)));
                }
                DType::F16 => encode(values, &mut encoded, |x| {
                    half::f16::from_f32(x).to_le_bytes()
                }),
                _ => encode(values, &mut encoded, f32::to_le_bytes),
            }
            (self.progress)(share(bytes, values.len(), place));
            Ok(writer.elements(&encoded)?)
        })?;
        Ok(writer.end(&match dtype {
            DType::I8 => Scale::Rows(scales),
            _ => Scale::Tensor(1.0),
        })?)
    }

    /// The type in which floats are stored.
    fn dtype(
        &self,
        place: &Place,
        values: &dyn Rows<f32>,
        width: Width,
    ) -> Result<DType, ImportError> {
        let embedding = matches!(place.role, Role::Embed | Role::Head);
        if !embedding && !place.role.allows(self.options.weights) {
            return Ok(DType::F32); // gains, biases and fast weights are small
        }
        match (self.options.embedding, width) {
            (Embedding::I8, _) if embedding => Ok(DType::I8),
            (Embedding::F32, _) if embedding => Ok(DType::F32),
            (Embedding::F16, _) if embedding => match self.fits_f16(place, values)? {
                true => Ok(DType::F16),
                false => Err(ImportError::BeyondF16(place.name())),
            },
            (_, Width::F16) => Ok(DType::F16),
            (_, Width::Bf16) if self.fits_f16(place, values)? => Ok(DType::F16),
            _ => Ok(DType::F32),
        }
    }

    /// Whether no value is beyond the range of f16; below it bf16 loses at most what rounds to a subnormal.
    fn fits_f16(&self, place: &Place, values: &dyn Rows<f32>) -> Result<bool, ImportError> {
        let mut largest = 0f32;
        in_runs(values, place.rows as usize, |_, values| {
            largest = values.iter().fold(largest, |l, x| l.max(x.abs()));
            Ok(())
        })?;
        Ok(largest <= half::f16::MAX.to_f32())
    }

    fn count_embedding(&mut self, place: &Place, dtype: DType) {
        if matches!(place.role, Role::Embed | Role::Head) {
            let scales = u64::from(place.rows) * 4;
            let as_i8 = place.bytes(DType::I8) + scales;
            let stored = match dtype {
                DType::I8 => as_i8,
                other => place.bytes(other),
            };
            self.summary.embedding_bytes += stored;
            self.summary.embedding_bytes_i8 += as_i8;
        }
    }
}

/// Appends values in a form of `N` bytes each.
fn encode<const N: usize>(values: &[f32], out: &mut Vec<u8>, form: impl Fn(f32) -> [u8; N]) {
    let start = out.len();
    out.resize(start + values.len() * N, 0);
    let places = out[start..].as_chunks_mut::<N>().0;
    for (place, &value) in places.iter_mut().zip(values) {
        *place = form(value);
    }
}

/// Appends a row's codes `round_half_even(x / scale)` and returns its scale `max|x| / 127`.
fn int_row(row: &[f32], out: &mut Vec<u8>) -> f32 {
    let scale = row.iter().fold(0f32, |l, x| l.max(x.abs())) / 127.0;
    let divisor = if scale == 0.0 { 1.0 } else { scale };
    // adding 1.5 * 2^23 leaves no bits for a fraction: rounded half to even without a call for each value
    let code =
        |x: f32| (x / divisor + 12_582_912.0 - 12_582_912.0).clamp(-127.0, 127.0) as i8 as u8;
    out.extend(row.iter().map(|&x| code(x)));
    scale
}

/// The part of a tensor's `bytes` that `elements` of it took.
fn share(bytes: u64, elements: usize, place: &Place) -> u64 {
    let all = u128::from(place.rows) * u128::from(place.cols);
    (u128::from(bytes) * elements as u128 / all.max(1)) as u64
}
