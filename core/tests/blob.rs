//! Blobs that were damaged, cut, spliced or written by somebody else: refused by name, never a panic.

use bitttt_core::format::DType;
use bitttt_core::format::header::{HEADER_BYTES, field};
use bitttt_core::{Batch, BlobError, Model, Session};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use proptest::prelude::*;
use std::sync::LazyLock;

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    blueprint(&small_config(), FULL_LAYER, DType::T2, 4)
        .to_bytes()
        .unwrap()
});

fn open(bytes: &[u8]) -> Result<(), BlobError> {
    let blob = AlignedCopy::of(bytes);
    let model = Model::from_bytes(blob.bytes())?;
    run(&model);
    model.verify()
}

/// Whatever the structure check lets through must run without a panic.
fn run(model: &Model<'_>) {
    let plan = model.memory(Batch::new(3));
    if plan.words() > 1 << 24 {
        return;
    }
    let mut memory = vec![0.0; plan.words()];
    let mut session = Session::new(*model, Batch::new(3), &mut memory).unwrap();
    session
        .prefill(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|t| t % model.config().vocab_size))
        .unwrap();
    if let Some(tokenizer) = model.tokenizer() {
        let mut ids = [0; 64];
        let _ = tokenizer.encode("any text, 12 bytes".as_bytes(), &mut ids);
        assert!((0..300).all(|id| tokenizer.decode(id).len() < 1 << 20));
    }
}

#[test]
fn a_good_blob_passes() {
    assert_eq!(open(&GOOD), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_flipped_bit_anywhere_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = GOOD.clone();
        bytes[at.index(GOOD.len())] ^= 1 << bit;
        // minor version bits are free to change only together with the header's checksum
        prop_assert!(open(&bytes).is_err());
    }

    #[test]
    fn a_blob_cut_anywhere_is_refused(at in any::<prop::sample::Index>()) {
        prop_assert!(open(&GOOD[..at.index(GOOD.len())]).is_err());
    }

    #[test]
    fn bytes_behind_the_end_are_refused(extra in 1usize..200) {
        let bytes = [GOOD.as_slice(), &vec![0; extra]].concat();
        let refused = BlobError::Length { header: GOOD.len() as u64, given: bytes.len() as u64 };
        prop_assert_eq!(open(&bytes), Err(refused));
    }

    #[test]
    fn spliced_pieces_are_refused(from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), len in 1usize..500) {
        let (from, to) = (from.index(GOOD.len()), to.index(GOOD.len()));
        let mut bytes = GOOD.clone();
        let len = len.min(GOOD.len() - from.max(to));
        bytes.copy_within(from..from + len, to);
        prop_assert!(bytes == *GOOD || open(&bytes).is_err());
    }

    #[test]
    fn hostile_structure_with_right_checksums_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut bytes = GOOD.clone();
        let structural = 192 + 64 + 32 + 45 * 24; // header, section table, config, tensor table
        for (at, value) in edits {
            bytes[at.index(structural)] = value;
        }
        mend_checksums(&mut bytes);
        let _ = open(&bytes);
    }
}

/// Recomputes what checksums it can find, as an attacker would.
fn mend_checksums(bytes: &mut [u8]) {
    let u64_at =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let count = u32::from_le_bytes(bytes[field::SECTION_COUNT..][..4].try_into().unwrap()) as usize;
    let entries = || (0..count.min(16)).map(|i| HEADER_BYTES + i * 24);
    for entry in entries() {
        let (from, len) = (
            u64_at(bytes, entry + 8) as usize,
            u64_at(bytes, entry + 16) as usize,
        );
        if let Some(data) = from.checked_add(len).and_then(|end| bytes.get(from..end)) {
            let crc = bitttt_core::crc32(data).to_le_bytes();
            bytes[entry + 4..entry + 8].copy_from_slice(&crc);
        }
    }
    bytes[field::CRC..][..4].fill(0);
    let end = HEADER_BYTES + count.min(16) * 24;
    let crc = bitttt_core::crc32(&bytes[..end]).to_le_bytes();
    bytes[field::CRC..][..4].copy_from_slice(&crc);
}

/// The good blob with bytes of its header replaced and the checksum mended.
fn with_header(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = GOOD.clone();
    bytes[at..at + value.len()].copy_from_slice(value);
    mend_checksums(&mut bytes);
    bytes
}

#[test]
fn a_newer_minor_version_loads_and_a_newer_major_is_refused_by_name() {
    assert_eq!(open(&with_header(field::MINOR, &[9, 0])), Ok(()));
    let refused = open(&with_header(field::MAJOR, &[2, 0])).unwrap_err();
    assert_eq!(refused, BlobError::Version { major: 2, minor: 0 });
    assert!(refused.to_string().contains("2.0"));
}

#[test]
fn a_foreign_file_is_called_foreign() {
    assert_eq!(open(b"GGUF\x03\0\0\0 and so on"), Err(BlobError::NotABlob));
    assert_eq!(open(b"BT"), Err(BlobError::Truncated));
    assert_eq!(open(b""), Err(BlobError::Truncated));
}

#[test]
fn a_misaligned_blob_is_refused() {
    let copy = AlignedCopy::of(&[[0].as_slice(), &GOOD].concat());
    assert_eq!(
        Model::from_bytes(&copy.bytes()[1..]).unwrap_err(),
        BlobError::Misaligned
    );
}

#[test]
fn an_impossible_config_field_is_named() {
    let config = 192; // behind a header of 32 bytes and five section entries of 24
    let mut bytes = GOOD.clone();
    bytes[config + 34..config + 36].copy_from_slice(&5u16.to_le_bytes()); // 48 is no multiple of 5
    mend_checksums(&mut bytes);
    assert_eq!(open(&bytes), Err(BlobError::Config("n_heads")));
}
