//! SentencePiece BPE with scores (`llama`): no merges are stored; of all neighbours whose text together is a token, those
//! are merged whose token has the highest score. Characters without a token become tokens of their bytes.

use super::{Converted, Reader, Vocabulary, WAY_OUT, document, kind};
use crate::import::ImportError;
use serde_json::{Value, json};
use std::collections::HashSet;

/// What stands for a space inside tokens.
const SPACE: &str = "\u{2581}";

/// Converts a tokenizer.
///
/// # Errors
/// Scores that are missing, too few, or all the same.
pub fn convert(reader: &Reader<'_>, vocabulary: &Vocabulary<'_>) -> Result<Converted, ImportError> {
    let count = vocabulary.texts.len();
    let scores = reader.numbers("scores", count, super::Value::as_f64)?;
    let merges = merges(vocabulary, &scores);
    if merges.windows(2).all(|pair| pair[0].0 == pair[1].0) && merges.len() > 1 {
        let what = format!("are all equal, and so do not say what is merged first; {WAY_OUT}");
        return Err(reader.wrong("scores", what));
    }
    let merges: Vec<_> = merges.into_iter().map(|(_, pair)| pair).collect();
    let prefix = reader.flag("add_space_prefix", true)?;
    let unknown = vocabulary
        .kinds
        .iter()
        .position(|&kind| kind == kind::UNKNOWN);
    let unknown = unknown.map(|id| vocabulary.texts[id]);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let back = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        back,
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": vocabulary.ids(), "merges": merges,
    });
    let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    Ok(Converted {
        tokenizer: document(vocabulary, normalizer, Value::Null, decoder, model),
        adds_bos: true,
        note: None,
    })
}

/// Every way to make a token of two with that token's score, that with the higher score first; the order of equals is that of `transformers`.
fn merges<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Vec<(f64, [&'a str; 2])> {
    let texts = || vocabulary.texts.iter().copied();
    let tokens: HashSet<&str> = texts().collect();
    let unmade = |kind: i64| matches!(kind, kind::UNKNOWN | kind::CONTROL | kind::BYTE);
    let mut ways = Vec::new();
    for ((text, &score), &kind) in texts().zip(scores).zip(&vocabulary.kinds) {
        if unmade(kind) {
            continue;
        }
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let known = cuts.filter(|(left, right)| tokens.contains(left) && tokens.contains(right));
        ways.extend(known.map(|(left, right)| (score, left, right)));
    }
    let length = |text: &str| text.chars().count();
    ways.sort_by(|a, b| {
        let lengths = |way: &(f64, &str, &str)| (length(way.1), length(way.2));
        b.0.total_cmp(&a.0)
            .then_with(|| lengths(b).cmp(&lengths(a)))
    });
    ways.into_iter()
        .map(|(score, left, right)| (score, [left, right]))
        .collect()
}
