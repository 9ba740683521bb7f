//! A model's tokenizer and chat template, made when text is first asked for: those of imported models take a while.

use bitttt::engine::Blob;
use bitttt::engine::chat::{Template, stop_tokens};
use bitttt::engine::text::TextTokenizer;
use self_cell::self_cell;
use std::sync::Arc;

self_cell!(
    struct Tokenizer {
        owner: Arc<Blob>,
        #[covariant]
        dependent: TextTokenizer,
    }
);

/// What a model needs to read and write text.
pub struct Words {
    tokenizer: Tokenizer,
    template: Option<Template>,
    stop: Vec<u32>,
}

impl Words {
    /// Those of a model.
    ///
    /// # Errors
    /// A model without a tokenizer, or what is wrong with tokenizer or template.
    pub fn of(blob: Arc<Blob>) -> anyhow::Result<Self> {
        let tokenizer = Tokenizer::try_new(blob, |blob| blob.tokenizer())?;
        let text = tokenizer.borrow_dependent();
        let (bos, eos) = text.bos_and_eos();
        let template = text
            .template()
            .map(|source| Template::new(source, bos, eos));
        let template = template.transpose()?;
        Ok(Self {
            stop: stop_tokens(text, template.as_ref()),
            template,
            tokenizer,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer<'_> {
        self.tokenizer.borrow_dependent()
    }

    /// The chat template, if the model came with one.
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// Tokens that end what the model writes.
    pub fn stop(&self) -> &[u32] {
        &self.stop
    }
}
