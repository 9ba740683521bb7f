//! What is asked about a blob before there is a session.

use crate::support::*;
use bitttt_c::blob::*;
use bitttt_c::pointer::BITTTT_SESSION_BYTES;
use bitttt_c::status::Status;
use bitttt_core::format::header::field;
use bitttt_core::{Batch, Model, crc32};
use bitttt_export::AlignedCopy;
use std::ptr::null;

fn verify(bytes: &[u8]) -> Status {
    let blob = AlignedCopy::of(bytes);
    // SAFETY: as C must.
    unsafe { bitttt_verify(blob.bytes().as_ptr(), blob.bytes().len()) }
}

/// The blob with a changed header, whose checksum is right again.
fn with_header(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let sections = u32::from_le_bytes(bytes[field::SECTION_COUNT..][..4].try_into().unwrap());
    let mut header = bytes[..32 + 24 * sections as usize].to_vec();
    header[field::CRC..][..4].fill(0);
    bytes[field::CRC..][..4].copy_from_slice(&crc32(&header).to_le_bytes());
    bytes
}

#[test]
fn each_fault_of_a_blob_has_its_name() {
    let blob = learner(1);
    let good = blob.bytes();
    assert_eq!(verify(good), Status::Ok);
    assert_eq!(verify(b"BTTT"), Status::BlobLength);
    assert_eq!(verify(&good[..good.len() - 1]), Status::BlobLength);
    assert_eq!(verify(b"BTTX and so on"), Status::NotABlob);
    let newer = with_header(good, |bytes| bytes[field::MAJOR] = 9);
    assert_eq!(verify(&newer), Status::BlobVersion);
    let crowded = with_header(good, |bytes| bytes[field::SECTION_COUNT] -= 1);
    assert_eq!(verify(&crowded), Status::BlobInvalid);
    let mut damaged = good.to_vec();
    damaged[good.len() / 2] ^= 1;
    assert_eq!(verify(&damaged), Status::BlobChecksum);
}

#[test]
fn a_blob_at_an_odd_address_is_misaligned() {
    let bytes = AlignedCopy::of(&[&[0], learner(1).bytes()].concat());
    let shifted = &bytes.bytes()[1..];
    // SAFETY: as C must.
    let status = unsafe { bitttt_verify(shifted.as_ptr(), shifted.len()) };
    assert_eq!(status, Status::Misaligned);
}

#[test]
fn the_plan_adds_up_and_equals_the_engines() {
    let blob = learner(1);
    let bytes = blob.bytes();
    let mut plan = std::mem::MaybeUninit::<Plan>::uninit();
    // SAFETY: as C must; the call writes the plan.
    let plan = unsafe {
        let status = bitttt_plan(bytes.as_ptr(), bytes.len(), null(), plan.as_mut_ptr());
        assert_eq!(status, Status::Ok);
        plan.assume_init()
    };
    let parts = plan.session + plan.state + plan.rope + plan.angles + plan.residual + plan.hidden;
    let sum = parts + plan.quantised + plan.tables + plan.head + plan.logits;
    let engine = Model::from_bytes(bytes).unwrap().memory(Batch::ONE);
    assert_eq!(plan.memory, sum);
    assert_eq!(plan.memory, engine.bytes() + BITTTT_SESSION_BYTES);
    assert_eq!(plan.snapshot, engine.snapshot_bytes());
    assert_eq!(memory_size(&blob, null()), Ok(plan.memory));
}

#[test]
fn options_make_room_for_batch_and_context() {
    let attention = blob(&tiny(), ATTENTION, 1);
    let size = |batch, context| memory_size(&attention, &Options { batch, context }).unwrap();
    let least = memory_size(&attention, null()).unwrap();
    assert_eq!(size(0, 0), least);
    assert_eq!(size(1, tiny().context as usize), least);
    assert!(size(16, 0) > least && size(1, 256) > least && size(1, 8) < least);
    assert_eq!(size(usize::MAX, usize::MAX), usize::MAX);
}

#[test]
fn the_config_is_the_models() {
    let blob = learner(1);
    let bytes = blob.bytes();
    let mut config = std::mem::MaybeUninit::<ModelConfig>::uninit();
    // SAFETY: as C must; the call writes the config.
    let config = unsafe {
        let status = bitttt_config(bytes.as_ptr(), bytes.len(), config.as_mut_ptr());
        assert_eq!(status, Status::Ok);
        config.assume_init()
    };
    let expected = ModelConfig {
        vocab_size: 257,
        document_token: 0,
        width: 12,
        layers: 1,
        heads: 3,
        mini_batch: 8,
        context: 128,
        tokenizer_tokens: 257,
        fingerprint: Model::from_bytes(bytes).unwrap().fingerprint(),
    };
    assert_eq!(config, expected);
}
