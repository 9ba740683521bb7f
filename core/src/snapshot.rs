//! Snapshots: what a session has learned, as bytes that another session on the same model can continue from.
//!
//! Layout in docs/FORMAT.md, section "Snapshot". Restoring is all or nothing. Where there is no room for a snapshot beside the
//! session, [`Session::snapshot_parts`] and [`Session::restore_with`] do without.

use crate::checksum::Crc32;
use crate::format::Mixer;
use crate::format::read::{f32_at, u16_at, u32_at, u64_at};
use crate::memory::{histories_words, layer_state};
use crate::pieces::Cut;
use crate::session::Session;
use core::fmt;
use core::ops::Range;

/// First bytes of every snapshot.
pub const MAGIC: [u8; 4] = *b"BTTS";
/// Version that this build writes and reads.
pub const VERSION: u16 = 1;
/// Size of the header before the state.
pub const HEADER_BYTES: usize = 32;
/// What is read at once to be checked: whole words, little stack.
const PIECE: usize = 256;
/// No session gets there; half of what a `u64` counts, so that no sum with what is read next overflows.
const POSITIONS: u64 = 1 << 63;

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
    /// It claims more tokens read than there can have been, so many that counting on would overflow.
    Position(u64),
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
            Self::Position(found) => write!(
                f,
                "snapshot claims that {found} tokens were read: it is damaged, use an older one"
            ),
        }
    }
}

impl core::error::Error for SnapshotError {}

/// Why [`Session::restore_with`] did not restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError<E> {
    /// The snapshot is damaged or does not fit. The session is left as it was.
    Snapshot(SnapshotError),
    /// It could not be read. The session is left as it was.
    Read(E),
    /// The check had passed, but then its bytes could not be read again, or (`None`) had changed. The session has been
    /// [reset](Session::reset).
    SecondRead(Option<E>),
}

impl<E: fmt::Debug> fmt::Display for RestoreError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(error) => error.fmt(f),
            Self::Read(error) => write!(
                f,
                "snapshot cannot be read ({error:?}): try again, or use another"
            ),
            Self::SecondRead(Some(error)) => write!(
                f,
                "snapshot cannot be read a second time ({error:?}) and the session was reset: try again"
            ),
            Self::SecondRead(None) => f.write_str(
                "snapshot changed while it was restored and the session was reset: let nobody write to it and try again",
            ),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for RestoreError<E> {}

impl Session<'_, '_> {
    /// Writes the learned state into `buffer` and returns the number of bytes used.
    ///
    /// # Errors
    /// [`SnapshotError::Buffer`].
    pub fn snapshot(&self, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
        let (header, body) = self.snapshot_parts();
        let (needed, given) = (header.len() + body.len(), buffer.len());
        let Some((to_header, to_body)) = buffer
            .get_mut(..needed)
            .and_then(|b| b.split_first_chunk_mut::<HEADER_BYTES>())
        else {
            return Err(SnapshotError::Buffer { needed, given });
        };
        *to_header = header;
        to_body
            .iter_mut()
            .zip(body)
            .for_each(|(to, &from)| *to = from);
        Ok(needed)
    }

    /// The bytes of a snapshot where they are: the header, then the state itself. To write it somewhere piece by piece.
    pub fn snapshot_parts(&self) -> ([u8; HEADER_BYTES], &[u8]) {
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
        let body = bytemuck::cast_slice(self.state);
        let crc = crc_of(&header, body).to_le_bytes();
        header
            .iter_mut()
            .skip(field::CRC)
            .zip(crc)
            .for_each(|(to, from)| *to = from);
        (header, body)
    }

    /// Takes up what `snapshot` had learned.
    ///
    /// # Errors
    /// A snapshot of another model, version or length, or a damaged one; the session is left as it was.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        let info = Info::parse(snapshot)?;
        self.check_fit(&info)?;
        let body = snapshot.get(HEADER_BYTES..).unwrap_or(&[]);
        if !self.is_finite(0, body) {
            return Err(SnapshotError::NotFinite);
        }
        self.state
            .iter_mut()
            .zip(body.pieces(4))
            .for_each(|(to, from)| *to = f32_at(from, 0));
        self.take_up(&info);
        Ok(())
    }

    /// [`Session::restore`] from wherever a snapshot of `length` bytes can be read twice: `read(offset, piece)` fills `piece`
    /// with the bytes from `offset` on. It is asked for all of them once to check, in pieces of at most 256 bytes, and once
    /// more to take them up, the state in one piece.
    ///
    /// # Errors
    /// As [`Session::restore`], or what `read` gives; the session is left as it was, but for
    /// [`RestoreError::SecondRead`].
    pub fn restore_with<E>(
        &mut self,
        length: usize,
        mut read: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), RestoreError<E>> {
        let header = self.check_pieces(length, &mut read)?;
        self.touched = u64::MAX;
        let state = bytemuck::cast_slice_mut(self.state);
        let again = match read(HEADER_BYTES, state) {
            Ok(()) => Info::complete(&header, state).map_err(|_| None),
            Err(error) => Err(Some(error)),
        };
        match again {
            Ok(info) => self.take_up(&info),
            Err(error) => {
                self.reset();
                return Err(RestoreError::SecondRead(error));
            }
        }
        Ok(())
    }

    /// The header, where all that `read` gives is a snapshot for this session.
    fn check_pieces<E>(
        &self,
        length: usize,
        read: &mut impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<[u8; HEADER_BYTES], RestoreError<E>> {
        let mut header = [0; HEADER_BYTES];
        let Some(body) = length.checked_sub(HEADER_BYTES) else {
            return Err(RestoreError::Snapshot(SnapshotError::Length));
        };
        read(0, &mut header).map_err(RestoreError::Read)?;
        let info = Info::of_header(&header, body).map_err(RestoreError::Snapshot)?;
        let (mut digest, mut finite) = (crc_begun(&header), true);
        let mut buffer = [0; PIECE];
        for at in (0..body).step_by(PIECE) {
            let piece = buffer.get_mut(..PIECE.min(body - at)).unwrap_or_default();
            read(HEADER_BYTES + at, piece).map_err(RestoreError::Read)?;
            digest.update(piece);
            finite &= self.is_finite(at / 4, piece);
        }
        let verdict = match digest.finalize() == u32_at(&header, field::CRC) {
            true => self.check_fit(&info),
            false => Err(SnapshotError::Checksum),
        };
        match verdict {
            Ok(()) if finite => Ok(header),
            Ok(()) => Err(RestoreError::Snapshot(SnapshotError::NotFinite)),
            Err(error) => Err(RestoreError::Snapshot(error)),
        }
    }

    /// Whether a snapshot is of this model, of as much state, and has a position that can be counted on from.
    fn check_fit(&self, info: &Info) -> Result<(), SnapshotError> {
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
        match info.position {
            position if position < POSITIONS => Ok(()),
            position => Err(SnapshotError::Position(position)),
        }
    }

    /// What a snapshot holds besides the state.
    fn take_up(&mut self, info: &Info) {
        self.touched = u64::MAX;
        self.position = info.position;
        self.dropped = info.dropped;
    }

    /// Whether every number in a piece of a state from word `from` on is finite, halves where the state holds halves.
    fn is_finite(&self, from: usize, piece: &[u8]) -> bool {
        let mut at = 0;
        let config = self.model.config();
        let records = (0..config.n_layers).filter_map(|layer| self.model.layer_config(layer).ok());
        records.into_iter().all(|record| {
            let all = layer_state(config, &record, self.batch);
            let halves = match record.kind() {
                Mixer::Attention if !record.kv_f32 => all - histories_words(config, &record),
                _ => 0,
            };
            let (cache, end) = (at..at + halves, at + all);
            at = end;
            part(from, piece, &cache)
                .chunks_exact(2)
                .all(|h| u16_at(h, 0) & 0x7C00 != 0x7C00)
                && part(from, piece, &(cache.end..end))
                    .chunks_exact(4)
                    .all(|f| f32_at(f, 0).is_finite())
        })
    }
}

/// What of a piece that begins with word `from` is among `words`.
fn part<'a>(from: usize, piece: &'a [u8], words: &Range<usize>) -> &'a [u8] {
    let byte = |word: usize| (word.saturating_sub(from) * 4).min(piece.len());
    piece
        .get(byte(words.start)..byte(words.end))
        .unwrap_or_default()
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
        Self::complete(header, body)
    }

    /// Of a header and all that follows it.
    fn complete(header: &[u8; HEADER_BYTES], body: &[u8]) -> Result<Self, SnapshotError> {
        let info = Self::of_header(header, body.len())?;
        match crc_of(header, body) == u32_at(header, field::CRC) {
            true => Ok(info),
            false => Err(SnapshotError::Checksum),
        }
    }

    /// Of a header that so many bytes follow, which are not checked.
    fn of_header(header: &[u8; HEADER_BYTES], body: usize) -> Result<Self, SnapshotError> {
        if !header.starts_with(&MAGIC) {
            return Err(SnapshotError::NotASnapshot);
        }
        let version = u16_at(header, field::VERSION);
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let words = u32_at(header, field::WORDS);
        if body as u64 != u64::from(words) * 4 {
            return Err(SnapshotError::Length);
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
    let mut digest = crc_begun(header);
    digest.update(body);
    digest.finalize()
}

/// The same before the state.
fn crc_begun(header: &[u8; HEADER_BYTES]) -> Crc32 {
    let mut digest = Crc32::new();
    digest.update(header.get(..field::CRC).unwrap_or(&[]));
    digest
}
