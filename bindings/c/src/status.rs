//! Every way in which a call can be refused, as a number for C and as a sentence.

use bitttt_core::tokenizer::EncodeError;
use bitttt_core::{BlobError, SessionError, SnapshotError};
use core::ffi::{CStr, c_char, c_int};

/// What a call came to. Where it is not `BITTTT_STATUS_OK`, the session is as it was before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// A pointer is null.
    Null = 1,
    /// A pointer is not aligned as its type demands: session memory on `BITTTT_ALIGN` bytes, a blob on 4.
    Misaligned = 2,
    /// A length is larger than any object can be.
    Length = 3,
    /// A buffer lies inside of the session's memory or of the blob, or over another one of the call.
    Overlap = 4,
    /// There is no session here: never initialised, overwritten, or moved.
    Session = 5,
    /// There is no sampler here: never initialised, or overwritten.
    Sampler = 6,
    /// A setting is not a number, or out of its range.
    Setting = 7,
    /// The memory is shorter than `bitttt_memory_size` says.
    Memory = 8,
    /// A buffer is too short.
    Buffer = 9,
    /// A token is not in the vocabulary.
    Token = 10,
    /// There is no token to read, or no logit to choose from.
    Empty = 11,
    /// An attention layer without a window has no room for more tokens.
    Context = 12,
    /// The blob has no tokenizer.
    NoTokenizer = 13,
    /// These bytes are not a `.bttt` blob.
    NotABlob = 14,
    /// The blob has a format version that this library does not read.
    BlobVersion = 15,
    /// The blob is cut short or too long.
    BlobLength = 16,
    /// The blob is damaged: a checksum does not match.
    BlobChecksum = 17,
    /// The blob contradicts itself; `bitttt inspect` names the field.
    BlobInvalid = 18,
    /// These bytes are not a snapshot.
    NotASnapshot = 19,
    /// The snapshot has a version that this library does not read.
    SnapshotVersion = 20,
    /// The snapshot was taken on another model.
    SnapshotModel = 21,
    /// The snapshot is cut short, too long, or taken with other room for context.
    SnapshotLength = 22,
    /// The snapshot is damaged: its checksum does not match, or a value is not finite.
    SnapshotDamaged = 23,
    /// The engine refused for a reason that this version of the header has no name for.
    Other = 24,
}

const MESSAGES: [&CStr; 25] = [
    c"done",
    c"a pointer is null",
    c"a pointer is misaligned: session memory needs BITTTT_ALIGN bytes, a blob 4 (64 are best)",
    c"a length is larger than any object can be: it may have been negative",
    c"a buffer overlaps the session's memory, the blob or another buffer: use memory of its own",
    c"no session is here: call bitttt_session_init, and leave its memory where it is",
    c"no sampler is here: call bitttt_sampler_init",
    c"a setting is not a number or out of range: temperature is 0 or more, top_p from 0 to 1",
    c"the memory is too short: ask bitttt_memory_size with the same options",
    c"a buffer is too short: a token for each byte of the text, bitttt_snapshot_size for a snapshot",
    c"a token is out of range: use the model's own tokenizer",
    c"there is nothing to read: give at least one token",
    c"the context is full: reset the session, or give it options with a larger context",
    c"the blob has no tokenizer: export it with one, or make tokens elsewhere",
    c"not a .bttt blob: give a file written by `bitttt export`",
    c"the blob has another format version: update the library or export again",
    c"the blob is cut short or too long: copy the file again and give its exact length",
    c"the blob is damaged, a checksum does not match: copy it again",
    c"the blob contradicts itself: export again; `bitttt inspect` names the field",
    c"not a snapshot: give what bitttt_snapshot wrote",
    c"the snapshot has another version: take it again",
    c"the snapshot was taken on another model: restore it with that one",
    c"the snapshot is cut short, too long or taken with other options: give its exact length",
    c"the snapshot is damaged: use an older one",
    c"refused by the engine: this header is older than the library",
];

/// One sentence about a status, what to do about it included.
///
/// Returns a string that is valid for ever, also for a number that is no status; never null.
#[unsafe(no_mangle)]
pub extern "C" fn bitttt_error_message(status: c_int) -> *const c_char {
    let known = usize::try_from(status).ok().and_then(|at| MESSAGES.get(at));
    known.copied().unwrap_or(c"not a bitttt_status").as_ptr()
}

/// The status of a call that ends well or is refused.
pub(crate) fn status(call: impl FnOnce() -> Result<(), Status>) -> Status {
    call().err().unwrap_or(Status::Ok)
}

impl From<BlobError> for Status {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotABlob => Self::NotABlob,
            BlobError::Misaligned => Self::Misaligned,
            BlobError::Version { .. } => Self::BlobVersion,
            BlobError::Truncated | BlobError::Length { .. } => Self::BlobLength,
            BlobError::Checksum(_) => Self::BlobChecksum,
            BlobError::Section(_)
            | BlobError::Config(_)
            | BlobError::Layer { .. }
            | BlobError::Tensor { .. }
            | BlobError::ExtraTensors
            | BlobError::Tokenizer(_) => Self::BlobInvalid,
            _ => Self::Other,
        }
    }
}

impl From<SessionError> for Status {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Memory { .. } => Self::Memory,
            SessionError::Token { .. } => Self::Token,
            SessionError::EmptyPrompt => Self::Empty,
            SessionError::Context { .. } => Self::Context,
            _ => Self::Other,
        }
    }
}

impl From<SnapshotError> for Status {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Buffer { .. } => Self::Buffer,
            SnapshotError::NotASnapshot => Self::NotASnapshot,
            SnapshotError::Version(_) => Self::SnapshotVersion,
            SnapshotError::Model { .. } => Self::SnapshotModel,
            SnapshotError::Length => Self::SnapshotLength,
            SnapshotError::Checksum | SnapshotError::NotFinite | SnapshotError::Position(_) => {
                Self::SnapshotDamaged
            }
            _ => Self::Other,
        }
    }
}

impl From<EncodeError> for Status {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Buffer => Self::Buffer,
            _ => Self::Other,
        }
    }
}
