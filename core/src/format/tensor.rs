//! The tensor table: which tensor lies where, in which type.

use super::read::{f32_at, slice_at, u8_at, u16_at, u32_at, u64_at};
use super::{BlobError, Config, LayerConfig, Role};

/// Size of one table entry.
pub const ENTRY_BYTES: usize = 24;
/// `layer` of a tensor that belongs to no layer.
pub const NO_LAYER: u16 = 0xFFFF;
/// Bit of the dtype byte: the weight scale is an f32 a row behind the data, not one for the tensor.
pub const ROW_SCALES: u8 = 0x80;

/// Byte offsets within a table entry.
pub mod field {
    #![allow(missing_docs)]
    pub const ROLE: usize = 0;
    pub const DTYPE: usize = 1;
    pub const LAYER: usize = 2;
    pub const ROWS: usize = 4;
    pub const COLS: usize = 8;
    pub const SCALE: usize = 12;
    pub const OFFSET: usize = 16;
}

/// How a tensor's elements are stored (docs/FORMAT.md, section "Tensor data").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DType {
    /// Ternary, 2 bits a weight, in planes.
    T2 = 1,
    /// Ternary, five trits a byte, in planes.
    T5 = 2,
    /// Signed bytes with an f32 scale a row.
    I8 = 3,
    /// IEEE binary16.
    F16 = 4,
    /// IEEE binary32.
    F32 = 5,
}

impl DType {
    const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::T2),
            2 => Some(Self::T5),
            3 => Some(Self::I8),
            4 => Some(Self::F16),
            5 => Some(Self::F32),
            _ => None,
        }
    }

    /// Whether this build has the type: `t2` and `floats` are features of the crate, which a firmware may leave out.
    pub(crate) const fn is_built(self, matrix: bool) -> bool {
        self.feature(matrix).is_none()
    }

    /// What is missing for the type, and the feature with it.
    const fn feature(self, matrix: bool) -> Option<(&'static str, &'static str)> {
        match self {
            Self::T2 if !cfg!(feature = "t2") => Some(("matrices stored as t2", "t2")),
            Self::F16 if !cfg!(feature = "floats") => Some(("tensors stored as f16", "floats")),
            Self::F32 if matrix && !cfg!(feature = "floats") => {
                Some(("matrices stored as f32", "floats"))
            }
            _ => None,
        }
    }

    /// Name in configs and in `inspect`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::T2 => "t2",
            Self::T5 => "t5",
            Self::I8 => "i8",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Bytes of one row of `cols` elements.
    pub const fn row_bytes(self, cols: u32) -> u64 {
        match self {
            Self::T2 => planes_bytes(cols, 4),
            Self::T5 => planes_bytes(cols, 5),
            Self::I8 => cols as u64,
            Self::F16 => cols as u64 * 2,
            Self::F32 => cols as u64 * 4,
        }
    }
}

/// Bytes of one packed row: blocks of 64 bytes, the last one as short as its weights allow.
const fn planes_bytes(cols: u32, planes: u32) -> u64 {
    let block = 64 * planes;
    ((cols / block) * 64 + (cols % block).div_ceil(planes)) as u64
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Code of the role as found.
    pub role: u8,
    /// Storage type.
    pub dtype: DType,
    /// One scale a row instead of one a tensor.
    pub row_scales: bool,
    /// Layer, or [`NO_LAYER`].
    pub layer: u16,
    /// Rows (outputs of a matrix).
    pub rows: u32,
    /// Columns (inputs of a matrix).
    pub cols: u32,
    /// Weight scale of a `t2` or `t5` tensor without row scales; otherwise 1.
    pub scale: f32,
    /// First byte, counted from the start of the tensor section.
    pub offset: u64,
}

impl Entry {
    /// Reads entry `index`.
    ///
    /// # Errors
    /// The name of the field, if its type is unknown.
    pub const fn parse(table: &[u8], index: u32) -> Result<Self, &'static str> {
        let at = index as usize * ENTRY_BYTES;
        let code = u8_at(table, at + field::DTYPE);
        let Some(dtype) = DType::of(code & !ROW_SCALES) else {
            return Err("dtype");
        };
        Ok(Self {
            role: u8_at(table, at + field::ROLE),
            dtype,
            row_scales: code & ROW_SCALES != 0,
            layer: u16_at(table, at + field::LAYER),
            rows: u32_at(table, at + field::ROWS),
            cols: u32_at(table, at + field::COLS),
            scale: f32_at(table, at + field::SCALE),
            offset: u64_at(table, at + field::OFFSET),
        })
    }

    /// Bytes of the elements, without row scales.
    pub const fn data_bytes(&self) -> u64 {
        self.rows as u64 * self.dtype.row_bytes(self.cols)
    }

    /// Where the row scales start, counted like `offset`.
    pub const fn scales_offset(&self) -> u64 {
        self.offset
            .saturating_add(self.data_bytes().next_multiple_of(4))
    }

    /// First byte behind the tensor, counted like `offset`.
    pub const fn end(&self) -> u64 {
        if self.row_scales {
            self.scales_offset().saturating_add(self.rows as u64 * 4)
        } else {
            self.offset.saturating_add(self.data_bytes())
        }
    }
}

/// Checks the whole table against the config: every tensor that the config calls for, in order, of the right
/// shape, in an allowed type, inside the tensor section, behind the one before it.
///
/// # Errors
/// The first wrong tensor, by name.
pub fn check_table(
    table: &[u8],
    tensors: &[u8],
    config_section: &[u8],
    config: &Config,
) -> Result<(), BlobError> {
    let mut walk = Walk {
        table,
        tensors,
        config,
        index: 0,
        end: 0,
    };
    for role in Role::GLOBAL {
        if role != Role::Head || !config.tied {
            walk.expect(role, NO_LAYER, None)?;
        }
    }
    for layer in 0..config.n_layers {
        let record = LayerConfig::parse(config_section, config, layer)?;
        if record.first_tensor != walk.index {
            return Err(BlobError::Layer {
                layer: layer as u16,
                field: "first_tensor",
            });
        }
        for role in Role::LAYER {
            if record.has(role) {
                walk.expect(role, layer as u16, Some(&record))?;
            }
        }
    }
    if table.len() as u64 != walk.index as u64 * ENTRY_BYTES as u64 {
        return Err(BlobError::ExtraTensors);
    }
    Ok(())
}

struct Walk<'a> {
    table: &'a [u8],
    tensors: &'a [u8],
    config: &'a Config,
    index: u32,
    end: u64,
}

impl Walk<'_> {
    fn expect(
        &mut self,
        role: Role,
        layer: u16,
        record: Option<&LayerConfig>,
    ) -> Result<(), BlobError> {
        let wrong = |field| BlobError::Tensor { role, layer, field };
        let entry = Entry::parse(self.table, self.index).map_err(wrong)?;
        if entry.role != role as u8 || entry.layer != layer {
            return Err(wrong("place in the tensor table"));
        }
        if [entry.rows, entry.cols] != role.shape(self.config, record) {
            return Err(wrong("shape"));
        }
        if !role.allows(entry.dtype) {
            return Err(wrong("dtype"));
        }
        if let Some((what, feature)) = entry.dtype.feature(role.is_matrix()) {
            return Err(BlobError::LeftOut { what, feature });
        }
        let may_have_row_scales = matches!(entry.dtype, DType::T2 | DType::T5 | DType::I8);
        if entry.row_scales && !may_have_row_scales || entry.dtype == DType::I8 && !entry.row_scales
        {
            return Err(wrong("row scale flag"));
        }
        if !entry.scale.is_finite() {
            return Err(wrong("scale"));
        }
        let outside = slice_at(
            self.tensors,
            entry.offset,
            entry.end().saturating_sub(entry.offset),
        )
        .is_none();
        if entry.offset % 4 != 0 || entry.offset < self.end || outside {
            return Err(wrong("offset"));
        }
        self.end = entry.end();
        self.index += 1;
        Ok(())
    }
}
