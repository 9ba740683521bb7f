//! A blob as a model: typed views of its tensors, valid by construction.

use crate::format::read::slice_at;
use crate::format::tensor::{NO_LAYER, check_table};
use crate::format::{BlobError, Config, DType, Entry, LayerConfig, Layout, Mixer, Role, Section};
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
            Self::F16(all) => Self::F16(all.get(range).unwrap_or(&[])),
            Self::F32(all) => Self::F32(all.get(range).unwrap_or(&[])),
        }
    }

    /// Number of elements.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::F16(all) => all.len(),
            Self::F32(all) => all.len(),
        }
    }

    /// Copies into `to`, widening exactly.
    #[cfg_attr(bitttt_micro, inline(never))]
    #[cfg_attr(not(bitttt_micro), inline(always))]
    pub fn copy_to(self, to: &mut [f32]) {
        match self {
            Self::F16(from) => to
                .iter_mut()
                .zip(from)
                .for_each(|(to, &bits)| *to = bits.widen()),
            Self::F32(from) => to.iter_mut().zip(from).for_each(|(to, &x)| *to = x),
        }
    }
}

/// Views of the projections around a mixer with heads; shapes as in docs/FORMAT.md.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Projections<'a> {
    pub query: Matrix<'a>,
    pub key: Matrix<'a>,
    pub value: Matrix<'a>,
    pub output: Matrix<'a>,
    pub gate: Option<Matrix<'a>>,
    pub out_norm: Option<Floats<'a>>,
}

/// Views of what a TTT-Linear or TTT-MLP mixer learns by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ttt<'a> {
    /// Absent where a head has one rate.
    pub lr: Option<Floats<'a>>,
    pub lr_bias: &'a [f32],
    pub tau: &'a [f32],
    pub ln_scale: &'a [f32],
    pub ln_bias: &'a [f32],
    /// `W0` and `u0`; absent where they are the identity and zeros.
    pub start: Option<[Floats<'a>; 2]>,
    pub decay: Option<&'a [f32]>,
    /// `W1` and `u1` of TTT-MLP.
    pub second: Option<[Floats<'a>; 2]>,
}

/// Views of a `ttt-lite` mixer's tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TttLite<'a> {
    pub down: Matrix<'a>,
    pub up: Matrix<'a>,
    pub decay: Option<f32>,
}

/// Views of a mixer's tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MixerTensors<'a> {
    Ttt(Projections<'a>, Ttt<'a>),
    TttLite(TttLite<'a>),
    Attention(Projections<'a>),
}

/// Views of a gated feed-forward network's tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ffn<'a> {
    pub gate: Matrix<'a>,
    pub up: Matrix<'a>,
    pub sub_norm: Option<Floats<'a>>,
    pub down: Matrix<'a>,
}

/// Views of one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub record: LayerConfig,
    pub mixer_norm: Floats<'a>,
    pub conv: Option<Floats<'a>>,
    pub mixer: MixerTensors<'a>,
    pub ffn_norm: Floats<'a>,
    pub ffn_conv: Option<Floats<'a>>,
    pub ffn: Ffn<'a>,
}

impl<'a> Model<'a> {
    /// Checks the blob's structure in O(tensors) and returns views into it. Copies nothing.
    ///
    /// Header, config and tensor table are checksummed; tensor data is not read. For bytes from an untrusted or
    /// unreliable place call [`Model::verify`] too. Whatever the data holds, running it is memory-safe.
    ///
    /// # Errors
    /// The first inconsistency, by name.
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

    fn matrix(&self, entry: Entry) -> Matrix<'a> {
        let data = self.data(&entry);
        let scale = if entry.row_scales {
            Scale::Rows(self.scales(&entry))
        } else {
            Scale::Tensor(entry.scale)
        };
        let weights = match entry.dtype {
            DType::T2 => Weights::T2(data, scale),
            DType::T5 => Weights::T5(data, scale),
            DType::I8 => Weights::I8(bytemuck::cast_slice(data), self.scales(&entry)),
            DType::F16 | DType::F32 => Weights::Float(self.floats(entry)),
        };
        Matrix {
            rows: entry.rows as usize,
            cols: entry.cols as usize,
            weights,
        }
    }

    fn floats(&self, entry: Entry) -> Floats<'a> {
        match entry.dtype {
            DType::F16 => Floats::F16(cast(self.data(&entry))),
            _ => Floats::F32(cast(self.data(&entry))),
        }
    }

    fn entry(&self, index: u32) -> Entry {
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

    /// Views of block `layer`.
    pub(crate) fn block(&self, layer: u32) -> Option<Block<'a>> {
        let record = self.layer_config(layer).ok()?;
        let of = Tensors {
            model: self,
            record,
        };
        Some(Block {
            record,
            mixer_norm: of.floats(Role::MixerNorm)?,
            conv: of.floats(Role::Conv),
            mixer: match record.mixer {
                Mixer::TttLinear | Mixer::TttMlp => MixerTensors::Ttt(of.projections()?, of.ttt()?),
                Mixer::TttLite => MixerTensors::TttLite(TttLite {
                    down: of.matrix(Role::Down)?,
                    up: of.matrix(Role::Up)?,
                    decay: of.vector(Role::Decay).and_then(|v| v.first().copied()),
                }),
                Mixer::Attention => MixerTensors::Attention(of.projections()?),
            },
            ffn_norm: of.floats(Role::FfnNorm)?,
            ffn_conv: of.floats(Role::FfnConv),
            ffn: Ffn {
                gate: of.matrix(Role::FfnGate)?,
                up: of.matrix(Role::FfnUp)?,
                sub_norm: of.floats(Role::FfnSubNorm),
                down: of.matrix(Role::FfnDown)?,
            },
        })
    }
}

/// A layer's tensors by role; nothing where the layer has none of that role. Never inlined: that would cost 3 kB of
/// flash, and a layer is looked up once a pass.
struct Tensors<'m, 'a> {
    model: &'m Model<'a>,
    record: LayerConfig,
}

impl<'a> Tensors<'_, 'a> {
    #[inline(never)]
    fn entry(&self, role: Role) -> Option<Entry> {
        let index = self.record.first_tensor + self.record.place(role)?;
        Some(self.model.entry(index))
    }

    #[inline(never)]
    fn matrix(&self, role: Role) -> Option<Matrix<'a>> {
        Some(self.model.matrix(self.entry(role)?))
    }

    #[inline(never)]
    fn floats(&self, role: Role) -> Option<Floats<'a>> {
        Some(self.model.floats(self.entry(role)?))
    }

    fn both(&self, first: Role, second: Role) -> Option<[Floats<'a>; 2]> {
        Some([self.floats(first)?, self.floats(second)?])
    }

    #[inline(never)]
    fn vector(&self, role: Role) -> Option<&'a [f32]> {
        Some(cast(self.model.data(&self.entry(role)?)))
    }

    fn projections(&self) -> Option<Projections<'a>> {
        Some(Projections {
            query: self.matrix(Role::Query)?,
            key: self.matrix(Role::Key)?,
            value: self.matrix(Role::Value)?,
            output: self.matrix(Role::Output)?,
            gate: self.matrix(Role::Gate),
            out_norm: self.floats(Role::OutNorm),
        })
    }

    fn ttt(&self) -> Option<Ttt<'a>> {
        Some(Ttt {
            lr: self.floats(Role::Lr),
            lr_bias: self.vector(Role::LrBias)?,
            tau: self.vector(Role::Tau)?,
            ln_scale: self.vector(Role::LnScale)?,
            ln_bias: self.vector(Role::LnBias)?,
            start: self.both(Role::W0, Role::U0),
            decay: self.vector(Role::Decay),
            second: self.both(Role::W1, Role::U1),
        })
    }
}

/// A view of aligned bytes as numbers; empty where alignment or length is off, which the checks exclude.
fn cast<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> &[T] {
    bytemuck::try_cast_slice(bytes).unwrap_or(&[])
}
