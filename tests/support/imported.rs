//! A model as importers write it, small and random: attention, a byte-level tokenizer, a chat template.

use bitttt_core::format::{Config, DType, LayerConfig, Mixer};
use bitttt_export::import::Metadata;
use bitttt_export::random::{blueprint, small_config};
use serde_json::{Value, json};

/// Special tokens, which come first.
pub const SPECIAL: [&str; 3] = ["<|begin|>", "<|end|>", "<|role|>"];

/// Messages in a role, a colon and an end each: the answer follows `assistant:`.
pub const TEMPLATE: &str =
    "{{ bos_token }}{% for m in messages %}<|role|>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}
{% if add_generation_prompt %}<|role|>assistant:{% endif %}";

/// Byte-level BPE over some bytes: what it writes is text if they are.
pub fn tokenizer(bytes: impl Iterator<Item = u8>) -> Value {
    let letter = |b: u8| match b {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(b),
        0..=0x20 => char::from_u32(0x100 + u32::from(b)).unwrap(),
        0x7F..=0xA0 => char::from_u32(0x100 + u32::from(b) - 0x7F + 0x21).unwrap(),
        0xAD => '\u{143}',
    };
    let special = SPECIAL.map(String::from).into_iter();
    let tokens = special.chain(bytes.map(|b| letter(b).to_string()));
    let vocabulary: serde_json::Map<_, _> = tokens.zip(0..).map(|(t, id)| (t, json!(id))).collect();
    let added = SPECIAL.iter().zip(0..).map(|(content, id)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
    });
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    })
}

/// All bytes.
pub fn all_bytes() -> Value {
    tokenizer(0..=255)
}

/// Bytes that are text however they are strung together.
pub fn ascii() -> Value {
    tokenizer((b' '..=b'~').chain([b'\n']))
}

/// What importers write beside such a tokenizer.
pub fn metadata(tokenizer: Value) -> Metadata {
    Metadata {
        source: "hf-llama".to_owned(),
        tokenizer: Some(tokenizer),
        chat_template: Some(TEMPLATE.to_owned()),
        bos_token: Some(SPECIAL[0].to_owned()),
        eos_token: Some(SPECIAL[1].to_owned()),
        add_bos: true,
        stop: vec![1],
        ..Metadata::default()
    }
}

/// A layer that reads its context by attention.
pub const ATTENTION: LayerConfig = LayerConfig {
    plain: true,
    kv_heads: 1,
    ..LayerConfig::of(Mixer::Attention)
};

/// A random model with this metadata, whose vocabulary is the tokenizer's.
pub fn blob(metadata: &Metadata, layer: LayerConfig, context: u32) -> Vec<u8> {
    let vocabulary = metadata
        .tokenizer
        .as_ref()
        .map(|t| t["model"]["vocab"].as_object().unwrap().len());
    let config = Config {
        vocab_size: vocabulary.unwrap_or(258) as u32,
        context,
        ..small_config()
    };
    let mut blueprint = blueprint(&config, &[layer; 2], DType::T2, 3);
    blueprint.tokenizer = None;
    blueprint.metadata = metadata.to_text();
    blueprint.to_bytes().unwrap()
}
