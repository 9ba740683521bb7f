//! Random models of any size, streamed: packed weights are drawn as bytes, a gigabyte a second, and never unpacked.

use crate::pack::{clear_tail, random_codes};
use crate::random::Random;
use crate::stream::{BlobWriter, Outline, Place, Scale};
use crate::write::encode;
use crate::{ExportError, TensorData};
use bitttt_core::format::{DType, Role};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;
use std::io::{Seek, Write};

/// Bytes that are drawn at once.
const CHUNK: usize = 1 << 20;

/// How a tensor is stored whose elements are drawn as bytes; `None` for one that is small and made first.
fn drawn_as(role: Role, packed: DType) -> Option<DType> {
    match role {
        Role::Embed | Role::Head => Some(DType::I8),
        role => role.allows(packed).then_some(packed),
    }
}

/// Bytes that [`fill`] will draw, which are nearly all of the blob.
pub fn drawn_bytes(outline: &Outline<'_>, packed: DType) -> u64 {
    let places = outline.places().into_iter();
    let bytes = places.filter_map(|place| Some(place.bytes(drawn_as(place.role, packed)?)));
    bytes.sum()
}

/// Gives `writer` all its tensors, ternary matrices as `packed` (`t2` or `t5`). The same seed gives the same model
/// everywhere. `progress` is told of drawn bytes as they are written, [`drawn_bytes`] in all.
///
/// # Errors
/// A failing output.
pub fn fill<W: Write + Seek>(
    writer: &mut BlobWriter<W>,
    packed: DType,
    seed: u64,
    mut progress: impl FnMut(u64),
) -> Result<(), ExportError> {
    let mut small = Random::new(seed);
    let mut index = 0;
    while let Some(place) = writer.due() {
        index += 1;
        let mut random = Pcg64Mcg::new(u128::from(seed) << 64 | index);
        match drawn_as(place.role, packed) {
            Some(DType::I8) => {
                let scales = small.scales(place.rows as usize);
                let code = |byte| if byte == 0x80 { 0 } else { byte };
                drawn(writer, DType::I8, &mut random, code, &mut progress)?;
                writer.end(&Scale::Rows(scales))?;
            }
            Some(packed) => {
                let codes = random_codes(packed);
                let code = |byte| codes[usize::from(byte)];
                drawn(writer, packed, &mut random, code, &mut progress)?;
                writer.end(&Scale::Tensor(Random::spread(place.cols as usize)))?;
            }
            None => {
                let (rows, cols) = (place.rows as usize, place.cols as usize);
                let tensor = small.tensor(place.role, rows, cols, DType::F32);
                given(writer, &tensor, cols, place)?;
            }
        }
    }
    Ok(())
}

/// A tensor that is small enough to be made first.
fn given<W: Write + Seek>(
    writer: &mut BlobWriter<W>,
    tensor: &TensorData,
    cols: usize,
    place: Place,
) -> Result<(), ExportError> {
    let elements = encode(tensor, cols).ok_or_else(|| ExportError::NotTernary(place.name()))?;
    writer.begin(tensor.dtype())?;
    writer.elements(&elements)?;
    writer.end(&tensor.scale())
}

/// A tensor's elements from random bytes, each of which `code` turns into a valid one.
fn drawn<W: Write + Seek>(
    writer: &mut BlobWriter<W>,
    dtype: DType,
    random: &mut Pcg64Mcg,
    code: impl Fn(u8) -> u8,
    progress: &mut impl FnMut(u64),
) -> Result<(), ExportError> {
    let place = writer.begin(dtype)?;
    let cols = place.cols as usize;
    let row = dtype.row_bytes(place.cols) as usize;
    let mut left = place.rows as usize;
    let mut chunk = vec![0; (CHUNK / row).clamp(1, left) * row];
    while left > 0 {
        let rows = left.min(chunk.len() / row);
        let chunk = &mut chunk[..rows * row];
        for bytes in chunk.chunks_mut(8) {
            let drawn = random.next_u64().to_le_bytes();
            bytes
                .iter_mut()
                .zip(drawn)
                .for_each(|(byte, drawn)| *byte = code(drawn));
        }
        if dtype != DType::I8 {
            chunk
                .chunks_exact_mut(row)
                .for_each(|row| clear_tail(row, cols, dtype));
        }
        writer.elements(chunk)?;
        progress(chunk.len() as u64);
        left -= rows;
    }
    Ok(())
}
