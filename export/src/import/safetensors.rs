//! Checkpoints in safetensors files, one or several, read by position: what is not being read takes no memory.

use super::rows::{Elements, Rows, Tensor, Width};
use super::{Fields, ImportError};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Longest header that is believed, as in the `safetensors` crate.
const MOST_HEADER: u64 = 100_000_000;
/// Bytes that are compared at once.
const RUN: usize = 1 << 20;
const AGAIN: &str = "download the checkpoint again";

/// The tensors of a checkpoint by name.
#[derive(Debug)]
pub struct Tensors {
    files: Vec<Shard>,
    /// Place of each tensor's file in `files`.
    names: BTreeMap<String, usize>,
    /// What is named where a tensor is in no file.
    whole: PathBuf,
}

/// One file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where the tensors start.
    start: u64,
}

/// A tensor in a file.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    shard: &'a Shard,
    name: &'a str,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: &'a [usize],
    offset: u64,
    /// Its length.
    pub bytes: u64,
}

impl Tensors {
    /// Opens `model.safetensors` of a directory, or the files that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// A file that is missing, cut short or not in the format.
    pub fn in_directory(directory: &Path) -> Result<Self, ImportError> {
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        if single.exists() || !index.exists() {
            return Self::in_files(vec![Shard::open(&single, 0)?], single);
        }
        let fields = Fields::open(&index, AGAIN)?;
        let map = fields
            .object("weight_map")?
            .ok_or_else(|| fields.wrong("weight_map", format!("is missing: {AGAIN}")))?;
        let mut names = std::collections::BTreeSet::new();
        for tensor in map.names() {
            let file = map.text(tensor)?.unwrap_or_default();
            // a name, not a path: an index must not lead out of its directory
            if Path::new(file).file_name() != Some(file.as_ref()) {
                return Err(map.wrong(tensor, format!("is `{file}`, not the name of a file")));
            }
            names.insert(file);
        }
        let shards = names
            .into_iter()
            .map(|name| Shard::open(&directory.join(name), 0));
        let tensors = Self::in_files(shards.collect::<Result<_, _>>()?, index.clone())?;
        match map.names().find(|name| !tensors.names.contains_key(*name)) {
            None => Ok(tensors),
            Some(name) => Err(ImportError::tensor(
                &index,
                name,
                format!("is in none of the files: {AGAIN}"),
            )),
        }
    }

    /// Opens a file whose safetensors part begins at byte `at` and reaches to its end.
    ///
    /// # Errors
    /// As [`Tensors::in_directory`].
    pub fn in_file(path: &Path, at: u64) -> Result<Self, ImportError> {
        Self::in_files(vec![Shard::open(path, at)?], path.to_owned())
    }

    fn in_files(files: Vec<Shard>, whole: PathBuf) -> Result<Self, ImportError> {
        let mut names = BTreeMap::new();
        for (place, shard) in files.iter().enumerate() {
            for name in shard.header.offset_keys() {
                if let Some(other) = names.insert(name.clone(), place) {
                    let also = files[other].path.display();
                    let what = format!("is also in {also}: {AGAIN}");
                    return Err(ImportError::tensor(&shard.path, name, what));
                }
            }
        }
        Ok(Self {
            files,
            names,
            whole,
        })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let lengths = self.files.iter().map(|shard| shard.header.data_len());
        lengths.map(|bytes| bytes as u64).sum()
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The file that `name` is in, or that should have it.
    pub fn path_of(&self, name: &str) -> &Path {
        let shard = self.names.get(name).map(|&place| &self.files[place]);
        shard.map_or(&self.whole, |shard| &shard.path)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// None there.
    pub fn get(&self, name: &str) -> Result<Stored<'_>, ImportError> {
        let missing = || {
            let what = "is missing: the checkpoint does not fit its config.json";
            ImportError::tensor(&self.whole, name, what)
        };
        let (name, &place) = self.names.get_key_value(name).ok_or_else(missing)?;
        let shard = &self.files[place];
        let info = shard.header.info(name).ok_or_else(missing)?;
        let (from, to) = info.data_offsets;
        Ok(Stored {
            shard,
            name,
            dtype: info.dtype,
            shape: &info.shape,
            offset: shard.start + from as u64,
            bytes: (to - from) as u64,
        })
    }

    /// The tensor of this name, which must have this shape.
    ///
    /// # Errors
    /// None there, or another shape.
    pub fn shaped(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>, ImportError> {
        let tensor = self.get(name)?;
        if tensor.shape != shape {
            let what = format!(
                "has shape {:?}, config.json calls for {shape:?}",
                tensor.shape
            );
            return Err(tensor.wrong(what));
        }
        Ok(tensor)
    }
}

impl<'a> Stored<'a> {
    /// An error about this tensor.
    pub fn wrong(&self, what: impl Into<String>) -> ImportError {
        ImportError::tensor(&self.shard.path, self.name, what)
    }

    /// Its elements as floats, in rows of `cols`.
    ///
    /// # Errors
    /// Another type.
    pub fn floats(self, cols: usize) -> Result<(FloatRows<'a>, Width), ImportError> {
        let width = match self.dtype {
            Dtype::F32 => Width::F32,
            Dtype::F16 => Width::F16,
            Dtype::BF16 => Width::Bf16,
            other => {
                let what = format!("holds {other:?}, not F32, F16 or BF16");
                return Err(self.wrong(what));
            }
        };
        let rows = FloatRows {
            tensor: self,
            width,
            cols,
        };
        Ok((rows, width))
    }

    /// All its elements, of which there are few.
    ///
    /// # Errors
    /// Another type, or a file that cannot be read.
    pub fn to_vec(self) -> Result<Vec<f32>, ImportError> {
        let mut values = vec![0.0; self.shape.iter().product()];
        let (rows, _) = self.floats(values.len())?;
        rows.read(0, &mut values)?;
        Ok(values)
    }

    /// It, as float rows for the blob.
    ///
    /// # Errors
    /// Another type.
    pub fn float_tensor(self, cols: usize) -> Result<Tensor<'a>, ImportError> {
        let (rows, width) = self.floats(cols)?;
        Ok(Tensor {
            elements: Elements::Float(Box::new(rows), width),
            bytes: self.bytes,
            loss: None,
        })
    }

    /// Whether another tensor is this one, byte for byte.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn equals(&self, other: &Self) -> Result<bool, ImportError> {
        if (self.dtype, self.shape) != (other.dtype, other.shape) {
            return Ok(false);
        }
        let mut parts = [vec![0; RUN], vec![0; RUN]];
        for at in (0..self.bytes).step_by(RUN) {
            let length = (self.bytes - at).min(RUN as u64) as usize;
            let [own, others] = &mut parts;
            self.read_bytes(at, &mut own[..length])?;
            other.read_bytes(at, &mut others[..length])?;
            if own[..length] != others[..length] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads bytes from `at` on.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read_bytes(&self, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        self.shard.read(self.offset + at, out)
    }
}

/// A tensor of floats, decoded as it is read.
#[derive(Clone, Copy, Debug)]
pub struct FloatRows<'a> {
    tensor: Stored<'a>,
    width: Width,
    cols: usize,
}

impl Rows<f32> for FloatRows<'_> {
    fn cols(&self) -> usize {
        self.cols
    }

    fn read(&self, first: usize, out: &mut [f32]) -> Result<(), ImportError> {
        let size = if self.width == Width::F32 { 4 } else { 2 };
        let mut bytes = vec![0; out.len() * size];
        self.tensor
            .read_bytes((first * self.cols * size) as u64, &mut bytes)?;
        decode(&bytes, self.width, out);
        Ok(())
    }
}

/// Little-endian floats to f32.
pub fn decode(bytes: &[u8], width: Width, out: &mut [f32]) {
    let (halves, words) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    match width {
        Width::F32 => (out.iter_mut().zip(words)).for_each(|(x, b)| *x = f32::from_le_bytes(*b)),
        Width::F16 => (out.iter_mut().zip(halves))
            .for_each(|(x, b)| *x = half::f16::from_le_bytes(*b).to_f32()),
        Width::Bf16 => (out.iter_mut().zip(halves))
            .for_each(|(x, b)| *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
    }
}

impl Shard {
    fn open(path: &Path, at: u64) -> Result<Self, ImportError> {
        let unreadable = |fault| ImportError::read(path, fault, AGAIN);
        let mut file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let short = || {
            let what = format!("is cut short at {length} bytes: {AGAIN}");
            ImportError::file(path, what)
        };
        let rest = length.checked_sub(at + 8).ok_or_else(short)?;
        let mut word = [0; 8];
        file.seek(SeekFrom::Start(at)).map_err(unreadable)?;
        file.read_exact(&mut word).map_err(unreadable)?;
        let header_bytes = u64::from_le_bytes(word);
        if header_bytes > MOST_HEADER {
            let what = "is no safetensors file: give the checkpoint's model.safetensors";
            return Err(ImportError::file(path, what));
        }
        let data = rest.checked_sub(header_bytes).ok_or_else(short)?;
        let mut text = vec![0; header_bytes as usize];
        file.read_exact(&mut text).map_err(unreadable)?;
        let header: Metadata = serde_json::from_slice(&text).map_err(|fault| {
            ImportError::file(path, format!("has a damaged header ({fault}): {AGAIN}"))
        })?;
        match data.checked_sub(header.data_len() as u64) {
            None => Err(short()),
            Some(0) => Ok(Self {
                path: path.to_owned(),
                file,
                header,
                start: at + 8 + header_bytes,
            }),
            Some(extra) => Err(ImportError::file(
                path,
                format!("has {extra} bytes behind its tensors: {AGAIN}"),
            )),
        }
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.read_exact(out))
            .map_err(|fault| ImportError::read(&self.path, fault, AGAIN))
    }
}
