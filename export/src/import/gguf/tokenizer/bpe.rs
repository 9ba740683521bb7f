//! Byte-level BPE (`gpt2`): texts are cut by regular expressions, which `tokenizer.ggml.pre` names, and merged by rank.

use super::{Converted, Reader, Vocabulary, WAY_OUT, document};
use crate::import::ImportError;
use serde_json::{Value, json};

/// How texts are cut, and what follows from the name beside it.
struct Cut {
    /// Applied in turn, each to the pieces that the one before left; what does not match is a piece too.
    patterns: &'static [&'static str],
    /// A piece that is a token is taken as it is, whatever the merges say.
    whole_pieces: bool,
    /// Whether texts begin with a token unless `add_bos_token` says otherwise.
    adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Names of ways to cut, those that mean the same together.
const NAMES: [(&[&str], Cut); 5] = [
    (
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "lfm2",
            "pixtral",
        ],
        Cut {
            patterns: &[LLAMA3],
            whole_pieces: true,
            adds_bos: true,
        },
    ),
    (
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "mellum",
            "roberta-bpe",
        ],
        cut(&[GPT2]),
    ),
    (
        &["default"],
        cut(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    ),
    (
        &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"],
        cut(&[QWEN2]),
    ),
    (
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
        ],
        cut(&[r"\p{N}", GPT2]),
    ),
];

const fn cut(patterns: &'static [&'static str]) -> Cut {
    Cut {
        patterns,
        whole_pieces: false,
        adds_bos: false,
    }
}

/// What only the vocabulary of Llama 3 and its kin has.
const OF_LLAMA3: &str = "<|begin_of_text|>";

/// Converts a tokenizer.
///
/// # Errors
/// One that is missing or of another kind, or whose parts do not fit.
pub fn convert(reader: &Reader<'_>, vocabulary: &Vocabulary<'_>) -> Result<Converted, ImportError> {
    // Microsoft's files of BitNet b1.58 2B4T and Llama 3 do not say it, and llama.cpp then cuts as it should not.
    let own = reader.text("pre")?;
    let name = match own {
        Some(name) => name,
        None if vocabulary.texts.contains(&OF_LLAMA3) => "llama-bpe",
        None => "default",
    };
    let note = own.is_none().then(|| {
        format!("the file does not say how texts are cut (tokenizer.ggml.pre): `{name}` was taken")
    });
    let known = NAMES.iter().find(|(names, _)| names.contains(&name));
    let Some((_, cut)) = known else {
        let names: Vec<_> = NAMES
            .iter()
            .flat_map(|(names, _)| *names)
            .copied()
            .collect();
        let what = format!(
            "is `{name}`, which is not known; known are {}; {WAY_OUT}",
            names.join(", ")
        );
        return Err(reader.wrong("pre", what));
    };
    let ids = vocabulary.ids();
    let merges = merges(reader, &ids)?;
    let splits = cut.patterns.iter().map(|pattern| {
        json!({
            "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false,
        })
    });
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let pre_tokenizers: Vec<_> = splits.chain([bytes.clone()]).collect();
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": cut.whole_pieces, "vocab": ids, "merges": merges,
    });
    let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": pre_tokenizers});
    Ok(Converted {
        tokenizer: document(vocabulary, Value::Null, pre_tokenizer, bytes, model),
        adds_bos: cut.adds_bos,
        note,
    })
}

/// Pairs that are merged, best first; the parts stand with one space between them.
fn merges(
    reader: &Reader<'_>,
    ids: &serde_json::Map<String, Value>,
) -> Result<Vec<[String; 2]>, ImportError> {
    let values = reader.array("merges")?;
    let pair = |(number, value): (usize, &super::Value)| {
        let text = value.as_text().unwrap_or_default();
        let parts = text.split_once(' ').filter(|(left, right)| {
            ids.contains_key(*left)
                && ids.contains_key(*right)
                && ids.contains_key(&format!("{left}{right}"))
        });
        let wrong = || {
            let what = format!("has {value} in place {number}, which makes no token of two tokens");
            reader.wrong("merges", what)
        };
        let (left, right) = parts.ok_or_else(wrong)?;
        Ok([left.to_owned(), right.to_owned()])
    };
    values.iter().enumerate().map(pair).collect()
}
