//! GGUF files: imported models compute what a double-precision run of the same weights does, and bad files are refused
//! in one line.
//!
//! Where activations are rounded to 8 bits, the tokens of the fixtures are such that no rounding is within 4e-4 of a tie,
//! so that the codes are the same and logits differ by f32's rounding alone, as without rounding. Keys and values are
//! kept as f32 in these tests: f16 has its own error, which another test bounds.

use bitttt_core::format::{Activation, DType};
use bitttt_core::{Batch, Model, Session};
use bitttt_export::import::{
    Activations, Embedding, I2sLayout, ImportError, KvCache, Matrices, Metadata, Options, gguf,
};
use bitttt_export::{AlignedCopy, Outline};
use serde::Deserialize;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What logits of f32 may differ by from those of double precision; they go up to 60.
const TOLERANCE: f32 = 2e-4;

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

/// A GGUF file made piece by piece, for what no writer would write.
#[derive(Clone)]
struct Made {
    version: u32,
    values: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

impl Made {
    /// A small `bitnet-b1.58` with two heads of four, whose matrices alternate -0.5, 0, 0.5.
    fn model() -> Self {
        let mut made = Self {
            version: 3,
            values: Vec::new(),
            tensors: Vec::new(),
        };
        made.value("general.architecture", 8, text("bitnet-b1.58"));
        for (key, value) in [
            ("context_length", 64u32),
            ("embedding_length", 8),
            ("block_count", 1),
            ("feed_forward_length", 12),
            ("attention.head_count", 2),
        ] {
            let key = format!("bitnet-b1.58.{key}");
            made.value(&key, 4, value.to_le_bytes().to_vec());
        }
        made.value(
            "bitnet-b1.58.attention.layer_norm_rms_epsilon",
            6,
            floats(&[1e-5]),
        );
        for (name, rows, cols) in [
            ("token_embd", 5, 8),
            ("output_norm", 1, 8),
            ("blk.0.attn_norm", 1, 8),
            ("blk.0.attn_q", 8, 8),
            ("blk.0.attn_k", 8, 8),
            ("blk.0.attn_v", 8, 8),
            ("blk.0.attn_output", 8, 8),
            ("blk.0.attn_sub_norm", 1, 8),
            ("blk.0.ffn_norm", 1, 8),
            ("blk.0.ffn_gate", 12, 8),
            ("blk.0.ffn_up", 12, 8),
            ("blk.0.ffn_sub_norm", 1, 12),
            ("blk.0.ffn_down", 8, 12),
        ] {
            let value = |i: u64| (i * 7 % 3) as f32 * 0.5 - 0.5;
            let values: Vec<f32> = (0..rows * cols).map(value).collect();
            let dims = if rows == 1 {
                vec![cols]
            } else {
                vec![cols, rows]
            };
            made.tensor(&format!("{name}.weight"), dims, 0, floats(&values));
        }
        made
    }

    fn value(&mut self, key: &str, code: u32, bytes: Vec<u8>) -> &mut Self {
        self.values.retain(|(own, ..)| own != key);
        self.values.push((key.to_owned(), code, bytes));
        self
    }

    fn tensor(&mut self, name: &str, dims: Vec<u64>, code: u32, data: Vec<u8>) -> &mut Self {
        self.tensors.retain(|(own, ..)| own != name);
        self.tensors.push((name.to_owned(), dims, code, data));
        self
    }

    fn without(&mut self, name: &str) -> &mut Self {
        self.values.retain(|(own, ..)| own != name);
        self.tensors.retain(|(own, ..)| own != name);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, code, bytes) in &self.values {
            out.extend([&text(key), &code.to_le_bytes()[..], bytes].concat());
        }
        let mut data = Vec::new();
        for (name, dims, code, bytes) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(code.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

/// The one line that a file is refused with, or what `None` stands for: it is not.
fn refusal(bytes: &[u8], options: &Options) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    fs::write(&path, bytes).unwrap();
    let error = import(&path, options).err()?;
    one_line(&error);
    Some(error.to_string())
}

#[track_caller]
fn refused(bytes: &[u8], options: &Options, part: &str) {
    let error = refusal(bytes, options).expect("it is accepted");
    assert!(error.contains(part), "`{error}` lacks `{part}`");
}

#[test]
fn a_model_of_the_least_that_is_needed_is_accepted_in_either_version() {
    for version in [2, 3] {
        let mut made = Made::model();
        made.version = version;
        assert_eq!(refusal(&made.bytes(), &options()), None);
    }
}

#[test]
fn a_file_cut_anywhere_or_with_any_byte_changed_never_panics() {
    let bytes = Made::model().bytes();
    let data: usize = Made::model().tensors.iter().map(|t| t.3.len()).sum();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    fs::write(&path, &bytes).unwrap();
    // in place: thousands of new files take minutes on a slow disk
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut put = |at: usize, byte: u8| {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    for at in 0..bytes.len() - data {
        for flip in [0x01, 0x80, 0xFF] {
            put(at, bytes[at] ^ flip);
            if let Err(error) = open_all(&path) {
                one_line(&error);
            }
        }
        put(at, bytes[at]);
    }
    open_all(&path).unwrap();
    for length in (0..bytes.len() - 32).rev() {
        file.set_len(length as u64).unwrap();
        one_line(&open_all(&path).unwrap_err());
    }
}

fn one_line(error: &ImportError) {
    let error = error.to_string();
    assert!(
        !error.contains('\n') && error.contains("bad.gguf"),
        "{error}"
    );
}

/// Finds and checks all that is needed for a blob, and writes none.
fn open_all(path: &Path) -> Result<(), ImportError> {
    let foreign = gguf::open(path, &options())?;
    let outline = Outline {
        config: &foreign.config,
        layers: &foreign.layers,
        tokenizer: None,
        metadata: "",
    };
    for place in outline.places() {
        foreign.source.tensor(&place)?;
    }
    Ok(())
}

#[test]
fn what_is_no_gguf_file_is_refused_by_what_is_wrong_with_it() {
    let bytes = Made::model().bytes();
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    refused(b"", &options(), "cut short");
    refused(b"GGML and more", &options(), "is no GGUF file");
    refused(&with(4, &[1]), &options(), "of GGUF version 1");
    refused(&with(4, &[0, 0, 0, 3]), &options(), "big-endian");
    let many = u64::MAX.to_le_bytes();
    refused(
        &with(8, &many),
        &options(),
        "`tensor_count` is 18446744073709551615",
    );
    refused(
        &with(16, &many),
        &options(),
        "`metadata_kv_count` is 18446744073709551615",
    );
    refused(&with(24, &many), &options(), "cut short");
    refused(&bytes[..bytes.len() - 400], &options(), "cut short");
    let folder = std::env::temp_dir();
    let error = gguf::open(&folder, &options()).err().unwrap().to_string();
    assert!(error.contains("is not a file"), "{error}");
    let error = gguf::open(Path::new("none.gguf"), &options())
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("cannot read none.gguf"),
        "{error}"
    );
}

#[test]
fn metadata_that_cannot_be_represented_is_refused_by_name() {
    let number = |n: u32| n.to_le_bytes().to_vec();
    let arch = "bitnet-b1.58";
    let cases: [(&str, u32, Vec<u8>, &str); 13] = [
        (
            "general.architecture",
            8,
            text("qwen2"),
            "`qwen2`, which is not read",
        ),
        (
            "general.architecture",
            4,
            number(1),
            "`general.architecture` is 1",
        ),
        (
            "general.alignment",
            4,
            number(48),
            "`general.alignment` is 48",
        ),
        ("split.count", 2, vec![3, 0], "llama-gguf-split --merge"),
        (
            "{}.block_count",
            4,
            number(0),
            "`bitnet-b1.58.block_count` is 0",
        ),
        (
            "{}.block_count",
            8,
            text("x"),
            "`bitnet-b1.58.block_count` is `x`",
        ),
        (
            "{}.embedding_length",
            4,
            number(16),
            "`token_embd.weight` is 5 x 8",
        ),
        (
            "{}.attention.head_count_kv",
            4,
            number(3),
            "no divisor of the heads",
        ),
        (
            "{}.attention.head_count_kv",
            4,
            number(1),
            "`blk.0.attn_k.weight` is 8 x 8",
        ),
        ("{}.rope.dimension_count", 4, number(2), "a head is 4 wide"),
        ("{}.rope.scaling.type", 8, text("yarn"), "rope.scaling.type"),
        ("{}.expert_count", 4, number(8), "mixtures of experts"),
        (
            "{}.attention.layer_norm_rms_epsilon",
            6,
            floats(&[f32::NAN]),
            "not a number",
        ),
    ];
    for (key, code, bytes, part) in cases {
        let mut made = Made::model();
        made.value(&key.replace("{}", arch), code, bytes);
        refused(&made.bytes(), &options(), part);
    }
    let mut made = Made::model();
    let array = |values: &[u32]| {
        let values: Vec<u8> = values.iter().flat_map(|n| n.to_le_bytes()).collect();
        [&4u32.to_le_bytes()[..], &2u64.to_le_bytes(), &values].concat()
    };
    made.value("bitnet-b1.58.attention.head_count", 9, array(&[2, 2]));
    assert_eq!(refusal(&made.bytes(), &options()), None);
    made.value("bitnet-b1.58.attention.head_count", 9, array(&[2, 4]));
    refused(&made.bytes(), &options(), "differs from layer to layer");
    let mut made = Made::model();
    made.without("bitnet-b1.58.context_length");
    refused(
        &made.bytes(),
        &options(),
        "`bitnet-b1.58.context_length` is missing",
    );
    let count = u64::MAX.to_le_bytes();
    made.value("x", 9, [&6u32.to_le_bytes()[..], &count].concat());
    refused(&made.bytes(), &options(), "`x` is 18446744073709551615");
    made.value("x", 9, [&9u32.to_le_bytes()[..], &count].concat());
    refused(&made.bytes(), &options(), "`x` is an array of type 9");
    made.value("x", 13, vec![]);
    refused(
        &made.bytes(),
        &options(),
        "`x` has no valid value of type 13",
    );
}

#[test]
fn tensors_that_cannot_be_represented_are_refused_by_name() {
    let gate = "blk.0.ffn_gate.weight";
    let with = |name: &str, dims: &[u64], code: u32, data: Vec<u8>| {
        let mut made = Made::model();
        made.tensor(name, dims.to_vec(), code, data);
        made.bytes()
    };
    let refused = |bytes: Vec<u8>, part: &str| refused(&bytes, &options(), part);
    refused(with(gate, &[8, 12], 11, vec![0; 99]), "(Q3_K)");
    refused(with(gate, &[8, 12], 77, vec![0; 99]), "is of type 77");
    refused(
        with(gate, &[8, 12], 35, vec![0; 99]),
        "no whole number of blocks of TQ2_0",
    );
    refused(with(gate, &[8, 12, 1, 1, 1], 0, vec![]), "has 5 dimensions");
    refused(
        with(gate, &[1 << 40, 1 << 40], 0, vec![]),
        "`blk.0.ffn_gate.weight`",
    );
    refused(
        with(gate, &[12, 8], 0, vec![0; 384]),
        "is 8 x 12, the metadata calls for 12 x 8",
    );
    refused(
        with("blk.0.attn_q.bias", &[8], 0, vec![0; 32]),
        "`blk.0.attn_q.bias` is of no known use",
    );
    refused(
        with("rope_freqs.weight", &[2], 0, floats(&[1.0, 8.0])),
        "`rope_freqs.weight`",
    );
    let none = with("rope_freqs.weight", &[2], 0, floats(&[1.0, 1.0]));
    assert_eq!(refusal(&none, &options()), None);
    let mut made = Made::model();
    refused(
        made.without(gate).bytes(),
        "`blk.0.ffn_gate.weight` is missing",
    );
    refused(
        made.without("token_embd.weight").bytes(),
        "`token_embd.weight` is missing",
    );
    // 96 weights are no block of 128, and 128 of them have a scale behind them
    refused(
        with(gate, &[8, 12], 36, vec![0; 99]),
        "no whole number of blocks of I2_S",
    );
    let mut made = Made::model();
    made.value(
        "bitnet-b1.58.feed_forward_length",
        4,
        16u32.to_le_bytes().to_vec(),
    );
    made.tensor(gate, vec![8, 16], 36, vec![0x55; 64]);
    made.tensor(gate, vec![8, 16], 36, [&[0x55; 32][..], &[0; 32]].concat());
    made.tensor("blk.0.ffn_up.weight", vec![8, 16], 0, vec![0; 512]);
    refused(made.bytes(), "has the scale 0");
}

#[test]
fn overlapping_and_repeated_tensors_are_refused() {
    let bytes = Made::model().bytes();
    let name = text("blk.0.ffn_up.weight");
    let at = bytes
        .windows(name.len())
        .position(|part| part == name)
        .unwrap();
    let mut overlapping = bytes.clone();
    overlapping[at + name.len() + 4 + 16 + 4..][..8].copy_from_slice(&0u64.to_le_bytes());
    refused(&overlapping, &options(), "overlaps another");
    let mut twice = bytes.clone();
    let down = text("blk.0.ffn_gate.weight");
    let up = bytes
        .windows(down.len())
        .position(|part| part == down)
        .unwrap();
    twice[up..up + down.len()].copy_from_slice(&text("blk.0.attn_output.weig")[..down.len()]);
    assert!(refusal(&twice, &options()).is_some());
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
