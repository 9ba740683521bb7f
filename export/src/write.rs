//! Blueprint to bytes.

use crate::blueprint::tensor_name;
use crate::pack::pack_row;
use crate::{Blueprint, ExportError, TensorData, save_atomically};
use bitttt_core::Model;
use bitttt_core::format::config::{self, CONFIG_BYTES, LAYER_BYTES, layer_field};
use bitttt_core::format::header::{
    self, HEADER_BYTES, SECTION_ALIGN, SECTION_BYTES, section_field,
};
use bitttt_core::format::tensor::{self, ENTRY_BYTES, NO_LAYER, ROW_SCALES};
use bitttt_core::format::{Activation, MAJOR, MINOR, Mixer, Section};
use std::path::Path;

impl Blueprint {
    /// The blob's bytes, accepted by `Model::from_bytes` and `Model::verify`.
    ///
    /// # Errors
    /// Missing tensors, wrong shapes, and whatever the core's checks refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ExportError> {
        let (table, tensors) = self.tensor_sections()?;
        let mut sections = vec![
            (Section::Config, self.config_section()),
            (Section::Table, table),
            (Section::Tensors, tensors),
        ];
        if let Some(vocabulary) = &self.tokenizer {
            sections.push((Section::Tokenizer, vocabulary.section()?));
        }
        if !self.metadata.is_empty() {
            sections.push((Section::Metadata, self.metadata.clone().into_bytes()));
        }
        let blob = assemble(&sections);
        let aligned = AlignedCopy::of(&blob);
        Model::from_bytes(aligned.bytes())?.verify()?;
        Ok(blob)
    }

    /// Writes the blob to `path`, whole or not at all.
    ///
    /// # Errors
    /// As [`Blueprint::to_bytes`], and write errors.
    pub fn save(&self, path: &Path) -> Result<usize, ExportError> {
        let bytes = self.to_bytes()?;
        save_atomically(path, &bytes)?;
        Ok(bytes.len())
    }

    fn config_section(&self) -> Vec<u8> {
        use config::field;
        let c = &self.config;
        let mut out = vec![0; CONFIG_BYTES + self.layers.len() * LAYER_BYTES];
        put(&mut out, field::VOCAB_SIZE, &c.vocab_size.to_le_bytes());
        put(&mut out, field::D_MODEL, &c.d_model.to_le_bytes());
        put(&mut out, field::N_LAYERS, &c.n_layers.to_le_bytes());
        put(&mut out, field::D_FFN, &c.d_ffn.to_le_bytes());
        put(&mut out, field::NORM_EPS, &c.norm_eps.to_le_bytes());
        put(&mut out, field::ROPE_THETA, &c.rope_theta.to_le_bytes());
        put(&mut out, field::LN_EPS, &c.ln_eps.to_le_bytes());
        put(&mut out, field::TTT_BASE_LR, &c.ttt_base_lr.to_le_bytes());
        put(&mut out, field::MINI_BATCH, &c.mini_batch.to_le_bytes());
        put(&mut out, field::N_HEADS, &c.n_heads.to_le_bytes());
        put(
            &mut out,
            field::ACTIVATION,
            &[matches!(c.activation, Activation::Relu2) as u8],
        );
        put(
            &mut out,
            field::FLAGS,
            &[if c.tied { config::FLAG_TIED } else { 0 }],
        );
        put(
            &mut out,
            field::DOCUMENT_TOKEN,
            &c.document_token.to_le_bytes(),
        );
        let mut first = self
            .required()
            .iter()
            .filter(|(layer, _)| layer.is_none())
            .count() as u32;
        for (record, out) in self
            .layers
            .iter()
            .zip(out[CONFIG_BYTES..].chunks_exact_mut(LAYER_BYTES))
        {
            let flag = |on, bit| if on { bit } else { 0 };
            let flags = flag(record.conv, config::LAYER_CONV)
                | flag(record.gate, config::LAYER_GATE)
                | flag(record.decay, config::LAYER_DECAY);
            out[layer_field::MIXER] = match record.mixer {
                Mixer::TttLinear => 1,
            };
            out[layer_field::FLAGS] = flags;
            put(out, layer_field::FIRST_TENSOR, &first.to_le_bytes());
            first += record.tensors();
        }
        out
    }

    /// Tensor table and tensor data.
    fn tensor_sections(&self) -> Result<(Vec<u8>, Vec<u8>), ExportError> {
        use tensor::field;
        let (mut table, mut data) = (Vec::new(), Vec::new());
        for (layer, role) in self.required() {
            let (tensor, [rows, cols]) = self.tensor(layer, role)?;
            let elements = encode(tensor, cols as usize)
                .ok_or_else(|| ExportError::NotTernary(tensor_name(layer, role)))?;
            data.resize(
                data.len().next_multiple_of(alignment_for(elements.len())),
                0,
            );
            let mut entry = [0; ENTRY_BYTES];
            let row_scales = if tensor.row_scales().is_some() {
                ROW_SCALES
            } else {
                0
            };
            put(
                &mut entry,
                field::ROLE,
                &[role as u8, tensor.dtype() as u8 | row_scales],
            );
            put(
                &mut entry,
                field::LAYER,
                &layer.map_or(NO_LAYER, |layer| layer as u16).to_le_bytes(),
            );
            put(&mut entry, field::ROWS, &rows.to_le_bytes());
            put(&mut entry, field::COLS, &cols.to_le_bytes());
            let scale = if let TensorData::Ternary { scale, .. } = tensor {
                *scale
            } else {
                1.0
            };
            put(&mut entry, field::SCALE, &scale.to_le_bytes());
            put(
                &mut entry,
                field::OFFSET,
                &(data.len() as u64).to_le_bytes(),
            );
            table.extend(entry);
            data.extend(elements);
            if let Some(scales) = tensor.row_scales() {
                data.resize(data.len().next_multiple_of(4), 0);
                data.extend(scales.iter().flat_map(|s| s.to_le_bytes()));
            }
        }
        Ok((table, data))
    }
}

/// Large tensors start on a cache line, small ones on a word: padding would cost more than it brings.
fn alignment_for(bytes: usize) -> usize {
    if bytes >= 1024 {
        SECTION_ALIGN as usize
    } else {
        4
    }
}

/// Elements as stored; `None` where a weight is not ternary.
fn encode(tensor: &TensorData, cols: usize) -> Option<Vec<u8>> {
    Some(match tensor {
        TensorData::Ternary { trits, dtype, .. } | TensorData::TernaryRows { trits, dtype, .. } => {
            let rows: Option<Vec<_>> = trits
                .chunks(cols)
                .map(|row| pack_row(row, *dtype))
                .collect();
            rows?.concat()
        }
        TensorData::Int8 { codes, .. } => bytemuck::cast_slice(codes).to_vec(),
        TensorData::F16(values) => values
            .iter()
            .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
            .collect(),
        TensorData::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}

/// Header, section table and sections, with checksums.
fn assemble(sections: &[(Section, Vec<u8>)]) -> Vec<u8> {
    let mut blob = vec![0; HEADER_BYTES + sections.len() * SECTION_BYTES];
    for (i, (section, data)) in sections.iter().enumerate() {
        blob.resize(blob.len().next_multiple_of(SECTION_ALIGN as usize), 0);
        let offset = blob.len() as u64;
        blob.extend(data);
        let entry = &mut blob[HEADER_BYTES + i * SECTION_BYTES..][..SECTION_BYTES];
        put(entry, section_field::KIND, &(*section as u32).to_le_bytes());
        put(
            entry,
            section_field::CRC,
            &crc32fast::hash(data).to_le_bytes(),
        );
        put(entry, section_field::OFFSET, &offset.to_le_bytes());
        put(
            entry,
            section_field::BYTES,
            &(data.len() as u64).to_le_bytes(),
        );
    }
    put(&mut blob, header::field::MAGIC, &header::MAGIC);
    put(&mut blob, header::field::MAJOR, &MAJOR.to_le_bytes());
    put(&mut blob, header::field::MINOR, &MINOR.to_le_bytes());
    let len = blob.len() as u64;
    put(&mut blob, header::field::FILE_BYTES, &len.to_le_bytes());
    put(
        &mut blob,
        header::field::SECTION_COUNT,
        &(sections.len() as u32).to_le_bytes(),
    );
    let crc = crc32fast::hash(&blob[..HEADER_BYTES + sections.len() * SECTION_BYTES]); // its own field is still zero
    put(&mut blob, header::field::CRC, &crc.to_le_bytes());
    blob
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Bytes on a 64-byte boundary, as the core wants them and `Vec<u8>` does not promise.
#[derive(Clone, Debug)]
pub struct AlignedCopy {
    words: Vec<[u64; 8]>,
    len: usize,
}

impl AlignedCopy {
    /// Copies `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut words = vec![[0u64; 8]; bytes.len().div_ceil(64)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self {
            words,
            len: bytes.len(),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}
