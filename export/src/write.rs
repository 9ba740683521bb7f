//! Blueprint to bytes.

use crate::blueprint::tensor_name;
use crate::pack::pack_row;
use crate::stream::{BlobWriter, Outline, Scale, put};
use crate::{Blueprint, ExportError, TensorData, save_atomically};
use bitttt_core::Model;
use bitttt_core::format::Activation;
use bitttt_core::format::config::{self, CONFIG_BYTES};
use bitttt_core::format::layer::{LAYER_BYTES, layer_field};
use std::io::Cursor;
use std::path::Path;

impl Blueprint {
    /// The blob's bytes, accepted by `Model::from_bytes` and `Model::verify`.
    ///
    /// # Errors
    /// Missing tensors, wrong shapes, and whatever the core's checks refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ExportError> {
        let mut writer = BlobWriter::new(
            Cursor::new(Vec::new()),
            Path::new("memory"),
            &self.outline(),
        )?;
        while let Some(place) = writer.due() {
            let (tensor, [_, cols]) = self.tensor(place.layer, place.role)?;
            let elements = encode(tensor, cols as usize)
                .ok_or_else(|| ExportError::NotTernary(tensor_name(place.layer, place.role)))?;
            writer.begin(tensor.dtype())?;
            writer.elements(&elements)?;
            writer.end(&tensor.scale())?;
        }
        let blob = writer.finish()?.into_inner();
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

    fn outline(&self) -> Outline<'_> {
        Outline {
            config: &self.config,
            layers: &self.layers,
            tokenizer: self.tokenizer.as_ref(),
            metadata: &self.metadata,
        }
    }
}

impl TensorData {
    pub(crate) fn scale(&self) -> Scale {
        match (self, self.row_scales()) {
            (_, Some(scales)) => Scale::Rows(scales.to_vec()),
            (Self::Ternary { scale, .. }, None) => Scale::Tensor(*scale),
            _ => Scale::Tensor(1.0),
        }
    }
}

impl Outline<'_> {
    pub(crate) fn config_section(&self) -> Vec<u8> {
        use config::field;
        let c = self.config;
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
        let flags = [
            (c.tied, config::FLAG_TIED),
            (c.float_activations, config::FLAG_FLOAT_ACTIVATIONS),
        ];
        let flags = flags
            .iter()
            .fold(0, |all, &(on, flag)| if on { all | flag } else { all });
        put(&mut out, field::FLAGS, &[flags]);
        put(
            &mut out,
            field::DOCUMENT_TOKEN,
            &c.document_token.to_le_bytes(),
        );
        put(&mut out, field::CONTEXT, &c.context.to_le_bytes());
        let mut first = self
            .places()
            .iter()
            .filter(|place| place.layer.is_none())
            .count() as u32;
        for (record, out) in self
            .layers
            .iter()
            .zip(out[CONFIG_BYTES..].chunks_exact_mut(LAYER_BYTES))
        {
            out[layer_field::MIXER] = record.mixer as u8;
            [out[layer_field::FLAGS], out[layer_field::MORE_FLAGS]] = record.flags().to_le_bytes();
            put(out, layer_field::KV_HEADS, &record.kv_heads.to_le_bytes());
            put(out, layer_field::WINDOW, &record.window.to_le_bytes());
            put(out, layer_field::FIRST_TENSOR, &first.to_le_bytes());
            first += record.tensors();
        }
        out
    }
}

/// Elements as stored; `None` where a weight is not ternary.
pub(crate) fn encode(tensor: &TensorData, cols: usize) -> Option<Vec<u8>> {
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
