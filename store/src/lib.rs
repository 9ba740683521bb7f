//! Keeps what a session has learned in NOR flash, so that it is there after the power was cut, at whatever moment.
//!
//! A [`Store`] has two slots of whole erase sectors and saves to one, then to the other. Invariant: from the first save on,
//! one of them holds a whole state; a record counts from the last write on, that of its header, which comes after the
//! snapshot has been written and read back. It streams: neither saving nor loading takes room for a snapshot, but
//! 256 bytes of stack.
//!
//! ```
//! use bitttt_core::{Batch, MemoryPlan, Model, Session};
//! use bitttt_store::Store;
//! # use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write};
//! # struct Flash([u8; Flash::BYTES]);
//! # impl Flash { const BYTES: usize = 128 * 1024; }
//! # impl ErrorType for Flash { type Error = NorFlashErrorKind; }
//! # impl ReadNorFlash for Flash {
//! #     const READ_SIZE: usize = 1;
//! #     fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
//! #         check_read(self, offset, bytes.len())?;
//! #         bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
//! #         Ok(())
//! #     }
//! #     fn capacity(&self) -> usize { Self::BYTES }
//! # }
//! # impl NorFlash for Flash {
//! #     const WRITE_SIZE: usize = 4;
//! #     const ERASE_SIZE: usize = 4096;
//! #     fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
//! #         check_erase(self, from, to)?;
//! #         self.0[from as usize..to as usize].fill(0xFF);
//! #         Ok(())
//! #     }
//! #     fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
//! #         check_write(self, offset, bytes.len())?;
//! #         self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
//! #         Ok(())
//! #     }
//! # }
//! # use bitttt_export::{AlignedCopy, random::{FULL_LAYER, blueprint, small_config}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let blob = AlignedCopy::of(&blueprint(&small_config(), &[FULL_LAYER; 2], bitttt_core::format::DType::T2, 1).to_bytes()?);
//! # let (blob, flash) = (blob.bytes(), Flash([0xFF; Flash::BYTES]));
//! let plan = MemoryPlan::of_blob(blob, Batch::ONE)?;
//! let slot = Store::<Flash>::slot_for(plan.snapshot_bytes()) as u32; // for a const of your memory map
//! let mut store = Store::new(flash, 0x1_0000..0x1_0000 + 2 * slot)?;
//!
//! # let mut memory = vec![0.0; plan.words()];
//! let mut session = Session::new(Model::from_bytes(blob)?, Batch::ONE, &mut memory)?;
//! if store.load(&mut session)?.is_none() {
//!     session.prefill(&[0, 1, 2])?; // nothing saved yet: a first document
//! }
//! session.step(3)?; // learns
//! store.save(&session)?;
//! # let hash = session.state_hash();
//! # session.reset();
//! # assert!(store.load(&mut session)?.is_some());
//! # assert_eq!(session.state_hash(), hash);
//! # Ok(())
//! # }
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod error;
mod flash;
mod record;

pub use error::StoreError;
pub use flash::BUFFER_BYTES;

use bitttt_core::{RestoreError, Session, SnapshotError};
use core::ops::Range;
use embedded_storage::nor_flash::NorFlash;
use flash::{Writer, round_up};
use record::{HEADER_BYTES, Header};

/// What was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    /// Number of the record; the next one has one more, wrapping.
    pub sequence: u32,
    /// Bytes written, after as many whole sectors as a slot has were erased.
    pub bytes: usize,
}

/// What was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// Number of the record.
    pub sequence: u32,
    /// Whether there is a newer record, with a whole header and a damaged snapshot, so that this is the state before it.
    pub newer_damaged: bool,
}

/// Two slots in a flash.
///
/// It remembers nothing of the flash's content: each call looks anew, so that one which failed leaves nothing to clean up.
#[derive(Clone, Debug)]
pub struct Store<F> {
    flash: F,
    start: u32,
    slot: u32,
}

/// One slot's address, and the header if there is a whole one.
type Found<E> = (u32, Result<Option<Header>, E>);

impl<F: NorFlash> Store<F> {
    /// Where the snapshot begins in a slot.
    const BODY: usize = round_up(HEADER_BYTES, F::WRITE_SIZE);

    /// Bytes of a slot for a snapshot of this size, [`bitttt_core::MemoryPlan::snapshot_bytes`]: whole erase sectors. The
    /// store takes a range of twice that.
    pub const fn slot_for(snapshot_bytes: usize) -> usize {
        let body = round_up(snapshot_bytes, F::WRITE_SIZE);
        round_up(Self::BODY.saturating_add(body), F::ERASE_SIZE)
    }

    /// A store in this range of addresses, half of which is one slot; an odd sector at its end stays unused. Reads and
    /// writes nothing.
    ///
    /// # Errors
    /// [`StoreError::Sizes`] or [`StoreError::Range`].
    pub fn new(flash: F, range: Range<u32>) -> Result<Self, StoreError<F::Error>> {
        let (read, write, erase) = (F::READ_SIZE, F::WRITE_SIZE, F::ERASE_SIZE);
        let fits = |word| (1..=BUFFER_BYTES).contains(&word) && erase.is_multiple_of(word);
        if erase == 0 || !fits(read) || !fits(write) {
            return Err(StoreError::Sizes { read, write, erase });
        }
        let (start, end) = (range.start as usize, range.end as usize);
        let sectors = end.saturating_sub(start) / erase;
        let aligned = start.is_multiple_of(erase) && end.is_multiple_of(erase);
        if !aligned || sectors < 2 || end > flash.capacity() {
            return Err(StoreError::Range {
                sector: erase,
                capacity: flash.capacity(),
            });
        }
        Ok(Self {
            flash,
            start: range.start,
            slot: (sectors / 2 * erase) as u32,
        })
    }

    /// The flash.
    pub fn release(self) -> F {
        self.flash
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.slot as usize
    }

    /// Saves what the session has learned, over the older state.
    ///
    /// Erases one slot and writes it once, word by word. Until the last word is written, [`Store::load`] gives the state
    /// saved before.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`], [`StoreError::Flash`] or [`StoreError::Verify`].
    pub fn save(&mut self, session: &Session<'_, '_>) -> Result<Saved, StoreError<F::Error>> {
        let (head, state) = session.snapshot_parts();
        let length = head.len().saturating_add(state.len());
        let (needed, given) = (Self::slot_for(length), self.slot_bytes());
        if needed > given {
            return Err(StoreError::TooSmall { needed, given });
        }
        let (slot, sequence) = self.next();
        let crc = self.write_body(slot, [&head, state])?;
        if self.crc(slot, length)? != crc {
            return Err(StoreError::Verify);
        }
        let length = length as u32; // no longer than a slot
        let header = Header {
            sequence,
            length,
            crc,
        };
        self.write_header(slot, header)?;
        Ok(Saved {
            sequence,
            bytes: Self::BODY + round_up(length as usize, F::WRITE_SIZE),
        })
    }

    /// Loads the newest whole state; `None` where none was saved, which leaves the session as it was.
    ///
    /// Reads each record that it considers once to check it, then the snapshot once to check that it fits the session, and
    /// once more to take it up.
    ///
    /// # Errors
    /// [`StoreError::Flash`] or [`StoreError::Damaged`] where there is something saved and no whole state,
    /// [`StoreError::OtherModel`], [`StoreError::Snapshot`]: the session is left as it was.
    /// [`StoreError::Unsteady`]: the session has been reset. One can always go on without the state, and save.
    pub fn load(
        &mut self,
        session: &mut Session<'_, '_>,
    ) -> Result<Option<Loaded>, StoreError<F::Error>> {
        let mut trouble = Ok(None);
        for (slot, header) in self.newest_first() {
            let loaded = match header {
                Ok(Some(header)) => self.load_record(slot, &header, session),
                Ok(None) => continue,
                Err(error) => Err(StoreError::Flash(error)),
            };
            match loaded {
                Ok(sequence) => {
                    return Ok(Some(Loaded {
                        sequence,
                        newer_damaged: trouble.is_err(),
                    }));
                }
                Err(error @ (StoreError::Damaged | StoreError::Flash(_))) => trouble = Err(error),
                Err(error) => return Err(error),
            }
        }
        trouble
    }

    /// Forgets what was saved. Where the power is cut meanwhile, the newest state may still be there, or be damaged.
    ///
    /// # Errors
    /// [`StoreError::Flash`].
    pub fn erase(&mut self) -> Result<(), StoreError<F::Error>> {
        let [(newest, _), (older, _)] = self.newest_first();
        self.erase_slot(older)?; // first, lest it be the one that is left
        self.erase_slot(newest)
    }

    /// The slot to save to, and the number of the record.
    fn next(&mut self) -> (u32, u32) {
        let [(newest, header), (older, other)] = self.newest_first();
        let Ok(Some(header)) = header else {
            return (older, 1);
        };
        // Of two records the newer one is kept, unless it is damaged.
        let keep =
            !matches!(other, Ok(Some(_))) || matches!(self.is_whole(newest, &header), Ok(true));
        let slot = if keep { older } else { newest };
        (slot, header.sequence.wrapping_add(1))
    }

    /// Both slots: a record before none, a newer one before an older.
    fn newest_first(&mut self) -> [Found<F::Error>; 2] {
        let [first, second] =
            [self.start, self.start + self.slot].map(|slot| (slot, self.read_header(slot)));
        let swap = match (&first.1, &second.1) {
            (Ok(Some(first)), Ok(Some(second))) => second.is_newer_than(first),
            (_, second) => matches!(second, Ok(Some(_))),
        };
        if swap {
            [second, first]
        } else {
            [first, second]
        }
    }

    fn read_header(&mut self, slot: u32) -> Result<Option<Header>, F::Error> {
        let mut bytes = [0; HEADER_BYTES];
        flash::read(&mut self.flash, slot, &mut bytes)?;
        let fits = |header: &Header| Self::slot_for(header.length as usize) <= self.slot_bytes();
        Ok(Header::parse(&bytes).filter(fits))
    }

    /// Whether the snapshot of a record is what was written.
    fn is_whole(&mut self, slot: u32, header: &Header) -> Result<bool, StoreError<F::Error>> {
        Ok(self.crc(slot, header.length as usize)? == header.crc)
    }

    fn crc(&mut self, slot: u32, length: usize) -> Result<u32, StoreError<F::Error>> {
        flash::crc(&mut self.flash, slot + Self::BODY as u32, length).map_err(StoreError::Flash)
    }

    fn load_record(
        &mut self,
        slot: u32,
        header: &Header,
        session: &mut Session<'_, '_>,
    ) -> Result<u32, StoreError<F::Error>> {
        if !self.is_whole(slot, header)? {
            return Err(StoreError::Damaged);
        }
        let body = slot + Self::BODY as u32;
        let read =
            |at: usize, piece: &mut [u8]| flash::read(&mut self.flash, body + at as u32, piece);
        match session.restore_with(header.length as usize, read) {
            Ok(()) => Ok(header.sequence),
            Err(error) => Err(refused(error)),
        }
    }

    fn erase_slot(&mut self, slot: u32) -> Result<(), StoreError<F::Error>> {
        let erased = self.flash.erase(slot, slot + self.slot);
        erased.map_err(StoreError::Flash)
    }

    /// Erases the slot and writes the snapshot's parts; their CRC-32.
    fn write_body(&mut self, slot: u32, parts: [&[u8]; 2]) -> Result<u32, StoreError<F::Error>> {
        self.erase_slot(slot)?;
        let mut writer = Writer::new(&mut self.flash, slot + Self::BODY as u32);
        let mut digest = bitttt_core::Crc32::new();
        for part in parts {
            digest.update(part);
            writer.put(part).map_err(StoreError::Flash)?;
        }
        writer.flush().map_err(StoreError::Flash)?;
        Ok(digest.finalize())
    }

    fn write_header(&mut self, slot: u32, header: Header) -> Result<(), StoreError<F::Error>> {
        let mut writer = Writer::new(&mut self.flash, slot);
        let written = writer.put(&header.to_bytes());
        written
            .and_then(|()| writer.flush())
            .map_err(StoreError::Flash)?;
        match self.read_header(slot) {
            Ok(Some(found)) if found == header => Ok(()),
            Ok(_) => Err(StoreError::Verify),
            Err(error) => Err(StoreError::Flash(error)),
        }
    }
}

/// Why a session did not take up a record that is what was written.
fn refused<E>(error: RestoreError<E>) -> StoreError<E> {
    match error {
        RestoreError::Read(error) => StoreError::Flash(error),
        RestoreError::Snapshot(SnapshotError::Model { snapshot, model }) => {
            StoreError::OtherModel {
                saved: snapshot,
                model,
            }
        }
        // An older state may be better.
        RestoreError::Snapshot(SnapshotError::NotFinite | SnapshotError::Position(_)) => {
            StoreError::Damaged
        }
        RestoreError::Snapshot(error) => StoreError::Snapshot(error),
        _ => StoreError::Unsteady,
    }
}
