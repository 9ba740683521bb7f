//! Any bytes as a blob, checksums mended so that what lies behind them is reached.

use crate::models::{bits, memory};
use bitttt_core::format::header::{HEADER_BYTES, MAGIC, SECTION_BYTES, field, section_field};
use bitttt_core::{Backend, Batch, Model, Session, crc32};
use bitttt_export::AlignedCopy;

/// Tokens that a model reads if it is one.
const TOKENS: u32 = 6;

/// Reads the bytes as a blob, as they are and mended; what loads runs.
pub fn run(data: &[u8]) {
    let _ = Model::from_bytes(AlignedCopy::of(data).bytes()).map(|model| model.verify());
    let blob = AlignedCopy::of(&mended(data));
    let Ok(model) = Model::from_bytes(blob.bytes()) else {
        return;
    };
    let _ = (model.verify(), model.metadata(), model.tensors().count());
    let _ = bitttt_core::MemoryPlan::of_blob(blob.bytes(), Batch::new(3)).map(|plan| plan.bytes());
    let vocab = model.config().vocab_size;
    let tokens: Vec<u32> = (0..TOKENS).map(|t| t.wrapping_mul(7919) % vocab).collect();
    if let Some(tokenizer) = model.tokenizer() {
        crate::tokenizer::use_it(&tokenizer, b"Ada met Ben.\xFF\xE6");
    }
    let by_steps = logits(model, Batch::ONE, Backend::SCALAR, &tokens);
    let at_once = logits(model, Batch::new(4), Backend::detect(), &tokens);
    if let (Some(a), Some(b)) = (by_steps, at_once) {
        assert_eq!(
            a,
            b,
            "steps on scalar and prefill on {}",
            Backend::detect().name()
        );
    }
}

fn logits(
    model: Model<'_>,
    batch: Batch,
    backend: Backend,
    tokens: &[u32],
) -> Option<Vec<Vec<u32>>> {
    let mut memory = memory(&model, batch)?;
    let mut session = Session::with_backend(model, batch, &mut memory, backend).ok()?;
    let mut all = Vec::new();
    let read = session.prefill_with(tokens, &mut |_, logits| all.push(bits(logits)));
    read.ok()?;
    Some(all)
}

/// The bytes with magic, length and checksums as they should be.
pub fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.len() < HEADER_BYTES {
        return bytes;
    }
    let length = bytes.len() as u64;
    bytes[field::MAGIC..][..4].copy_from_slice(&MAGIC);
    bytes[field::MAJOR..][..2].copy_from_slice(&bitttt_core::format::MAJOR.to_le_bytes());
    bytes[field::FILE_BYTES..][..8].copy_from_slice(&length.to_le_bytes());
    let count = u32::from_le_bytes(
        bytes[field::SECTION_COUNT..][..4]
            .try_into()
            .expect("four bytes"),
    );
    let entries = (0..count.min(16) as usize).map(|i| HEADER_BYTES + i * SECTION_BYTES);
    let mut front = HEADER_BYTES;
    for entry in entries.take_while(|entry| entry + SECTION_BYTES <= length as usize) {
        let number = |at: usize| {
            u64::from_le_bytes(bytes[entry + at..][..8].try_into().expect("eight bytes"))
        };
        let (offset, len) = (number(section_field::OFFSET), number(section_field::BYTES));
        let section = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        let section = section.and_then(|(offset, len)| bytes.get(offset..offset.checked_add(len)?));
        if let Some(crc) = section.map(crc32) {
            bytes[entry + section_field::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
        }
        front = entry + SECTION_BYTES;
    }
    bytes[field::CRC..][..4].fill(0);
    let crc = crc32(&bytes[..front]);
    bytes[field::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}
