//! A model's tokenizer, wherever it comes from.

use super::imported::Imported;
use anyhow::{Context as _, Result, bail};
use bitttt_core::{Model, Tokenizer};
use bitttt_export::import::Metadata;

/// Text to tokens and back, with what else a model needs to read and write text. Our own models have their tokenizer in a
/// section of the blob, imported ones a `tokenizer.json` in its metadata.
pub struct TextTokenizer<'a> {
    kind: Kind<'a>,
    start: Option<u32>,
    stop: Vec<u32>,
    template: Option<String>,
    bos: String,
    eos: String,
}

enum Kind<'a> {
    Core(Tokenizer<'a>),
    Imported(Box<Imported>),
}

impl<'a> TextTokenizer<'a> {
    /// The tokenizer of a model.
    ///
    /// # Errors
    /// A model without one, or one that cannot be read.
    pub fn of(model: &Model<'a>) -> Result<Self> {
        match model.tokenizer() {
            Some(tokenizer) => Ok(Self::core(tokenizer, model.config().document_token)),
            None => Self::imported(model),
        }
    }

    fn core(tokenizer: Tokenizer<'a>, document: u32) -> Self {
        Self {
            kind: Kind::Core(tokenizer),
            start: Some(document),
            stop: vec![document],
            template: None,
            bos: String::new(),
            eos: String::new(),
        }
    }

    fn imported(model: &Model<'_>) -> Result<Self> {
        let Some(metadata) = Metadata::parse(model.metadata()) else {
            bail!(
                "this model has no tokenizer: it reads numbers of tokens only; export it with one, or import it from a folder \
                 with tokenizer.json"
            );
        };
        let json = metadata.tokenizer.as_ref().context(
            "this model was imported without a tokenizer: put tokenizer.json beside it and import it again",
        )?;
        let imported = Imported::new(json)?;
        let start = match &metadata.bos_token {
            Some(bos) if metadata.add_bos => Some(imported.id(bos).with_context(|| {
                format!("the model's tokenizer has no token {bos}, which its metadata names")
            })?),
            _ => None,
        };
        Ok(Self {
            kind: Kind::Imported(Box::new(imported)),
            start,
            stop: metadata.stop,
            template: metadata.chat_template,
            bos: metadata.bos_token.unwrap_or_default(),
            eos: metadata.eos_token.unwrap_or_default(),
        })
    }

    /// Tokens of a text, none added. Special tokens of imported models are taken for what they are where the text writes
    /// them; our own models have no text for theirs.
    ///
    /// # Errors
    /// What an imported tokenizer objects to.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Core(tokenizer) => Ok(encode_bytes(tokenizer, text.as_bytes())),
            Kind::Imported(imported) => imported.encode(text),
        }
    }

    /// Tokens of bytes that may be no text.
    ///
    /// # Errors
    /// Bytes that are no UTF-8, where the tokenizer is an imported one.
    pub fn encode_bytes(&self, bytes: &[u8]) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Core(tokenizer) => Ok(encode_bytes(tokenizer, bytes)),
            Kind::Imported(imported) => imported.encode(
                std::str::from_utf8(bytes)
                    .context("the tokenizer of an imported model reads whole characters only")?,
            ),
        }
    }

    /// Tokens of a text that a session reads next: with what begins a document where it has read nothing yet.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode`].
    pub fn prompt(&self, text: &str, position: u64) -> Result<Vec<u32>> {
        let mut ids = self.encode(text)?;
        match self.start {
            Some(start) if position == 0 && ids.first() != Some(&start) => ids.insert(0, start),
            _ => {}
        }
        Ok(ids)
    }

    /// Tokens of what follows the first `read` bytes of what a chat template made. Templates of imported models write
    /// themselves what begins a document; ours has no text.
    ///
    /// # Errors
    /// As [`TextTokenizer::encode`].
    pub fn encode_after(&self, text: &str, read: usize) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Imported(imported) => imported.encode_after(text, read),
            Kind::Core(_) => self.prompt(&text[read..], read as u64),
        }
    }

    /// Bytes of a token; none of special tokens and of ids out of range.
    pub fn decode(&self, token: u32) -> &[u8] {
        match &self.kind {
            Kind::Core(tokenizer) => tokenizer.decode(token),
            Kind::Imported(imported) => imported.decode(token),
        }
    }

    /// Whether a token is special: it is no part of a text.
    pub fn is_special(&self, token: u32) -> bool {
        match &self.kind {
            Kind::Core(tokenizer) => tokenizer.decode(token).is_empty(),
            Kind::Imported(imported) => imported.is_special(token),
        }
    }

    /// Bytes of tokens that begin a text.
    pub fn decode_text(&self, tokens: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|&t| self.decode(t))
            .copied()
            .collect();
        let leading = matches!(&self.kind, Kind::Imported(i) if i.leading_space());
        if leading && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        bytes
    }

    /// Tokens that end what a model writes.
    pub fn stop(&self) -> &[u32] {
        &self.stop
    }

    /// Whether a document that ends, ends in the document token, as our own models were taught.
    pub fn ends_documents(&self) -> bool {
        matches!(self.kind, Kind::Core(_))
    }

    /// The chat template that came with the model.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Texts of the tokens that begin and end a document, where there are such texts.
    pub fn bos_and_eos(&self) -> (&str, &str) {
        (&self.bos, &self.eos)
    }
}

fn encode_bytes(tokenizer: &Tokenizer<'_>, text: &[u8]) -> Vec<u32> {
    let mut ids = vec![0; text.len()];
    let len = tokenizer
        .encode(text, &mut ids)
        .expect("one place a byte is enough");
    ids.truncate(len);
    ids
}
