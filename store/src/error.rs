//! What can go wrong, and the way out of it.

use crate::BUFFER_BYTES;
use bitttt_core::SnapshotError;
use core::fmt;

/// Why a store could not be made, or could not save, load or erase. `E` is the flash driver's own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError<E> {
    /// The driver reported an error. After [`Store::save`](crate::Store::save) the state saved before is still there, or
    /// already the new one.
    Flash(E),
    /// The range is not whole erase sectors within the flash, at least two of them.
    Range {
        /// Bytes of an erase sector.
        sector: usize,
        /// Bytes of the flash.
        capacity: usize,
    },
    /// The flash reads or writes more at once than the store can buffer, or erases what is no multiple of either.
    Sizes {
        /// `READ_SIZE` of the flash.
        read: usize,
        /// `WRITE_SIZE` of the flash.
        write: usize,
        /// `ERASE_SIZE` of the flash.
        erase: usize,
    },
    /// A slot does not hold the session's snapshot. The flash is left as it was.
    TooSmall {
        /// Bytes of a slot that would hold it: [`Store::slot_for`](crate::Store::slot_for).
        needed: usize,
        /// Bytes of a slot.
        given: usize,
    },
    /// The flash does not hold what was written. The state saved before is still there.
    Verify,
    /// There is a saved state, but it is damaged and there is no other. The session is left as it was.
    Damaged,
    /// The newest state is that of another model. Session and flash are left as they were.
    OtherModel {
        /// Fingerprint of the model that it was saved with.
        saved: u32,
        /// Fingerprint of the session's model.
        model: u32,
    },
    /// The newest state does not fit the session for another reason. Session and flash are left as they were.
    Snapshot(SnapshotError),
    /// The flash gave the state once, but failed or gave other bytes when read again. The session has been
    /// [reset](bitttt_core::Session::reset).
    Unsteady,
}

impl<E: fmt::Debug> fmt::Display for StoreError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flash(error) => write!(f, "flash driver reports {error:?}: try again"),
            Self::Range { sector, capacity } => write!(
                f,
                "range of the store does not fit the flash: give at least two whole sectors of {sector} bytes within its {capacity} bytes"
            ),
            Self::Sizes { read, write, erase } => write!(
                f,
                "flash reads {read}, writes {write} and erases {erase} bytes at once: use a driver that reads and writes at most {BUFFER_BYTES} and erases a multiple of both"
            ),
            Self::TooSmall { needed, given } => write!(
                f,
                "snapshot needs slots of {needed} bytes, these have {given}: give the store a range of {} bytes",
                needed.saturating_mul(2)
            ),
            Self::Verify => f.write_str(
                "flash does not hold what was written to it: save again, or give the store other sectors if these are worn out",
            ),
            Self::Damaged => f.write_str(
                "saved state is damaged and there is no other: go on without it and save again, or erase the store",
            ),
            Self::OtherModel { saved, model } => write!(
                f,
                "saved state belongs to model {saved:08x}, this model is {model:08x}: load it with that model, or erase the store"
            ),
            Self::Snapshot(error) => error.fmt(f),
            Self::Unsteady => f.write_str(
                "flash gave other bytes when it was read again, and the session was reset: load again",
            ),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for StoreError<E> {}
