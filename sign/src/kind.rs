//! What can be signed.

use crate::SignError;
use bitttt_core::format::header;
use bitttt_core::format::read::{u32_at, u64_at};
use bitttt_core::snapshot;

/// What is signed. Signatures of one kind are none of the other, whoever made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A model, `*.bttt`.
    Blob = 1,
    /// What a session has learned, `*.state`.
    Snapshot = 2,
}

/// First bytes of a blob or snapshot that say what it is and where it ends.
pub const HEAD_BYTES: usize = 32;

const _: () = assert!(
    HEAD_BYTES == header::HEADER_BYTES && HEAD_BYTES == snapshot::HEADER_BYTES,
    "both headers are as long"
);

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Blob, Self::Snapshot];

    /// Name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Snapshot => "snapshot",
        }
    }

    /// What begins with these bytes, if it is either.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| bytes.starts_with(&kind.magic()))
    }

    /// Length of the payload that begins with `head`, at least [`HEAD_BYTES`] of it, as its header says.
    ///
    /// # Errors
    /// [`SignError::Payload`] or [`SignError::Length`].
    pub fn payload_bytes(self, head: &[u8]) -> Result<u64, SignError> {
        if head.len() >= 4 && !head.starts_with(&self.magic()) {
            return Err(SignError::Payload(self));
        }
        if head.len() < HEAD_BYTES {
            return Err(SignError::Length);
        }
        Ok(match self {
            Self::Blob => u64_at(head, header::field::FILE_BYTES),
            Self::Snapshot => {
                HEAD_BYTES as u64 + 4 * u64::from(u32_at(head, snapshot::field::WORDS))
            }
        })
    }

    const fn magic(self) -> [u8; 4] {
        match self {
            Self::Blob => header::MAGIC,
            Self::Snapshot => snapshot::MAGIC,
        }
    }

    /// What the signed message begins with, so that no signature serves for anything else.
    pub(crate) const fn context(self) -> &'static [u8; 32] {
        match self {
            Self::Blob => b"bitttt signature 1: blob\0\0\0\0\0\0\0\0",
            Self::Snapshot => b"bitttt signature 1: snapshot\0\0\0\0",
        }
    }
}
