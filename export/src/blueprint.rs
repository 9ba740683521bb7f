//! A model before it is bytes.

use crate::{ExportError, Vocabulary};
use bitttt_core::format::{Config, DType, LayerConfig, Role};
use std::collections::BTreeMap;

/// Everything that goes into a blob.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Dimensions.
    pub config: Config,
    /// One record a layer; `first_tensor` is filled in by the writer.
    pub layers: Vec<LayerConfig>,
    /// Tensors by layer (`None`: of the whole model) and role.
    pub tensors: BTreeMap<(Option<u32>, Role), TensorData>,
    /// Built-in tokenizer.
    pub tokenizer: Option<Vocabulary>,
    /// Text for people and tools; the core ignores it.
    pub metadata: String,
}

/// A tensor's elements, row-major, in the type that they will be stored in.
#[derive(Clone, Debug)]
pub enum TensorData {
    /// Weights -1, 0, 1 with one scale, stored as [`DType::T2`] or [`DType::T5`].
    Ternary {
        /// Weights.
        trits: Vec<i8>,
        /// Absmean scale.
        scale: f32,
        /// Either of the packed types.
        dtype: DType,
    },
    /// The same with a scale a row.
    TernaryRows {
        /// Weights.
        trits: Vec<i8>,
        /// One scale a row.
        scales: Vec<f32>,
        /// Either of the packed types.
        dtype: DType,
    },
    /// Codes in -127..=127 with a scale a row.
    Int8 {
        /// Codes.
        codes: Vec<i8>,
        /// One scale a row.
        scales: Vec<f32>,
    },
    /// Rounded to binary16 when written.
    F16(Vec<f32>),
    /// As they are.
    F32(Vec<f32>),
}

impl TensorData {
    /// Storage type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Ternary { dtype, .. } | Self::TernaryRows { dtype, .. } => *dtype,
            Self::Int8 { .. } => DType::I8,
            Self::F16(_) => DType::F16,
            Self::F32(_) => DType::F32,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Ternary { trits, .. } | Self::TernaryRows { trits, .. } => trits.len(),
            Self::Int8 { codes, .. } => codes.len(),
            Self::F16(values) | Self::F32(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Scales a row, if it has them.
    pub fn row_scales(&self) -> Option<&[f32]> {
        match self {
            Self::TernaryRows { scales, .. } | Self::Int8 { scales, .. } => Some(scales),
            _ => None,
        }
    }
}

/// A tensor's name as in checkpoints: `layers.3.mixer.q`.
pub fn tensor_name(layer: Option<u32>, role: Role) -> String {
    match layer {
        Some(layer) => format!("layers.{layer}.{}", role.name()),
        None => role.name().to_owned(),
    }
}

/// The tensors that a config calls for, in table order.
pub(crate) fn required(config: &Config, layers: &[LayerConfig]) -> Vec<(Option<u32>, Role)> {
    let globals = Role::GLOBAL
        .into_iter()
        .filter(|&role| role != Role::Head || !config.tied)
        .map(|role| (None, role));
    let layers = layers.iter().zip(0u32..).flat_map(|(record, layer)| {
        Role::LAYER
            .into_iter()
            .filter(|&role| record.has(role))
            .map(move |role| (Some(layer), role))
    });
    globals.chain(layers).collect()
}

impl Blueprint {
    /// The tensors that the config calls for, in table order.
    pub fn required(&self) -> Vec<(Option<u32>, Role)> {
        required(&self.config, &self.layers)
    }

    /// The tensor at a place, checked against the config's shape.
    pub(crate) fn tensor(
        &self,
        layer: Option<u32>,
        role: Role,
    ) -> Result<(&TensorData, [u32; 2]), ExportError> {
        let name = || tensor_name(layer, role);
        let data = self
            .tensors
            .get(&(layer, role))
            .ok_or_else(|| ExportError::MissingTensor(name()))?;
        let record = layer.and_then(|layer| self.layers.get(layer as usize));
        let [rows, cols] = role.shape(&self.config, record);
        let expected = rows as usize * cols as usize;
        if data.len() != expected
            || data
                .row_scales()
                .is_some_and(|scales| scales.len() != rows as usize)
        {
            return Err(ExportError::Shape {
                name: name(),
                found: data.len(),
                expected,
            });
        }
        Ok((data, [rows, cols]))
    }
}
