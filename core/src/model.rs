//! A blob as a model: typed views of its tensors, valid by construction.

use crate::block::Block;
use crate::format::read::slice_at;
use crate::format::tensor::{NO_LAYER, check_table};
use crate::format::{BlobError, Config, DType, Entry, LayerConfig, Layout, Section};
use crate::kernel::halves::Stored;
use crate::memory::{Batch, MemoryPlan};
use crate::tokenizer::Tokenizer;

/// A checked `.bttt` blob. Copying it copies a few pointers.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    layout: Layout<'a>,
    config: Config,
}

/// A matrix `[rows, cols]` as `rows` outputs of `cols` inputs.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Elements.
    pub weights: Weights<'a>,
}

/// The elements of a matrix in their storage type; rows follow each other without gaps.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// 2-bit planes.
    T2(&'a [u8], Scale<'a>),
    /// Base-3 planes.
    T5(&'a [u8], Scale<'a>),
    /// Signed bytes with a scale a row.
    I8(&'a [i8], &'a [f32]),
    /// binary16 or binary32.
    Float(Floats<'a>),
}

/// Weight scale of a ternary matrix.
#[derive(Clone, Copy, Debug)]
pub enum Scale<'a> {
    /// One for all rows.
    Tensor(f32),
    /// One a row.
    Rows(&'a [f32]),
}

impl Matrix<'_> {
    /// No rows.
    pub(crate) const EMPTY: Self = Self {
        rows: 0,
        cols: 0,
        weights: Weights::Float(Floats::F32(&[])),
    };
}

impl Scale<'_> {
    /// Scale of row `row`.
    #[inline(always)]
    pub fn of(&self, row: usize) -> f32 {
        match self {
            Self::Tensor(scale) => *scale,
            Self::Rows(scales) => scales.get(row).copied().unwrap_or(0.0),
        }
    }
}

/// Whether this build reads [`Floats::F16`]; where not, there are none.
pub(crate) const HALVES: bool = DType::F16.is_built(false);

/// Floats stored in either width.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    /// binary16, as bits.
    F16(&'a [u16]),
    /// binary32.
    F32(&'a [f32]),
}

impl<'a> Floats<'a> {
    /// Row `row` of `width` elements.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn row(self, row: usize, width: usize) -> Self {
        let range = row * width..(row + 1) * width;
        match self {
            Self::F16(all) if HALVES => Self::F16(all.get(range).unwrap_or(&[])),
            Self::F32(all) => Self::F32(all.get(range).unwrap_or(&[])),
            Self::F16(_) => Self::F16(&[]),
        }
    }

    /// Number of elements.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::F16(all) if HALVES => all.len(),
            Self::F32(all) => all.len(),
            Self::F16(_) => 0,
        }
    }

    /// Copies into `to`, widening exactly.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn copy_to(self, to: &mut [f32]) {
        match self {
            Self::F16(from) if HALVES => to
                .iter_mut()
                .zip(from)
                .for_each(|(to, &bits)| *to = bits.widen()),
            Self::F32(from) => to.iter_mut().zip(from).for_each(|(to, &x)| *to = x),
            Self::F16(_) => {}
        }
    }
}

impl<'a> Model<'a> {
    /// Checks the blob's structure in O(tensors) and returns views into it. Copies nothing.
    ///
    /// Header, config and tensor table are checksummed; tensor data is not read. For bytes from an untrusted or
    /// unreliable place call [`Model::verify`] too. Whatever the data holds, running it is memory-safe.
    ///
    /// # Errors
    /// The first inconsistency, by name.
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, BlobError> {
        let layout = Layout::parse(bytes)?;
        if bytes.as_ptr().align_offset(4) != 0 {
            return Err(BlobError::Misaligned);
        }
        for section in [Section::Header, Section::Config, Section::Table] {
            layout.check(section)?;
        }
        let config = Config::parse(layout.section(Section::Config))?;
        check_table(
            layout.section(Section::Table),
            layout.section(Section::Tensors),
            layout.section(Section::Config),
            &config,
        )?;
        let tokenizer = layout.section(Section::Tokenizer);
        if !tokenizer.is_empty() {
            Tokenizer::parse(tokenizer, config.vocab_size)?;
        }
        Ok(Self { layout, config })
    }

    /// Dimensions.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Record of layer `layer`.
    pub fn layer_config(&self, layer: u32) -> Result<LayerConfig, BlobError> {
        LayerConfig::parse(self.layout.section(Section::Config), &self.config, layer)
    }

    /// The sections.
    pub fn layout(&self) -> &Layout<'a> {
        &self.layout
    }

    /// Identifies the content: a checksum over the section checksums.
    pub fn fingerprint(&self) -> u32 {
        self.layout.fingerprint()
    }

    /// The built-in tokenizer, if there is one.
    #[cfg_attr(bitttt_micro, inline(never))]
    pub fn tokenizer(&self) -> Option<Tokenizer<'a>> {
        Tokenizer::parse(
            self.layout.section(Section::Tokenizer),
            self.config.vocab_size,
        )
        .ok()
    }

    /// The metadata text; empty if there is none or it is not UTF-8.
    pub fn metadata(&self) -> &'a str {
        core::str::from_utf8(self.layout.section(Section::Metadata)).unwrap_or("")
    }

    /// Exact memory that a session of this batch needs.
    pub fn memory(&self, batch: Batch) -> MemoryPlan {
        MemoryPlan::new(&self.config, &self.layout, batch)
    }

    /// All tensors in table order.
    pub fn tensors(&self) -> impl Iterator<Item = Entry> + use<'a> {
        let table = self.layout.section(Section::Table);
        (0u32..).map_while(move |index| {
            let inside = (index as usize + 1) * crate::format::tensor::ENTRY_BYTES <= table.len();
            if inside {
                Entry::parse(table, index).ok()
            } else {
                None
            }
        })
    }

    /// Bytes of a tensor, without row scales.
    pub fn data(&self, entry: &Entry) -> &'a [u8] {
        slice_at(
            self.layout.section(Section::Tensors),
            entry.offset,
            entry.data_bytes(),
        )
        .unwrap_or(&[])
    }

    /// Row scales of a tensor; empty if it has none.
    pub fn scales(&self, entry: &Entry) -> &'a [f32] {
        let bytes = if entry.row_scales {
            entry.rows as u64 * 4
        } else {
            0
        };
        cast(
            slice_at(
                self.layout.section(Section::Tensors),
                entry.scales_offset(),
                bytes,
            )
            .unwrap_or(&[]),
        )
    }

    pub(crate) fn matrix(&self, entry: Entry) -> Matrix<'a> {
        let data = self.data(&entry);
        let scale = if entry.row_scales {
            Scale::Rows(self.scales(&entry))
        } else {
            Scale::Tensor(entry.scale)
        };
        let weights = match entry.dtype {
            DType::T2 if DType::T2.is_built(true) => Weights::T2(data, scale),
            DType::T5 => Weights::T5(data, scale),
            DType::I8 => Weights::I8(bytemuck::cast_slice(data), self.scales(&entry)),
            _ => Weights::Float(self.floats(entry)),
        };
        Matrix {
            rows: entry.rows as usize,
            cols: entry.cols as usize,
            weights,
        }
    }

    pub(crate) fn floats(&self, entry: Entry) -> Floats<'a> {
        match entry.dtype {
            DType::F16 if HALVES => Floats::F16(cast(self.data(&entry))),
            _ => Floats::F32(cast(self.data(&entry))),
        }
    }

    #[cfg_attr(bitttt_micro, inline(never))]
    pub(crate) fn entry(&self, index: u32) -> Entry {
        const ABSENT: Entry = Entry {
            role: 0,
            dtype: DType::F32,
            row_scales: false,
            layer: NO_LAYER,
            rows: 0,
            cols: 0,
            scale: 0.0,
            offset: 0,
        };
        Entry::parse(self.layout.section(Section::Table), index).unwrap_or(ABSENT)
    }

    pub(crate) fn embed(&self) -> Matrix<'a> {
        self.matrix(self.entry(0))
    }

    pub(crate) fn head(&self) -> Matrix<'a> {
        self.matrix(self.entry(u32::from(!self.config.tied)))
    }

    pub(crate) fn norm(&self) -> Floats<'a> {
        self.floats(self.entry(1 + u32::from(!self.config.tied)))
    }

    /// Block `layer`.
    pub(crate) fn block(&self, layer: u32) -> Option<Block<'_, 'a>> {
        Some(Block::new(self, self.layer_config(layer).ok()?))
    }
}

/// A view of aligned bytes as numbers; empty where alignment or length is off, which the checks exclude.
pub(crate) fn cast<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> &[T] {
    bytemuck::try_cast_slice(bytes).unwrap_or(&[])
}
