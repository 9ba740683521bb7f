//! Files that are damaged or cannot be represented.

use super::made::{Made, floats, text};
use super::{import, options};
use bitttt_export::Outline;
use bitttt_export::import::{ImportError, Options, gguf};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// The one line that a file is refused with, or what `None` stands for: it is not.
pub fn refusal(bytes: &[u8], options: &Options) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    fs::write(&path, bytes).unwrap();
    let error = import(&path, options).err()?;
    one_line(&error);
    Some(error.to_string())
}

#[track_caller]
pub fn refused(bytes: &[u8], options: &Options, part: &str) {
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
    for (at, &byte) in bytes[..bytes.len() - data].iter().enumerate() {
        for flip in [0x01, 0x80, 0xFF] {
            put(at, byte ^ flip);
            if let Err(error) = open_all(&path) {
                one_line(&error);
            }
        }
        put(at, byte);
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
