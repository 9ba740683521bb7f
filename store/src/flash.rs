//! Any bytes from and to a flash that reads and writes whole words only. No word is written twice.

use bitttt_core::Crc32;
use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};

/// The largest `READ_SIZE` and `WRITE_SIZE` that fit.
pub const BUFFER_BYTES: usize = 256;

/// The next multiple of a word or sector.
pub(crate) const fn round_up(bytes: usize, unit: usize) -> usize {
    match bytes.checked_next_multiple_of(unit) {
        Some(rounded) => rounded,
        None => usize::MAX, // fits nowhere
    }
}

/// As much of the buffer as is a multiple of `unit`.
const fn whole(unit: usize) -> usize {
    BUFFER_BYTES - BUFFER_BYTES % if unit == 0 { 1 } else { unit }
}

/// Fills `to` from address `at` on, by way of a buffer where the flash would not read just that.
pub(crate) fn read<F: ReadNorFlash>(flash: &mut F, at: u32, to: &mut [u8]) -> Result<(), F::Error> {
    let word = F::READ_SIZE.max(1);
    if (at as usize).is_multiple_of(word) && to.len().is_multiple_of(word) {
        return flash.read(at, to);
    }
    let mut buffer = [0; BUFFER_BYTES];
    let (mut at, mut to) = (at, to);
    while !to.is_empty() {
        let skip = at as usize % word;
        let count = to.len().min(whole(word).saturating_sub(skip).max(1));
        let span = round_up(skip + count, word);
        let words = buffer.get_mut(..span).unwrap_or_default();
        flash.read(at - skip as u32, words)?;
        let (now, later) = to.split_at_mut_checked(count).unwrap_or_default();
        now.iter_mut()
            .zip(words.iter().skip(skip))
            .for_each(|(to, &from)| *to = from);
        at += count as u32;
        to = later;
    }
    Ok(())
}

/// CRC-32 of `length` bytes from a word's address on.
pub(crate) fn crc<F: ReadNorFlash>(flash: &mut F, at: u32, length: usize) -> Result<u32, F::Error> {
    let mut digest = Crc32::new();
    let mut buffer = [0; BUFFER_BYTES];
    let step = whole(F::READ_SIZE);
    for done in (0..length).step_by(step.max(1)) {
        let piece = buffer
            .get_mut(..step.min(length - done))
            .unwrap_or_default();
        read(flash, at + done as u32, piece)?;
        digest.update(piece);
    }
    Ok(digest.finalize())
}

/// Writes bytes one behind the other, in whole words.
pub(crate) struct Writer<'f, F> {
    flash: &'f mut F,
    at: u32,
    buffer: [u8; BUFFER_BYTES],
    filled: usize,
}

impl<'f, F: NorFlash> Writer<'f, F> {
    /// From address `at` of a word on, where the flash has been erased.
    pub fn new(flash: &'f mut F, at: u32) -> Self {
        Self {
            flash,
            at,
            buffer: [0xFF; BUFFER_BYTES],
            filled: 0,
        }
    }

    /// The next bytes; some of them may wait for the rest of their word.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), F::Error> {
        for &byte in bytes {
            if let Some(to) = self.buffer.get_mut(self.filled) {
                *to = byte;
            }
            self.filled += 1;
            if self.filled >= whole(F::WRITE_SIZE) {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// What waits, with as much as an erased flash holds to fill its word.
    pub fn flush(&mut self) -> Result<(), F::Error> {
        let length = round_up(self.filled, F::WRITE_SIZE);
        if let Some(words) = self.buffer.get(..length)
            && !words.is_empty()
        {
            self.flash.write(self.at, words)?;
        }
        self.at += length as u32;
        self.filled = 0;
        self.buffer = [0xFF; BUFFER_BYTES];
        Ok(())
    }
}
