//! What an imported blob's metadata section holds: how its model is to be talked to.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The JSON document in the metadata section of an imported model. Unknown fields are ignored, so that it can grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Kind of the checkpoint that it came from: `hf-bitnet`, `gguf`, …
    pub source: String,
    /// A Hugging Face `tokenizer.json`, as an object; `None` where none was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Value>,
    /// Jinja template that makes a prompt of messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Text of the token that begins a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// Text of the token that ends one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Whether a prompt starts with `bos_token`, if it is not there already.
    #[serde(default)]
    pub add_bos: bool,
    /// Tokens at which generation stops.
    #[serde(default)]
    pub stop: Vec<u32>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Metadata {
    /// The metadata of an imported model; `None` for other text, like that of a model that was trained here.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The text to store.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // maps with text keys and no other: this cannot fail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back_and_other_metadata_is_none() {
        let metadata = Metadata {
            source: "hf-llama".to_owned(),
            tokenizer: Some(serde_json::json!({"model": {"type": "BPE"}})),
            add_bos: true,
            stop: vec![2, 7],
            ..Metadata::default()
        };
        let text = metadata.to_text();
        assert!(!text.contains("chat_template"));
        assert_eq!(Metadata::parse(&text), Some(metadata));
        assert_eq!(Metadata::parse(r#"{"trained_steps": 3}"#), None);
        assert_eq!(Metadata::parse(""), None);
    }

    #[test]
    fn fields_of_later_versions_are_ignored() {
        let text = r#"{"source": "gguf", "later": [1]}"#;
        assert_eq!(Metadata::parse(text).unwrap().source, "gguf");
    }
}
