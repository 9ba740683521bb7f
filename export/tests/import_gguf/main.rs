//! GGUF files: imported models compute what a double-precision run of the same weights does, and bad files are refused
//! in one line.
//!
//! Where activations are rounded to 8 bits, the tokens of the fixtures are such that no rounding is within 4e-4 of a tie,
//! so that the codes are the same and logits differ by f32's rounding alone, as without rounding. Keys and values are
//! kept as f32 in these tests: f16 has its own error, which another test bounds.

mod bad;
mod made;

use bad::refused;
use bitttt_core::format::{Activation, DType};
use bitttt_core::{Batch, Model, Session};
use bitttt_export::AlignedCopy;
use bitttt_export::import::{
    Activations, Embedding, I2sLayout, ImportError, KvCache, Matrices, Metadata, Options, gguf,
};
use made::{Made, floats};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// What logits of f32 may differ by from those of double precision; they go up to 150, and differ by up to 4.6e-5.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    activations: String,
    tokens: Vec<u32>,
    /// The most likely token behind each.
    top: Vec<usize>,
    /// Of the first positions.
    logits: Vec<Vec<f32>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/import/gguf")
}

fn expected(name: &str) -> Expected {
    let text = fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn options() -> Options {
    Options {
        kv: Some(KvCache::F32),
        needs_tokenizer: false,
        ..Options::default()
    }
}

fn import(path: &Path, options: &Options) -> Result<AlignedCopy, ImportError> {
    let out = tempfile::tempdir().unwrap();
    let blob = out.path().join("x.bttt");
    let foreign = gguf::open(path, options)?;
    foreign.save::<_, ImportError>(&blob, options, |_| (), |_| Ok(()))?;
    let copy = AlignedCopy::of(&fs::read(&blob).unwrap());
    Model::from_bytes(copy.bytes()).unwrap().verify().unwrap();
    Ok(copy)
}

fn fixture(name: &str, options: &Options) -> AlignedCopy {
    import(&folder().join(format!("{name}.gguf")), options).unwrap()
}

/// Logits behind every token, one step after the other.
fn run(blob: &AlignedCopy, tokens: &[u32], mut each: impl FnMut(usize, &[f32])) {
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    for (position, &token) in tokens.iter().enumerate() {
        each(position, session.step(token).unwrap());
    }
}

fn largest(logits: &[f32]) -> usize {
    let order = |a: &usize, b: &usize| logits[*a].total_cmp(&logits[*b]);
    (0..logits.len()).max_by(order).unwrap()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

fn conforms(name: &str, options: &Options) {
    let expected = expected(name);
    let blob = fixture(name, options);
    let (mut most, mut agreed) = (0f32, 0);
    run(&blob, &expected.tokens, |position, logits| {
        if let Some(reference) = expected.logits.get(position) {
            most = most.max(difference(logits, reference));
        }
        agreed += usize::from(largest(logits) == expected.top[position]);
    });
    assert!(most < TOLERANCE, "{name}: logits differ by {most}");
    assert_eq!((agreed, expected.tokens.len()), (1000, 1000), "{name}");
    // and all at once
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let batch = Batch::new(16);
    let mut memory = vec![0.0; model.memory(batch).words()];
    let mut session = Session::new(model, batch, &mut memory).unwrap();
    let first = &expected.tokens[..expected.logits.len()];
    let logits = session.prefill(first).unwrap();
    let most = difference(logits, expected.logits.last().unwrap());
    assert!(
        most < TOLERANCE,
        "{name}: logits of a prefill differ by {most}"
    );
}

const MODELS: [&str; 5] = [
    "bitnet_tq2",
    "bitnet_i2s",
    "bitnet_f16",
    "llama_tq1",
    "llama_mixed",
];

#[test]
fn bitnet_of_blocks_of_256_with_a_squared_relu_conforms() {
    conforms("bitnet_tq2", &options());
}

#[test]
fn bitnet_of_rows_that_no_block_divides_conforms() {
    conforms("bitnet_i2s", &options());
}

#[test]
fn bitnet_of_halves_with_scales_apart_and_silu_conforms() {
    conforms("bitnet_f16", &options());
}

#[test]
fn llama_with_a_scale_a_row_and_quantised_head_conforms() {
    conforms("llama_tq1", &options());
}

#[test]
fn llama_whose_types_differ_from_matrix_to_matrix_conforms() {
    conforms("llama_mixed", &options());
}

/// Keys and values as f16, the default, move logits by some thousandths of the largest, and where activations are rounded
/// to 8 bits by as much as one code is worth; the most likely token changes only where two are close.
#[test]
fn keys_and_values_of_16_bits_change_little() {
    let options = Options {
        kv: None,
        ..options()
    };
    for name in MODELS {
        let expected = expected(name);
        let blob = fixture(name, &options);
        let (mut most, mut largest_of_all, mut agreed) = (0f32, 0f32, 0);
        run(&blob, &expected.tokens, |position, logits| {
            if let Some(reference) = expected.logits.get(position) {
                most = most.max(difference(logits, reference));
                largest_of_all = reference.iter().fold(largest_of_all, |l, x| l.max(x.abs()));
            }
            agreed += usize::from(largest(logits) == expected.top[position]);
        });
        assert!(
            most > TOLERANCE && most < largest_of_all / 50.0,
            "{name}: {most}"
        );
        assert!(agreed >= 990, "{name}: {agreed} of 1000");
    }
}

#[test]
fn five_trits_a_byte_are_the_same_model() {
    let options = Options {
        weights: DType::T5,
        ..options()
    };
    for name in MODELS {
        conforms(name, &options);
    }
}

#[test]
fn configs_are_those_of_the_file() {
    for name in MODELS {
        let blob = fixture(name, &options());
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let config = model.config();
        assert_eq!(
            config.float_activations,
            expected(name).activations == "f32",
            "{name}"
        );
        let squared = config.activation == Activation::Relu2;
        assert_eq!(squared, name == "bitnet_tq2" || name == "bitnet_i2s");
        assert_eq!(config.tied, name != "llama_tq1");
        assert_eq!(config.context, 2048);
        let metadata = Metadata::parse(model.metadata()).unwrap();
        assert_eq!(metadata.source, "gguf");
        assert_eq!(metadata.tokenizer, None);
    }
}

#[test]
fn matrices_that_are_not_ternary_are_refused_rounded_or_kept_as_asked() {
    let mut made = Made::model();
    let values: Vec<f32> = (0..96).map(|i| (i % 7) as f32 / 4.0 - 0.75).collect();
    made.tensor("blk.0.ffn_up.weight", vec![8, 12], 0, floats(&values));
    let bytes = made.bytes();
    refused(
        &bytes,
        &options(),
        "`blk.0.ffn_up.weight` (F32) is not ternary: row 0",
    );
    for (matrices, floats) in [(Matrices::Ternarise, false), (Matrices::Float, true)] {
        let options = Options {
            matrices,
            ..options()
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        fs::write(&path, &bytes).unwrap();
        let blob = folder.path().join("x.bttt");
        let foreign = gguf::open(&path, &options).unwrap();
        let (summary, ()) = foreign
            .save::<_, ImportError>(&blob, &options, |_| (), |_| Ok(()))
            .unwrap();
        let kept = 3 * 96 + 4 * 64 - if floats { 96 } else { 0 };
        assert_eq!(summary.ternary_weights, kept);
        let loss = summary.losses.get("ffn.up").copied();
        assert_eq!(loss.is_some(), !floats);
        assert!(loss.is_none_or(|loss| loss > 0.1 && loss < 0.5), "{loss:?}");
    }
}

#[test]
fn activations_and_embeddings_are_what_the_user_says() {
    let blob = fixture(
        "llama_tq1",
        &Options {
            activations: Some(Activations::I8),
            embedding: Embedding::I8,
            ..options()
        },
    );
    let model = Model::from_bytes(blob.bytes()).unwrap();
    assert!(!model.config().float_activations);
    let expected = expected("llama_tq1");
    let (mut most, mut largest) = (0f32, 0f32);
    run(&blob, &expected.tokens[..8], |position, logits| {
        most = most.max(difference(logits, &expected.logits[position]));
        largest = expected.logits[position]
            .iter()
            .fold(largest, |l, x| l.max(x.abs()));
    });
    // rounding to 8 bits moves logits, but by a small part of them
    assert!(most > 1e-3 && most < largest / 20.0, "{most} of {largest}");
}

#[test]
fn i2_s_of_the_other_machine_is_another_model() {
    let options = Options {
        i2s: I2sLayout::Arm,
        ..options()
    };
    let other = fixture("bitnet_i2s", &options);
    assert!(other.bytes() != fixture("bitnet_i2s", &self::options()).bytes());
}

#[test]
fn a_model_without_a_tokenizer_is_refused_unless_that_is_wanted() {
    let options = Options {
        needs_tokenizer: true,
        ..options()
    };
    refused(&Made::model().bytes(), &options, "--no-tokenizer");
}
