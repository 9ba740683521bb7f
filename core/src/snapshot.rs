//! Snapshots: what a session has learned, as bytes that another session on the same model can continue from.
//!
//! Layout in docs/FORMAT.md, section "Snapshot". Restoring is all or nothing.

use crate::format::Mixer;
use crate::format::read::{f32_at, u16_at, u32_at, u64_at};
use crate::memory::{histories_words, layer_state};
use crate::session::Session;
use core::fmt;

/// First bytes of every snapshot.
pub const MAGIC: [u8; 4] = *b"BTTS";
/// Version that this build writes and reads.
pub const VERSION: u16 = 1;
/// Size of the header before the state.
pub const HEADER_BYTES: usize = 32;

/// Byte offsets of the header's fields.
pub mod field {
    #![allow(missing_docs)]
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 4;
    pub const MODEL: usize = 8;
    pub const WORDS: usize = 12;
    pub const POSITION: usize = 16;
    pub const DROPPED: usize = 24;
    pub const CRC: usize = 28;
}

/// Why a snapshot could not be taken or restored. The session is left as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The buffer is shorter than the snapshot.
    Buffer {
        /// Bytes needed: [`crate::MemoryPlan::snapshot_bytes`].
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The first bytes are not `BTTS`.
    NotASnapshot,
    /// Written by another version.
    Version(u16),
    /// Taken on another model.
    Model {
        /// Fingerprint in the snapshot.
        snapshot: u32,
        /// Fingerprint of the session's model.
        model: u32,
    },
    /// Shorter or longer than its header says, or than this session's state: other room for context, for instance.
    Length,
    /// The checksum does not match.
    Checksum,
    /// A value is not finite.
    NotFinite,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Buffer { needed, given } => write!(
                f,
                "snapshot needs a buffer of {needed} bytes, {given} were given"
            ),
            Self::NotASnapshot => f.write_str(
                "not a snapshot (magic bytes are not BTTS): give a file written by --save-state",
            ),
            Self::Version(found) => write!(
                f,
                "snapshot has version {found}, this build reads {VERSION}: save it again"
            ),
            Self::Model { snapshot, model } => write!(
                f,
                "snapshot belongs to model {snapshot:08x}, this model is {model:08x}: load it with the model it was taken on"
            ),
            Self::Length => f.write_str(
                "snapshot is cut short, too long or taken with other room for context: copy it again, or give the session the same Batch::with_context",
            ),
            Self::Checksum => f.write_str(
                "checksum of the snapshot does not match: it is damaged, use an older one",
            ),
            Self::NotFinite => f.write_str(
                "snapshot holds a value that is not finite: it is damaged, use an older one",
            ),
        }
    }
}

impl core::error::Error for SnapshotError {}

impl Session<'_, '_> {
    /// Writes the learned state into `buffer` and returns the number of bytes used.
    ///
    /// # Errors
    /// [`SnapshotError::Buffer`].
    pub fn snapshot(&self, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
        let (needed, given) = (HEADER_BYTES + self.state.len() * 4, buffer.len());
        let Some((header, body)) = buffer
            .get_mut(..needed)
            .and_then(|b| b.split_first_chunk_mut::<HEADER_BYTES>())
        else {
            return Err(SnapshotError::Buffer { needed, given });
        };
        body.iter_mut()
            .zip(bytemuck::cast_slice::<f32, u8>(self.state))
            .for_each(|(to, &from)| *to = from);
        *header = self.snapshot_header();
        let crc = crc_of(header, body).to_le_bytes();
        header
            .iter_mut()
            .skip(field::CRC)
            .zip(crc)
            .for_each(|(to, from)| *to = from);
        Ok(needed)
    }

    fn snapshot_header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            header
                .iter_mut()
                .skip(at)
                .zip(bytes)
                .for_each(|(to, &from)| *to = from)
        };
        put(field::MAGIC, &MAGIC);
        put(field::VERSION, &VERSION.to_le_bytes());
        put(field::MODEL, &self.model.fingerprint().to_le_bytes());
        put(field::WORDS, &(self.state.len() as u32).to_le_bytes());
        put(field::POSITION, &self.position.to_le_bytes());
        put(field::DROPPED, &self.dropped.to_le_bytes());
        header
    }

    /// Takes up what `snapshot` had learned.
    ///
    /// # Errors
    /// A snapshot of another model, version or length, or a damaged one; the session is left as it was.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        let info = Info::parse(snapshot)?;
        let model = self.model.fingerprint();
        if info.model != model {
            return Err(SnapshotError::Model {
                snapshot: info.model,
                model,
            });
        }
        if info.words as usize != self.state.len() {
            return Err(SnapshotError::Length);
        }
        let body = snapshot.get(HEADER_BYTES..).unwrap_or(&[]);
        if !self.is_finite(body) {
            return Err(SnapshotError::NotFinite);
        }
        self.state
            .iter_mut()
            .zip(body.chunks_exact(4))
            .for_each(|(to, from)| *to = f32_at(from, 0));
        self.touched = u64::MAX;
        self.position = info.position;
        self.dropped = info.dropped;
        Ok(())
    }
}

impl Session<'_, '_> {
    /// Whether every number of a state is finite, halves where the state holds halves.
    fn is_finite(&self, mut state: &[u8]) -> bool {
        let config = self.model.config();
        let records = (0..config.n_layers).filter_map(|layer| self.model.layer_config(layer).ok());
        records.into_iter().all(|record| {
            let all = layer_state(config, &record, self.batch);
            let halves = match record.mixer {
                Mixer::Attention if !record.kv_f32 => all - histories_words(config, &record),
                _ => 0,
            };
            let (cache, rest) = state.split_at_checked(halves * 4).unwrap_or_default();
            let (floats, rest) = rest
                .split_at_checked((all - halves) * 4)
                .unwrap_or_default();
            state = rest;
            cache
                .chunks_exact(2)
                .all(|h| u16_at(h, 0) & 0x7C00 != 0x7C00)
                && floats.chunks_exact(4).all(|f| f32_at(f, 0).is_finite())
        })
    }
}

/// What a snapshot's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Fingerprint of the model that it was taken on.
    pub model: u32,
    /// f32 words of state.
    pub words: u32,
    /// Tokens read.
    pub position: u64,
    /// Dropped updates.
    pub dropped: u32,
}

impl Info {
    /// Reads and checks a whole snapshot, without a model.
    ///
    /// # Errors
    /// Whatever is wrong with it by itself.
    pub fn parse(snapshot: &[u8]) -> Result<Self, SnapshotError> {
        if snapshot.get(..4) != Some(&MAGIC) {
            return Err(SnapshotError::NotASnapshot);
        }
        let Some((header, body)) = snapshot.split_first_chunk::<HEADER_BYTES>() else {
            return Err(SnapshotError::Length);
        };
        let version = u16_at(header, field::VERSION);
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let words = u32_at(header, field::WORDS);
        if body.len() as u64 != u64::from(words) * 4 {
            return Err(SnapshotError::Length);
        }
        if crc_of(header, body) != u32_at(header, field::CRC) {
            return Err(SnapshotError::Checksum);
        }
        Ok(Self {
            model: u32_at(header, field::MODEL),
            words,
            position: u64_at(header, field::POSITION),
            dropped: u32_at(header, field::DROPPED),
        })
    }
}

/// Checksum over the header before its own field, then the state.
fn crc_of(header: &[u8; HEADER_BYTES], body: &[u8]) -> u32 {
    let mut digest = crate::checksum::digest();
    digest.update(header.get(..field::CRC).unwrap_or(&[]));
    digest.update(body);
    digest.finalize()
}
