//! A TensorBoard event file: records of an `Event` protobuf each, framed like TFRecords.
//!
//! A record is its length (u64, little-endian), the masked CRC-32C of these 8 bytes, the data, and the masked CRC-32C of
//! the data; the mask is a rotation and a constant (tensorflow, `core/lib/hash/crc32c.h`). Of the protobuf, four fields of
//! `Event` and two of `Summary.Value` are enough for scalars.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bitttt_export::save::{save_atomically, write_fault};

/// What TensorBoard looks for in a file's name.
const PREFIX: &str = "events.out.tfevents.";

/// Named values of one step.
pub struct Scalars {
    /// Seconds since 1970.
    pub time: f64,
    /// The step.
    pub step: u64,
    /// Tag and value; the part of a tag before the first `/` makes a section.
    pub values: Vec<(String, f64)>,
}

/// The growing event file of a run.
pub struct Events {
    path: PathBuf,
}

impl Events {
    /// Begins a file in `dir` with what was already told, in place of those of an earlier call: a reader that has one of
    /// them open finds the new one by its name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(dir: &Path, time: f64, told: &[Scalars]) -> anyhow::Result<Self> {
        let older = files(dir);
        let path = (0..)
            .map(|n| dir.join(format!("{PREFIX}{:010}.{n}.bitttt", time as u64)))
            .find(|path| !path.exists())
            .expect("numbers do not end");
        let version = record(&version_event(time));
        let told = told.iter().map(|s| record(&scalar_event(s)));
        let bytes: Vec<u8> = std::iter::once(version).chain(told).flatten().collect();
        save_atomically(&path, &bytes)?;
        for old in older {
            std::fs::remove_file(&old).map_err(|e| write_fault(&old, e))?;
        }
        Ok(Self { path })
    }

    /// Appends the values of a step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&self, scalars: &Scalars) -> anyhow::Result<()> {
        let fault = |e| write_fault(&self.path, e);
        let mut open = std::fs::OpenOptions::new();
        let mut file = open.append(true).open(&self.path).map_err(fault)?;
        file.write_all(&record(&scalar_event(scalars)))
            .map_err(fault)?;
        Ok(())
    }
}

/// Event files of earlier calls.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        name.starts_with(PREFIX) && name.ends_with(".bitttt")
    };
    entries.map(|e| e.path()).filter(ours).collect()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xA282_EAD8)
}

/// Keys of the protobuf's fields: number and wire type.
mod key {
    pub const EVENT_WALL_TIME: u8 = 1 << 3 | 1;
    pub const EVENT_STEP: u8 = 2 << 3;
    pub const EVENT_FILE_VERSION: u8 = 3 << 3 | 2;
    pub const EVENT_SUMMARY: u8 = 5 << 3 | 2;
    pub const SUMMARY_VALUE: u8 = 1 << 3 | 2;
    pub const VALUE_TAG: u8 = 1 << 3 | 2;
    pub const VALUE_SIMPLE_VALUE: u8 = 2 << 3 | 5;
}

fn version_event(time: f64) -> Vec<u8> {
    let mut out = vec![key::EVENT_WALL_TIME];
    out.extend(time.to_le_bytes());
    field(&mut out, key::EVENT_FILE_VERSION, b"brain.Event:2");
    out
}

fn scalar_event(scalars: &Scalars) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in &scalars.values {
        let mut message = Vec::new();
        field(&mut message, key::VALUE_TAG, tag.as_bytes());
        message.push(key::VALUE_SIMPLE_VALUE);
        message.extend((*value as f32).to_le_bytes());
        field(&mut summary, key::SUMMARY_VALUE, &message);
    }
    let mut out = vec![key::EVENT_WALL_TIME];
    out.extend(scalars.time.to_le_bytes());
    out.push(key::EVENT_STEP);
    varint(&mut out, scalars.step);
    field(&mut out, key::EVENT_SUMMARY, &summary);
    out
}

fn field(out: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    out.push(key);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalars(step: u64) -> Scalars {
        Scalars {
            time: 1.5,
            step,
            values: vec![("a/b".into(), 0.5), ("c".into(), -2.0)],
        }
    }

    /// What the Python package `tensorboard` 2.21 writes for the same event, by its `event_pb2` and `RecordWriter`.
    #[test]
    fn a_record_has_the_bytes_that_tensorboard_itself_writes() {
        #[rustfmt::skip]
        let expected = [
            0x24, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x42, 0x2B, 0x80, 0x4D, 0x09, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x00, 0xF8, 0x3F, 0x10, 0xAC, 0x02, 0x2A, 0x16, 0x0A, 0x0A,
            0x0A, 0x03, 0x61, 0x2F, 0x62, 0x15, 0x00, 0x00, 0x00, 0x3F, 0x0A, 0x08, 0x0A, 0x01,
            0x63, 0x15, 0x00, 0x00, 0x00, 0xC0, 0xAC, 0x91, 0xA7, 0x14,
        ];
        assert_eq!(record(&scalar_event(&scalars(300))), expected);
    }

    /// Data of every record; panics where a length or a checksum is wrong.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let len = word(0) as usize;
            assert_eq!((word(4), word(8)), (0, masked_crc(&bytes[..8])));
            let data = &bytes[12..12 + len];
            assert_eq!(word(12 + len), masked_crc(data));
            all.push(data.to_vec());
            bytes = &bytes[16 + len..];
        }
        all
    }

    #[test]
    fn a_file_begins_with_its_version_and_is_replaced_by_the_next_call() {
        let dir = tempfile::tempdir().unwrap();
        let first = Events::create(dir.path(), 7.0, &[]).unwrap();
        first.push(&scalars(300)).unwrap();
        let second = Events::create(dir.path(), 7.0, &[scalars(1), scalars(2)]).unwrap();
        second.push(&scalars(3)).unwrap();
        assert_eq!(files(dir.path()), std::slice::from_ref(&second.path));
        let told = [1, 2, 3].map(|step| scalar_event(&scalars(step)));
        let all = records(&std::fs::read(&second.path).unwrap());
        assert_eq!(all[0], version_event(7.0));
        assert_eq!(all[1..], told);
    }
}
