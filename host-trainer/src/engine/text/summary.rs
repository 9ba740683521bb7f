//! What an imported model's metadata says, in a few words: the whole of it can be ten megabytes.

use bitttt_export::import::Metadata;
use serde_json::{Value, json};

/// Longest other metadata that is given as it is, in bytes.
const SHORT: usize = 4096;

/// Source, tokenizer, template and stop tokens of an imported model; other metadata as it is, if it is short.
pub fn summary(metadata: &str) -> Value {
    match Metadata::parse(metadata) {
        Some(metadata) => of_imported(&metadata),
        None if metadata.len() <= SHORT => metadata.into(),
        None => format!("{} bytes", metadata.len()).into(),
    }
}

fn of_imported(metadata: &Metadata) -> Value {
    json!({
        "source": metadata.source,
        "tokenizer": metadata.tokenizer.as_ref().map(tokenizer),
        "chat_template": metadata.chat_template.is_some(),
        "bos_token": metadata.bos_token,
        "eos_token": metadata.eos_token,
        "add_bos": metadata.add_bos,
        "stop": metadata.stop,
        "note": metadata.note,
    })
}

fn tokenizer(json: &Value) -> Value {
    let model = &json["model"];
    let vocabulary = match &model["vocab"] {
        Value::Object(tokens) => tokens.len(),
        Value::Array(tokens) => tokens.len(),
        _ => 0,
    };
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let more = added.filter(|token| {
        model["vocab"]
            .get(token["content"].as_str().unwrap_or(""))
            .is_none()
    });
    json!({
        "kind": model["type"],
        "tokens": vocabulary + more.count(),
        "merges": model["merges"].as_array().map_or(0, Vec::len),
    })
}
