//! Blobs that were damaged, cut, spliced or written by somebody else: refused by name, never a panic.

use bitttt_core::format::config::field as config_field;
use bitttt_core::format::header::{HEADER_BYTES, field};
use bitttt_core::format::layer::{
    LAYER_DECAY, LAYER_GATE, LAYER_IDENTITY, LAYER_KV_F32, layer_field,
};
use bitttt_core::format::{Config, DType, LayerConfig, MINOR, Mixer};
use bitttt_core::{Batch, BlobError, Model, Session, SessionError};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use proptest::prelude::*;
use std::sync::LazyLock;

/// A layer of each kind.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mlp = LayerConfig::of(Mixer::TttMlp);
    blueprint(
        &small_config(),
        &[FULL_LAYER, mlp, LITE, ATTENTION],
        DType::T2,
        4,
    )
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
    let tokens = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|t| t % model.config().vocab_size);
    match session.prefill(&tokens) {
        Ok(_) => assert_eq!(session.position(), 10),
        Err(refused) => assert!(matches!(refused, SessionError::Context { .. }), "{refused}"),
    }
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
        let structural = u64_at(&GOOD, HEADER_BYTES + 2 * 24 + 8) as usize; // up to the tensors
        for (at, value) in edits {
            bytes[at.index(structural)] = value;
        }
        mend_checksums(&mut bytes);
        let _ = open(&bytes);
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Recomputes what checksums it can find, as an attacker would.
fn mend_checksums(bytes: &mut [u8]) {
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
    assert_eq!(
        refused,
        BlobError::Version {
            major: 2,
            minor: MINOR
        }
    );
    assert!(refused.to_string().contains(&format!("2.{MINOR}")));
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

/// The config section: behind a header of 32 bytes and five section entries of 24.
const CONFIG: usize = 192;

/// What is said of a one-layer model whose bytes are changed from `at` on.
fn refused(layer: LayerConfig, at: usize, value: &[u8]) -> BlobError {
    let mut bytes = blueprint(&small_config(), &[layer], DType::T2, 4)
        .to_bytes()
        .unwrap();
    bytes[at..at + value.len()].copy_from_slice(value);
    mend_checksums(&mut bytes);
    open(&bytes).unwrap_err()
}

const ATTENTION: LayerConfig = LayerConfig {
    kv_heads: 1,
    ..LayerConfig::of(Mixer::Attention)
};
const LITE: LayerConfig = LayerConfig::of(Mixer::TttLite);

#[test]
fn an_impossible_config_field_is_named() {
    let five = 5u16.to_le_bytes(); // 48 is no multiple of 5
    let found = refused(FULL_LAYER, CONFIG + config_field::N_HEADS, &five);
    assert_eq!(found, BlobError::Config("n_heads"));
}

#[test]
fn an_impossible_field_of_a_layer_is_named() {
    let record = CONFIG + 64;
    let (mixer, flags) = (record + layer_field::MIXER, record + layer_field::FLAGS);
    let (kv_heads, window) = (record + layer_field::KV_HEADS, record + layer_field::WINDOW);
    let context = CONFIG + config_field::CONTEXT;
    for (layer, at, value, word) in [
        (FULL_LAYER, mixer, [0u8].as_slice(), "mixer"),
        (FULL_LAYER, mixer, &[5], "mixer"),
        (FULL_LAYER, flags, &[LAYER_KV_F32 as u8], "flags"),
        (ATTENTION, flags, &[LAYER_IDENTITY as u8], "flags"),
        (ATTENTION, flags, &[LAYER_DECAY as u8], "flags"),
        (LITE, flags, &[LAYER_GATE as u8], "flags"),
        (ATTENTION, kv_heads, &[0, 0], "kv_heads"),
        (ATTENTION, kv_heads, &[2, 0], "kv_heads"), // does not divide 3
        (ATTENTION, kv_heads, &[6, 0], "kv_heads"),
        (FULL_LAYER, kv_heads, &[1, 0], "kv_heads"),
        (LITE, window, &[1, 0, 0, 0], "window"),
        (ATTENTION, context, &[0; 4], "context"),
        (
            FULL_LAYER,
            record + layer_field::FIRST_TENSOR,
            &[4],
            "first_tensor",
        ),
    ] {
        let found = refused(layer, at, value);
        assert!(
            matches!(found, BlobError::Layer { layer: 0, .. }) && found.to_string().contains(word),
            "{word}: {found}"
        );
    }
}

#[test]
fn ttt_lite_refuses_a_width_that_has_no_quarter() {
    let config = Config {
        d_model: 54,
        ..small_config()
    };
    let refused = blueprint(&config, &[LITE], DType::T2, 4).to_bytes();
    assert!(refused.unwrap_err().to_string().contains("multiple of 4"));
}

#[test]
fn a_tensor_of_another_mixers_shape_is_named() {
    let heads = CONFIG + 64 + layer_field::KV_HEADS;
    let found = refused(ATTENTION, heads, &[3, 0]);
    assert!(
        found.to_string().contains("mixer.k") && found.to_string().contains("shape"),
        "{found}"
    );
}

#[test]
fn a_blob_of_version_1_0_loads() {
    let blob = AlignedCopy::of(include_bytes!("../../demo/demo.bttt"));
    let model = Model::from_bytes(blob.bytes()).unwrap();
    assert_eq!(model.layout().version(), (1, 0));
    model.verify().unwrap();
    run(&model);
}
