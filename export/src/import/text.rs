//! The text side of a Hugging Face directory: tokenizer, chat template, tokens that begin and end a text.

use super::{Fields, ImportError, Metadata, Options};
use serde_json::Value;
use std::path::Path;

/// What the files of a directory say about text.
#[derive(Clone, Debug)]
pub struct Text {
    /// For the blob.
    pub metadata: Metadata,
    /// Id of the token that begins a text, else of the one that ends it, else 0.
    pub document_token: u32,
}

/// Reads `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and the chat template's own files.
///
/// # Errors
/// No tokenizer where one is needed, a file that is not what its name says, a token that the vocabulary does not have.
pub fn read(
    directory: &Path,
    config: &Fields,
    source: &str,
    vocab_size: u32,
    options: &Options,
) -> Result<Text, ImportError> {
    let tokenizer = tokenizer(directory, options)?;
    let own = Fields::open_if_there(&directory.join("tokenizer_config.json"))?;
    let generation = Fields::open_if_there(&directory.join("generation_config.json"))?;
    let token = |name: &str| own.as_ref().and_then(|own| token_text(own.get(name)?));
    let (bos, eos) = (ids(config, "bos_token_id")?, ids(config, "eos_token_id")?);
    let text_of =
        |name, ids: &[u32]| token(name).or_else(|| content_of(tokenizer.as_ref()?, *ids.first()?));
    let (bos_token, eos_token) = (text_of("bos_token", &bos), text_of("eos_token", &eos));
    let id_of = |text: &Option<String>| id_of(tokenizer.as_ref()?, text.as_ref()?);
    let mut stop = eos;
    if let Some(generation) = &generation {
        stop.extend(ids(generation, "eos_token_id")?);
    }
    stop.extend(id_of(&eos_token));
    stop.sort_unstable();
    stop.dedup();
    if let Some(&wrong) = stop.iter().chain(&bos).find(|&&id| id >= vocab_size) {
        let what = format!("calls for token {wrong}, the vocabulary has {vocab_size}");
        return Err(config.wrong("vocab_size", what));
    }
    let first = id_of(&bos_token).or(bos.first().copied());
    let document_token = first.or_else(|| stop.first().copied()).unwrap_or(0);
    let add_bos = match own.as_ref().filter(|own| own.has("add_bos_token")) {
        Some(own) => own.flag("add_bos_token", false)?,
        None => tokenizer.as_ref().is_some_and(adds_first_token),
    };
    Ok(Text {
        metadata: Metadata {
            source: source.to_owned(),
            chat_template: chat_template(directory, own.as_ref())?,
            add_bos: add_bos && bos_token.is_some(),
            bos_token,
            eos_token,
            stop,
            tokenizer,
            note: None,
        },
        document_token: document_token.min(vocab_size - 1),
    })
}

/// `tokenizer.json` of a directory; `None` where none is wanted.
///
/// # Errors
/// None there, or something else.
pub fn tokenizer(directory: &Path, options: &Options) -> Result<Option<Value>, ImportError> {
    let path = directory.join("tokenizer.json");
    let hint = "get the checkpoint's tokenizer.json too, or import without text by --no-tokenizer";
    if !options.needs_tokenizer {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(|fault| ImportError::read(&path, fault, hint))?;
    let value: Value = serde_json::from_slice(&text)
        .map_err(|fault| ImportError::file(&path, format!("is no JSON ({fault}); {hint}")))?;
    match value.get("model").is_some_and(Value::is_object) {
        true => Ok(Some(value)),
        false => Err(ImportError::file(&path, format!("has no `model`; {hint}"))),
    }
}

/// Token ids in a field: a number, several, or none.
fn ids(fields: &Fields, name: &str) -> Result<Vec<u32>, ImportError> {
    let wrong =
        |value: &Value| fields.wrong(name, format!("is {value}, not a token id or several"));
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match fields.get(name) {
        None => Ok(Vec::new()),
        Some(Value::Array(all)) => {
            let ids = all
                .iter()
                .map(|value| id(value).ok_or_else(|| wrong(value)));
            ids.collect()
        }
        Some(value) => Ok(vec![id(value).ok_or_else(|| wrong(value))?]),
    }
}

/// A token in a tokenizer config: its text, or an object that has it.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    text.map(str::to_owned)
}

/// Tokens outside of the vocabulary proper: text and id.
fn added(tokenizer: &Value) -> impl Iterator<Item = (&str, u64)> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let tokens = added.into_iter().flatten();
    tokens.filter_map(|token| Some((token.get("content")?.as_str()?, token.get("id")?.as_u64()?)))
}

fn content_of(tokenizer: &Value, id: u32) -> Option<String> {
    let found = added(tokenizer).find(|(_, own)| *own == u64::from(id));
    found.map(|(content, _)| content.to_owned())
}

fn id_of(tokenizer: &Value, text: &str) -> Option<u32> {
    let own = added(tokenizer).find(|(content, _)| *content == text);
    let plain = || tokenizer.get("model")?.get("vocab")?.get(text)?.as_u64();
    own.map(|(_, id)| id)
        .or_else(plain)
        .and_then(|id| u32::try_from(id).ok())
}

/// Whether the tokenizer's own post-processing puts a special token before a text.
fn adds_first_token(tokenizer: &Value) -> bool {
    let Some(processor) = tokenizer.get("post_processor") else {
        return false;
    };
    let several = processor.get("processors").and_then(Value::as_array);
    let all = several.into_iter().flatten().chain([processor]);
    all.filter_map(|processor| processor.get("single")?.get(0))
        .any(|piece| piece.get("SpecialToken").is_some())
}

/// The template of `tokenizer_config.json`, or that of a file of its own, which newer checkpoints have.
fn chat_template(directory: &Path, own: Option<&Fields>) -> Result<Option<String>, ImportError> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        let text = std::fs::read_to_string(&path);
        let hint = "check its permissions";
        return text
            .map(Some)
            .map_err(|fault| ImportError::read(&path, fault, hint));
    }
    let file = Fields::open_if_there(&directory.join("chat_template.json"))?;
    for fields in [file.as_ref(), own].into_iter().flatten() {
        match fields.get("chat_template") {
            None => {}
            Some(Value::String(template)) => return Ok(Some(template.clone())),
            Some(Value::Array(named)) => {
                let default = named
                    .iter()
                    .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
                let template = default.and_then(|entry| entry.get("template")?.as_str());
                return Ok(template.map(str::to_owned));
            }
            Some(other) => {
                let what = format!("is {other}, not a template or a list of named ones");
                return Err(fields.wrong("chat_template", what));
            }
        }
    }
    Ok(None)
}
