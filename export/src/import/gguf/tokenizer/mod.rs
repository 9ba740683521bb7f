//! The tokenizer inside a GGUF file as a Hugging Face `tokenizer.json`, with all that the file says of text.
//!
//! The rules are those of llama.cpp's `llama-vocab.cpp`; a text becomes the same tokens here as there.

mod bpe;
mod sentencepiece;

use super::file::Gguf;
use super::value::Value;
use crate::import::{ImportError, Metadata, Options};
use serde_json::json;

/// What a token is for, of those codes in `tokenizer.ggml.token_type` that are treated apart.
mod kind {
    pub const UNKNOWN: i64 = 2;
    pub const CONTROL: i64 = 3;
    pub const USER_DEFINED: i64 = 4;
    pub const BYTE: i64 = 6;
}

/// Control tokens that end an answer, by their text: files name but one of them as the end of a text.
const ENDS: [&str; 10] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<EOT>",
    "</s>",
    "<eos>",
];

/// Metadata for the blob, and the token that starts and separates documents.
///
/// # Errors
/// A tokenizer that is missing where one is needed, or cannot be converted.
pub fn metadata(
    file: &Gguf,
    options: &Options,
    vocab_size: u32,
) -> Result<(Metadata, u32), ImportError> {
    let mut metadata = Metadata {
        source: "gguf".to_owned(),
        ..Metadata::default()
    };
    let reader = Reader { file, vocab_size };
    let is_sentencepiece = reader.text("model")? == Some("llama");
    let default = |id: u32| is_sentencepiece.then_some(id);
    let bos = reader.id("bos_token_id")?.or(default(1));
    let eos = reader.id("eos_token_id")?.or(default(2));
    let document_token = bos.or(eos).unwrap_or(0).min(vocab_size - 1);
    if !options.needs_tokenizer {
        metadata.stop = eos.into_iter().collect();
        return Ok((metadata, document_token));
    }
    reader.refuse_other_models()?;
    let vocabulary = reader.vocabulary()?;
    let Converted {
        tokenizer,
        adds_bos,
        note,
    } = if is_sentencepiece {
        sentencepiece::convert(&reader, &vocabulary)?
    } else {
        bpe::convert(&reader, &vocabulary)?
    };
    let text_of = |id: Option<u32>| Some(vocabulary.texts.get(id? as usize)?.to_string());
    metadata.bos_token = text_of(bos);
    metadata.eos_token = text_of(eos);
    metadata.add_bos = reader.flag("add_bos_token", adds_bos)? && metadata.bos_token.is_some();
    metadata.stop = reader.stops(&vocabulary, eos)?;
    let template = file.value("tokenizer.chat_template");
    metadata.chat_template = template.and_then(Value::as_text).map(str::to_owned);
    metadata.tokenizer = Some(tokenizer);
    metadata.note = note;
    Ok((metadata, document_token))
}

/// A tokenizer of either kind.
struct Converted {
    /// As a `tokenizer.json`.
    tokenizer: serde_json::Value,
    /// Whether texts begin with a token unless the file says otherwise.
    adds_bos: bool,
    /// What had to be assumed.
    note: Option<String>,
}

/// Fields under `tokenizer.ggml`.
struct Reader<'a> {
    file: &'a Gguf,
    vocab_size: u32,
}

/// All tokens in the order of their ids.
struct Vocabulary<'a> {
    texts: Vec<&'a str>,
    kinds: Vec<i64>,
}

impl<'a> Reader<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.file.value(&format!("tokenizer.ggml.{name}"))
    }

    fn wrong(&self, name: &str, what: impl Into<String>) -> ImportError {
        let key = format!("tokenizer.ggml.{name}");
        ImportError::field(self.file.path(), key, what)
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, ImportError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || self.wrong(name, format!("is {value}, not a text"));
        value.as_text().map(Some).ok_or_else(wrong)
    }

    fn refuse_other_models(&self) -> Result<(), ImportError> {
        let what = match self.text("model")? {
            Some("gpt2" | "llama") => return Ok(()),
            None | Some("none" | "no_vocab") => {
                format!("is missing: the file has no tokenizer; {WAY_OUT}")
            }
            Some(other) => format!("is `{other}`; `gpt2` and `llama` are read; {WAY_OUT}"),
        };
        Err(self.wrong("model", what))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, ImportError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, format!("is {other}, not true or false"))),
        }
    }

    /// A token's id.
    fn id(&self, name: &str) -> Result<Option<u32>, ImportError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.filter(|&id| id < self.vocab_size);
        let wrong = || {
            let what = format!("is {value}, the model has {} tokens", self.vocab_size);
            self.wrong(name, what)
        };
        id.map(Some).ok_or_else(wrong)
    }

    fn array(&self, name: &str) -> Result<&'a [Value], ImportError> {
        let value = self.get(name);
        let value = value.ok_or_else(|| self.wrong(name, format!("is missing; {WAY_OUT}")))?;
        let wrong = || self.wrong(name, format!("is {value}, not an array"));
        value.as_array().ok_or_else(wrong)
    }

    fn vocabulary(&self) -> Result<Vocabulary<'a>, ImportError> {
        let values = self.array("tokens")?;
        if values.len() > self.vocab_size as usize {
            let what = format!(
                "has {} tokens, the embedding {} rows",
                values.len(),
                self.vocab_size
            );
            return Err(self.wrong("tokens", what));
        }
        let texts: Option<Vec<_>> = values.iter().map(Value::as_text).collect();
        let texts = texts.ok_or_else(|| self.wrong("tokens", "holds something but texts"))?;
        let mut sorted = texts.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let what = format!("has the token `{}` twice", pair[0].escape_debug());
            return Err(self.wrong("tokens", what));
        }
        let kinds = match self.get("token_type") {
            None => vec![1; texts.len()],
            Some(_) => self.numbers("token_type", texts.len(), |value| match value {
                Value::Signed(kind) => Some(*kind),
                other => other.as_u64().map(|kind| kind as i64),
            })?,
        };
        Ok(Vocabulary { texts, kinds })
    }

    /// A number for each token.
    fn numbers<T>(
        &self,
        name: &str,
        count: usize,
        number: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, ImportError> {
        let values = self.array(name)?;
        if values.len() != count {
            let what = format!("has {} numbers for {count} tokens", values.len());
            return Err(self.wrong(name, what));
        }
        let numbers: Option<_> = values.iter().map(number).collect();
        numbers.ok_or_else(|| self.wrong(name, "holds something but numbers"))
    }

    /// Tokens at which an answer ends, ascending.
    fn stops(
        &self,
        vocabulary: &Vocabulary<'_>,
        eos: Option<u32>,
    ) -> Result<Vec<u32>, ImportError> {
        let mut stops: Vec<u32> = eos.into_iter().collect();
        stops.extend(self.id("eot_token_id")?);
        stops.extend(self.id("eom_token_id")?);
        let all = (0..).zip(vocabulary.texts.iter().zip(&vocabulary.kinds));
        let ends = all.filter(|(_, (text, kind))| **kind == kind::CONTROL && ENDS.contains(text));
        stops.extend(ends.map(|(id, _)| id));
        stops.sort_unstable();
        stops.dedup();
        Ok(stops)
    }
}

/// What to do where a tokenizer is missing or cannot be converted.
const WAY_OUT: &str = "take a file with a tokenizer, or import without text by `--no-tokenizer`";

impl Vocabulary<'_> {
    /// `vocab` of a `tokenizer.json`: every token, so that ids stay what they are.
    fn ids(&self) -> serde_json::Map<String, serde_json::Value> {
        let entries = self.texts.iter().zip(0u32..);
        entries
            .map(|(text, id)| (text.to_string(), json!(id)))
            .collect()
    }

    /// `added_tokens` of a `tokenizer.json`: those that are found in a text before anything else.
    fn added(&self) -> serde_json::Value {
        let all = self.texts.iter().zip(&self.kinds).zip(0u32..);
        let added = all.filter(|((_, kind), _)| {
            matches!(**kind, kind::UNKNOWN | kind::CONTROL | kind::USER_DEFINED)
        });
        let entries = added.map(|((text, kind), id)| {
            json!({
                "id": id, "content": text, "special": *kind != kind::USER_DEFINED,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        });
        entries.collect()
    }
}

/// A `tokenizer.json` of these parts.
fn document(
    vocabulary: &Vocabulary<'_>,
    normalizer: serde_json::Value,
    pre_tokenizer: serde_json::Value,
    decoder: serde_json::Value,
    model: serde_json::Value,
) -> serde_json::Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": decoder, "model": model,
    })
}

#[cfg(test)]
mod tests;
