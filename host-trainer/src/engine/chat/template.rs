//! A model's chat template: messages to the text that the model was taught to answer.
//!
//! Templates are Jinja as Hugging Face renders it (`apply_chat_template`): blocks trim the newline behind them and the
//! white space before them, Python's string methods work, and `raise_exception`, `strftime_now`, `bos_token` and
//! `eos_token` are there. Invariant: a template can neither read files nor run for ever.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

/// What templates may spend on one rendering: one for each instruction and for each 64 bytes made.
const FUEL: u64 = 20_000_000;
/// Its name in error messages.
const NAME: &str = "chat template";

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// How the model should behave.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As templates call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One thing said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// By whom.
    pub role: Role,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// A template that has been parsed.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl Template {
    /// Parses a template; `bos` and `eos` are the texts of the tokens that begin and end a document.
    ///
    /// # Errors
    /// What is wrong with the template, and in which line.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()?,
        );
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| one_line(&error))?;
        Ok(Self {
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// Reads a template from a file.
    ///
    /// # Errors
    /// As [`Template::new`], or a file that cannot be read.
    pub fn open(path: &Path, bos: &str, eos: &str) -> Result<Self> {
        let source = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read template {}", path.display()))?;
        Self::new(&source, bos, eos).with_context(|| format!("template {}", path.display()))
    }

    /// The conversation as text, with what leads the model's answer at its end.
    ///
    /// # Errors
    /// What the template objects to, in one line.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let messages = messages
            .iter()
            .map(|m| context! { role => m.role.name(), content => m.content.as_str() });
        let values = context! {
            messages => messages.collect::<Vec<_>>(),
            add_generation_prompt => true,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => (),
            documents => (),
        };
        let template = self.environment.get_template(NAME);
        template
            .and_then(|template| template.render(values))
            .map_err(|error| one_line(&error))
    }
}

/// Some templates mark what the model says for training, by tags that only Hugging Face knows; they print nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((inside, after)) = tag.split_once("%}") else {
            break;
        };
        let replaced = match inside.trim_matches(['-', '+']).trim() {
            "generation" => inside.replacen("generation", "if true", 1),
            "endgeneration" => inside.replacen("endgeneration", "endif", 1),
            _ => inside.to_owned(),
        };
        out += &format!("{before}{{%{replaced}%}}");
        rest = after;
    }
    out + rest
}

/// What a template calls on a conversation that it cannot write.
fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time, as C's `strftime` writes it.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now()).map_err(|error| {
        minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now({format:?}): {error}"),
        )
    })
}

/// An error and its causes.
fn one_line(error: &minijinja::Error) -> anyhow::Error {
    let what = error.detail().map_or(error.kind().to_string(), Into::into);
    match error.line() {
        Some(line) => anyhow!("{NAME}, line {line}: {what}"),
        None => anyhow!("{NAME}: {what}"),
    }
}

#[cfg(test)]
mod tests;
