//! A blob written from front to back, so that a model never has to fit into memory.
//!
//! The config determines which tensors there are and where each stands; their elements pass through once, and what
//! depends on them (checksums, weight scales) is written last, into the place kept free at the front.

use crate::blueprint::{required, tensor_name};
use crate::check::all_valid;
use crate::save::{persist, temporary_beside, write_fault};
use crate::{ExportError, Vocabulary};
use bitttt_core::format::header::{
    self, HEADER_BYTES, SECTION_ALIGN, SECTION_BYTES, section_field,
};
use bitttt_core::format::tensor::{ENTRY_BYTES, NO_LAYER, ROW_SCALES, field};
use bitttt_core::format::{Config, DType, LayerConfig, MAJOR, MINOR, Role, Section};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A model without its tensors.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    /// Dimensions.
    pub config: &'a Config,
    /// One record a layer; `first_tensor` is filled in.
    pub layers: &'a [LayerConfig],
    /// Built-in tokenizer.
    pub tokenizer: Option<&'a Vocabulary>,
    /// Text for people and tools; the core ignores it.
    pub metadata: &'a str,
}

/// Which tensor is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its layer; `None`: of the whole model.
    pub layer: Option<u32>,
    /// What it is for.
    pub role: Role,
    /// Outputs of a matrix.
    pub rows: u32,
    /// Inputs of a matrix.
    pub cols: u32,
}

/// Weight scales of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// One for the tensor; 1 where the elements are floats.
    Tensor(f32),
    /// One a row.
    Rows(Vec<f32>),
}

/// Takes the tensors of a model one after the other: [`BlobWriter::due`], [`BlobWriter::begin`], elements,
/// [`BlobWriter::end`], and when none is due any more [`BlobWriter::finish`].
#[derive(Debug)]
pub struct BlobWriter<W> {
    out: W,
    path: PathBuf,
    /// Sections before the tensors, where the table still lacks its entries.
    config: Vec<u8>,
    table: Vec<u8>,
    /// Sections after them.
    rest: Vec<(Section, Vec<u8>)>,
    places: std::vec::IntoIter<Place>,
    open: Option<Open>,
    /// Bytes of the tensor section so far.
    written: u64,
    crc: crc32fast::Hasher,
}

/// A tensor that has begun.
#[derive(Clone, Copy, Debug)]
struct Open {
    place: Place,
    dtype: DType,
    offset: u64,
}

impl Place {
    /// Its name as in checkpoints: `layers.3.mixer.q`.
    pub fn name(&self) -> String {
        tensor_name(self.layer, self.role)
    }

    /// Bytes of its elements in this type.
    pub fn bytes(&self, dtype: DType) -> u64 {
        u64::from(self.rows) * dtype.row_bytes(self.cols)
    }
}

impl<W: Write + Seek> BlobWriter<W> {
    /// Starts a blob at the beginning of `out`, which errors call `path`.
    ///
    /// # Errors
    /// A config that the core would refuse, a tokenizer that cannot be represented, or a failing `out`.
    pub fn new(mut out: W, path: &Path, outline: &Outline<'_>) -> Result<Self, ExportError> {
        let mut rest = Vec::new();
        if let Some(vocabulary) = outline.tokenizer {
            rest.push((Section::Tokenizer, vocabulary.section()?));
        }
        if !outline.metadata.is_empty() {
            rest.push((Section::Metadata, outline.metadata.as_bytes().to_vec()));
        }
        let config = outline.config_section();
        let parsed = Config::parse(&config)?;
        for layer in 0..parsed.n_layers {
            LayerConfig::parse(&config, &parsed, layer)?;
        }
        let places = outline.places();
        let sections = [config.len(), places.len() * ENTRY_BYTES];
        let front = HEADER_BYTES + (3 + rest.len()) * SECTION_BYTES;
        let start = sections.iter().fold(aligned(front as u64), |at, &bytes| {
            aligned(at + bytes as u64)
        });
        zeros(&mut out, start).map_err(|e| write_fault(path, e))?;
        Ok(Self {
            out,
            path: path.to_owned(),
            config,
            table: Vec::with_capacity(sections[1]),
            rest,
            places: places.into_iter(),
            open: None,
            written: 0,
            crc: crc32fast::Hasher::new(),
        })
    }

    /// The tensor to begin next.
    pub fn due(&self) -> Option<Place> {
        self.places.as_slice().first().copied()
    }

    /// Begins the tensor that is due; its elements will be stored as `dtype`.
    ///
    /// # Errors
    /// None due, the one before not ended, or a failing output.
    pub fn begin(&mut self, dtype: DType) -> Result<Place, ExportError> {
        let place = match (self.open, self.places.next()) {
            (None, Some(place)) => place,
            (open, due) => {
                let place = open.map(|open| open.place).or(due);
                return Err(ExportError::Order(place.map(|place| place.name())));
            }
        };
        self.pad(alignment_for(place.bytes(dtype)))?;
        self.open = Some(Open {
            place,
            dtype,
            offset: self.written,
        });
        Ok(place)
    }

    /// The next elements of the tensor, whole ones, rows one after the other.
    ///
    /// # Errors
    /// An invalid element, no tensor begun, or a failing output.
    pub fn elements(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let open = self.open.ok_or(ExportError::Order(None))?;
        if !all_valid(bytes, open.dtype) {
            return Err(ExportError::Value(open.place.name()));
        }
        self.write(bytes)
    }

    /// Ends the tensor that was begun.
    ///
    /// # Errors
    /// Too many or too few elements or scales, or a failing output.
    pub fn end(&mut self, scale: &Scale) -> Result<(), ExportError> {
        let open = self.open.take().ok_or(ExportError::Order(None))?;
        let (found, expected) = (self.written - open.offset, open.place.bytes(open.dtype));
        if found != expected {
            return Err(ExportError::Bytes {
                name: open.place.name(),
                found,
                expected,
            });
        }
        let scales = match scale {
            Scale::Tensor(scale) => std::slice::from_ref(scale),
            Scale::Rows(scales) => scales,
        };
        if !scales.iter().all(|scale| scale.is_finite()) {
            return Err(ExportError::Value(format!("{} (scale)", open.place.name())));
        }
        if let Scale::Rows(scales) = scale {
            if scales.len() != open.place.rows as usize {
                return Err(ExportError::Shape {
                    name: format!("{} (row scales)", open.place.name()),
                    found: scales.len(),
                    expected: open.place.rows as usize,
                });
            }
            self.pad(4)?;
            let bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            self.write(&bytes)?;
        }
        self.table.extend(open.entry(scale));
        Ok(())
    }

    /// Writes what stands behind the tensors and what stands before them; `out` then holds a whole blob.
    ///
    /// # Errors
    /// A tensor that is missing, or a failing output.
    pub fn finish(mut self) -> Result<W, ExportError> {
        if let Some(place) = self.open.map(|open| open.place).or(self.due()) {
            return Err(ExportError::MissingTensor(place.name()));
        }
        let mut front = Front::new(3 + self.rest.len());
        let config = std::mem::take(&mut self.config);
        let table = std::mem::take(&mut self.table);
        front.inside(Section::Config, &config);
        front.inside(Section::Table, &table);
        front.outside(Section::Tensors, self.written, self.crc.clone().finalize());
        for (section, data) in std::mem::take(&mut self.rest) {
            let gap = aligned(front.end) - front.end;
            self.put_out(&[0; SECTION_ALIGN as usize][..gap as usize])?;
            self.put_out(&data)?;
            front.outside(section, data.len() as u64, crc32fast::hash(&data));
        }
        let whole = |out: &mut W| {
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&front.finish())?;
            out.flush()
        };
        whole(&mut self.out).map_err(|e| write_fault(&self.path, e))?;
        Ok(self.out)
    }

    /// Bytes of the tensor section.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.crc.update(bytes);
        self.written += bytes.len() as u64;
        self.put_out(bytes)
    }

    fn put_out(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.out
            .write_all(bytes)
            .map_err(|e| write_fault(&self.path, e))
    }

    fn pad(&mut self, alignment: u64) -> Result<(), ExportError> {
        let gap = self.written.next_multiple_of(alignment) - self.written;
        self.write(&[0; SECTION_ALIGN as usize][..gap as usize])
    }
}

impl Open {
    /// The entry in the tensor table.
    fn entry(&self, scale: &Scale) -> [u8; ENTRY_BYTES] {
        let (scale, row_scales) = match scale {
            Scale::Tensor(scale) => (*scale, 0),
            Scale::Rows(_) => (1.0, ROW_SCALES),
        };
        let layer = self.place.layer.map_or(NO_LAYER, |layer| layer as u16);
        let mut entry = [0; ENTRY_BYTES];
        entry[field::ROLE] = self.place.role as u8;
        entry[field::DTYPE] = self.dtype as u8 | row_scales;
        put(&mut entry, field::LAYER, &layer.to_le_bytes());
        put(&mut entry, field::ROWS, &self.place.rows.to_le_bytes());
        put(&mut entry, field::COLS, &self.place.cols.to_le_bytes());
        put(&mut entry, field::SCALE, &scale.to_le_bytes());
        put(&mut entry, field::OFFSET, &self.offset.to_le_bytes());
        entry
    }
}

/// Header, section table and the sections before the tensors.
struct Front {
    bytes: Vec<u8>,
    sections: usize,
    next: usize,
    /// End of the last section in the file.
    end: u64,
}

impl Front {
    fn new(sections: usize) -> Self {
        let bytes = vec![0; HEADER_BYTES + sections * SECTION_BYTES];
        Self {
            end: bytes.len() as u64,
            bytes,
            sections,
            next: HEADER_BYTES,
        }
    }

    /// A section that stands here.
    fn inside(&mut self, section: Section, data: &[u8]) {
        self.bytes.resize(aligned(self.end) as usize, 0);
        self.bytes.extend(data);
        self.outside(section, data.len() as u64, crc32fast::hash(data));
    }

    /// A section that was written elsewhere, right behind the one before.
    fn outside(&mut self, section: Section, bytes: u64, crc: u32) {
        let offset = aligned(self.end);
        let entry = &mut self.bytes[self.next..][..SECTION_BYTES];
        put(entry, section_field::KIND, &(section as u32).to_le_bytes());
        put(entry, section_field::CRC, &crc.to_le_bytes());
        put(entry, section_field::OFFSET, &offset.to_le_bytes());
        put(entry, section_field::BYTES, &bytes.to_le_bytes());
        self.next += SECTION_BYTES;
        self.end = offset + bytes;
    }

    fn finish(mut self) -> Vec<u8> {
        let (end, sections) = (self.end, self.sections as u32);
        let front = &mut self.bytes[..HEADER_BYTES + self.sections * SECTION_BYTES];
        put(front, header::field::MAGIC, &header::MAGIC);
        put(front, header::field::MAJOR, &MAJOR.to_le_bytes());
        put(front, header::field::MINOR, &MINOR.to_le_bytes());
        put(front, header::field::FILE_BYTES, &end.to_le_bytes());
        put(front, header::field::SECTION_COUNT, &sections.to_le_bytes());
        let crc = crc32fast::hash(front); // its own field is still zero
        put(front, header::field::CRC, &crc.to_le_bytes());
        self.bytes
    }
}

impl Outline<'_> {
    /// The tensors that the config calls for, in table order.
    pub fn places(&self) -> Vec<Place> {
        let shaped = |(layer, role): (Option<u32>, Role)| {
            let record = layer.and_then(|layer| self.layers.get(layer as usize));
            let [rows, cols] = role.shape(self.config, record);
            Place {
                layer,
                role,
                rows,
                cols,
            }
        };
        let required = required(self.config, self.layers);
        required.into_iter().map(shaped).collect()
    }

    /// Streams a blob to `path`, whole or not at all: `write` gives the tensors, `check` looks at the finished file
    /// before it gets its name (map it and try `Model::from_bytes`; elements were checked on their way). Returns what
    /// `check` returns.
    ///
    /// # Errors
    /// What `write` or `check` return, a missing tensor, or a file that cannot be written.
    pub fn save<T, E: From<ExportError>>(
        &self,
        path: &Path,
        write: impl FnOnce(&mut BlobWriter<BufWriter<&mut File>>) -> Result<(), E>,
        check: impl FnOnce(&File) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut file = temporary_beside(path)?;
        let out = BufWriter::with_capacity(BUFFER, file.as_file_mut());
        let mut writer = BlobWriter::new(out, path, self)?;
        write(&mut writer)?;
        drop(writer.finish()?);
        let checked = check(file.as_file())?;
        persist(file, path)?;
        Ok(checked)
    }
}

/// Bytes that are given to the system at once.
const BUFFER: usize = 1 << 20;

/// Large tensors start on a cache line, small ones on a word: padding would cost more than it brings.
fn alignment_for(bytes: u64) -> u64 {
    if bytes >= 1024 { SECTION_ALIGN } else { 4 }
}

fn aligned(at: u64) -> u64 {
    at.next_multiple_of(SECTION_ALIGN)
}

fn zeros(out: &mut impl Write, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), out)?;
    Ok(())
}

/// Copies `bytes` to `at`.
pub(crate) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}
