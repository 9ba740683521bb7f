//! The container: header, metadata, tensor table of GGUF versions 2 and 3 (ggml's `docs/gguf.md`).
//!
//! Invariant: no length or count in the file is believed before it was compared with what the file still has, and after
//! [`Gguf::open`] every tensor lies inside the file, apart from every other.

use super::kind::{Kind, foreign_name};
use super::value::{ARRAY, TEXT, Value, least_bytes};
use crate::import::ImportError;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A tensor in the file. The first dimension is the length of a row, all others together are the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Rows.
    pub rows: u64,
    /// Weights of a row.
    pub cols: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes that it takes.
    pub bytes: u64,
}

/// An open file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Stored>,
}

/// Where tensors start unless the metadata says otherwise.
const ALIGNMENT: u64 = 32;

/// Most dimensions.
const DIMENSIONS: u32 = 4;

/// Bytes of the shortest entry of the metadata, and of the tensor table.
const LEAST_VALUE: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

impl Gguf {
    /// Reads and checks all but the tensors' data.
    ///
    /// # Errors
    /// A file that cannot be read or is not such a file, by what is wrong in it.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::read(path, source, "give the path of a `.gguf` file");
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(ImportError::file(
                path,
                "is not a file: give the path of a `.gguf` file",
            ));
        }
        let mut front = Front {
            path,
            from: BufReader::with_capacity(1 << 16, &file),
            at: 0,
            bytes: metadata.len(),
        };
        let (values, tensors) = front.read()?;
        Ok(Self {
            path: path.to_owned(),
            file,
            values,
            tensors,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A value of the metadata.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = &Stored> {
        self.tensors.values()
    }

    /// Fills `out` with the file's bytes from `at` on.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        let mut file = &self.file;
        let read = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.read_exact(out));
        read.map_err(|source| ImportError::read(&self.path, source, "was it changed just now?"))
    }
}

/// What stands before the data, while it is read.
struct Front<'a> {
    path: &'a Path,
    from: BufReader<&'a File>,
    at: u64,
    bytes: u64,
}

type Parts = (BTreeMap<String, Value>, BTreeMap<String, Stored>);

impl Front<'_> {
    fn read(&mut self) -> Result<Parts, ImportError> {
        let magic: [u8; 4] = self.array("its first four bytes")?;
        if magic != *b"GGUF" {
            return Err(self.wrong("is no GGUF file: it does not begin with `GGUF`"));
        }
        match self.u32("version")? {
            2 | 3 => {}
            n if matches!(n.swap_bytes(), 1..=3) => {
                return Err(self.wrong("is a big-endian GGUF file: convert it to little-endian"));
            }
            n => {
                let what = format!("is of GGUF version {n}: 2 and 3 are read, convert it anew");
                return Err(self.wrong(what));
            }
        }
        let tensor_count = self.count("tensor_count", LEAST_TENSOR)?;
        let value_count = self.count("metadata_kv_count", LEAST_VALUE)?;
        let values = self.values(value_count)?;
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(self.tensor()?);
        }
        let start = self.data_start(&values)?;
        let tensors = self.place(tensors, start)?;
        Ok((values, tensors))
    }

    fn values(&mut self, count: u64) -> Result<BTreeMap<String, Value>, ImportError> {
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let key = self.text("a name in the metadata")?;
            let code = self.u32(&key)?;
            let value = self.value(&key, code)?;
            if values.contains_key(&key) {
                return Err(self.field(&key, "is there twice"));
            }
            values.insert(key, value);
        }
        Ok(values)
    }

    fn value(&mut self, key: &str, code: u32) -> Result<Value, ImportError> {
        if code != ARRAY {
            return self.single(key, code);
        }
        let element = self.u32(key)?;
        let least = least_bytes(element).filter(|_| element != ARRAY);
        let Some(least) = least else {
            return Err(self.field(key, format!("is an array of type {element}")));
        };
        let count = self.count(key, least)?;
        let values = (0..count).map(|_| self.single(key, element));
        Ok(Value::Array(values.collect::<Result<_, _>>()?))
    }

    fn single(&mut self, key: &str, code: u32) -> Result<Value, ImportError> {
        if code == TEXT {
            return Ok(Value::Text(self.text(key)?));
        }
        let mut bytes = [0; 8];
        let length = least_bytes(code).filter(|&length| length <= 8);
        let bytes = &mut bytes[..length.unwrap_or(0) as usize];
        self.fill(key, bytes)?;
        Value::fixed(code, bytes)
            .ok_or_else(|| self.field(key, format!("has no valid value of type {code}")))
    }

    /// A tensor whose `offset` still counts from the start of the data.
    fn tensor(&mut self) -> Result<Stored, ImportError> {
        let name = self.text("a tensor's name")?;
        let dimensions = self.u32(&name)?;
        if !(1..=DIMENSIONS).contains(&dimensions) {
            let what = format!("has {dimensions} dimensions; 1 to {DIMENSIONS} are possible");
            return Err(self.tensor_fault(&name, what));
        }
        let cols = self.u64(&name)?;
        let mut rows = 1u64;
        for _ in 1..dimensions {
            let dimension = self.u64(&name)?;
            rows = rows
                .checked_mul(dimension)
                .ok_or_else(|| self.tensor_fault(&name, "has dimensions that are too large"))?;
        }
        let code = self.u32(&name)?;
        let Some(kind) = Kind::of(code) else {
            let read: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            let what = format!(
                "is of {}, which is not read; convert the model to one of {}",
                foreign_name(code),
                read.join(", ")
            );
            return Err(self.tensor_fault(&name, what));
        };
        let Some(bytes) = kind.bytes(rows, cols) else {
            let what = format!(
                "is {rows} x {cols}, which is no whole number of blocks of {}",
                kind.name()
            );
            return Err(self.tensor_fault(&name, what));
        };
        let offset = self.u64(&name)?;
        Ok(Stored {
            name,
            kind,
            rows,
            cols,
            offset,
            bytes,
        })
    }

    fn data_start(&self, values: &BTreeMap<String, Value>) -> Result<u64, ImportError> {
        let key = "general.alignment";
        let alignment = match values.get(key) {
            None => ALIGNMENT,
            Some(value) => value
                .as_u64()
                .filter(|n| n.is_power_of_two() && (8..=1 << 20).contains(n))
                .ok_or_else(|| {
                    self.field(key, format!("is {value}, not a power of two above 4"))
                })?,
        };
        Ok(self.at.next_multiple_of(alignment))
    }

    /// Tensors where they lie in the file.
    fn place(
        &self,
        mut tensors: Vec<Stored>,
        start: u64,
    ) -> Result<BTreeMap<String, Stored>, ImportError> {
        tensors.sort_by_key(|tensor| tensor.offset);
        let (mut placed, mut end) = (BTreeMap::new(), start);
        for mut tensor in tensors {
            let offset = tensor.offset.checked_add(start);
            let Some((offset, past)) = offset.zip(offset.and_then(|o| o.checked_add(tensor.bytes)))
            else {
                return Err(self.tensor_fault(&tensor.name, "has an offset that is too large"));
            };
            if past > self.bytes {
                let what = format!(
                    "ends at byte {past}, the file at {}: it is cut short, fetch it again",
                    self.bytes
                );
                return Err(self.tensor_fault(&tensor.name, what));
            }
            if offset < end {
                return Err(self.tensor_fault(&tensor.name, "overlaps another"));
            }
            (end, tensor.offset) = (past, offset);
            let name = tensor.name.clone();
            if placed.insert(name.clone(), tensor).is_some() {
                return Err(self.tensor_fault(&name, "is there twice"));
            }
        }
        Ok(placed)
    }

    /// A number of things of at least `least` bytes each.
    fn count(&mut self, name: &str, least: u64) -> Result<u64, ImportError> {
        let count = self.u64(name)?;
        if count.checked_mul(least).is_none_or(|all| all > self.left()) {
            let what = format!("is {count}, more than the file can hold: it is damaged");
            return Err(self.field(name, what));
        }
        Ok(count)
    }

    fn text(&mut self, what: &str) -> Result<String, ImportError> {
        let length = self.u64(what)?;
        if length > self.left() {
            return Err(self.cut(what));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(what, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.wrong(format!("{what} is not UTF-8 text")))
    }

    fn u32(&mut self, what: &str) -> Result<u32, ImportError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, ImportError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ImportError> {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, what: &str, bytes: &mut [u8]) -> Result<(), ImportError> {
        if bytes.len() as u64 > self.left() {
            return Err(self.cut(what));
        }
        self.from
            .read_exact(bytes)
            .map_err(|source| ImportError::read(self.path, source, "was it changed just now?"))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.at)
    }

    fn cut(&self, what: &str) -> ImportError {
        self.wrong(format!(
            "ends inside {what}: it is cut short, fetch it again"
        ))
    }

    fn wrong(&self, what: impl Into<String>) -> ImportError {
        ImportError::file(self.path, what)
    }

    fn field(&self, key: &str, what: impl Into<String>) -> ImportError {
        ImportError::field(self.path, key, what)
    }

    fn tensor_fault(&self, name: &str, what: impl Into<String>) -> ImportError {
        ImportError::tensor(self.path, name, what)
    }
}
