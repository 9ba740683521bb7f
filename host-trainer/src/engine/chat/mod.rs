//! Conversations with a model.
//!
//! With a template the conversation is a list of messages, which the template renders anew for every turn; the session
//! reads only what it has not read yet. Invariant: what the session has read is the rendered conversation, up to white
//! space around answers, which templates trim. Where a template rewrites what was said before, the session starts again.
//! Without a template the model goes on after whatever it is given.

mod history;
mod template;

pub use history::{History, Loaded};
pub use template::{Message, Role, Template};

use super::generate::{Finish, Generated, generate};
use super::text::{TextTokenizer, Written};
use anyhow::{Result, ensure};
use bitttt_core::{Batch, Sampler, Session};
use std::ops::ControlFlow;

/// How answers are made.
#[derive(Clone, Debug)]
pub struct Answering {
    /// How tokens are chosen.
    pub sampler: Sampler,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Texts that end an answer.
    pub stop: Vec<String>,
}

/// A conversation under way.
pub struct Chat<'m, 's, 't> {
    /// What has read it.
    pub session: Session<'m, 's>,
    tokenizer: &'t TextTokenizer<'m>,
    template: Option<Template>,
    history: History,
    answering: Answering,
    /// Tokens that end an answer.
    stop: Vec<u32>,
    /// Tokens that attention has room for, where it is limited.
    room: Option<usize>,
}

/// A user's turn, ready to be read.
#[derive(Clone, Debug)]
pub struct Turn {
    tokens: Vec<u32>,
    /// Whether everything is read again.
    pub again: bool,
    /// Whether that is because the template writes earlier turns in another way than they were read.
    pub rewritten: bool,
    /// The conversation with the user's message, rendered; nothing without a template.
    rendered: Option<(Vec<Message>, String)>,
}

/// What the model answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its text, without white space around it where a template made the prompt.
    pub text: String,
    /// What the generation did.
    pub generated: Generated,
    /// Whether the context is full.
    pub full: bool,
}

impl<'m, 's, 't> Chat<'m, 's, 't> {
    /// Begins a conversation in a session that was made with `batch`.
    pub fn new(
        session: Session<'m, 's>,
        batch: Batch,
        tokenizer: &'t TextTokenizer<'m>,
        template: Option<Template>,
        answering: Answering,
    ) -> Self {
        let model = session.model();
        let layers = 0..model.config().n_layers;
        let mut records = layers.filter_map(|layer| model.layer_config(layer).ok());
        let limited = records.any(|record| record.needs_context());
        Self {
            room: limited.then(|| batch.context(model.config())),
            session,
            tokenizer,
            stop: stop_tokens(tokenizer, template.as_ref()),
            template,
            history: History::default(),
            answering,
        }
    }

    /// What was said, the system's message first. Empty without a template.
    pub fn messages(&self) -> &[Message] {
        &self.history.messages
    }

    /// Whether there is a template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Tells the model how to behave, from the next turn on; an empty text takes that back.
    ///
    /// # Errors
    /// No template.
    pub fn set_system(&mut self, text: &str) -> Result<()> {
        ensure!(
            self.has_template(),
            "a system message needs a chat template, and this model has none: give one with --template FILE"
        );
        self.history.set_system(text);
        Ok(())
    }

    /// Forgets what was learned and said; the system's message stays.
    pub fn reset(&mut self) {
        self.session.reset();
        self.history.clear();
    }

    /// Prepares what the session is to read next; nothing changes yet.
    ///
    /// # Errors
    /// What the template or the tokenizer objects to, and a context without room for it.
    pub fn ask(&self, line: &str) -> Result<Turn> {
        let turn = match &self.template {
            None => Turn {
                tokens: self.tokenizer.prompt(line, self.session.position())?,
                again: false,
                rewritten: false,
                rendered: None,
            },
            Some(template) => self.rendered(template, line)?,
        };
        if let Some(room) = self.room {
            let position = self.position_before(&turn);
            ensure!(
                position + turn.tokens.len() < room,
                "the context is full: it has room for {room} tokens, {position} are read and this takes {} more; /reset begins \
                 anew, /save FILE keeps the conversation for a start with a larger --context",
                turn.tokens.len()
            );
        }
        Ok(turn)
    }

    fn rendered(&self, template: &Template, line: &str) -> Result<Turn> {
        let mut messages = self.history.messages.clone();
        messages.push(Message::new(Role::User, line));
        let text = template.render(&messages)?;
        let read = self.history.read_of(&text);
        Ok(Turn {
            tokens: self.tokenizer.encode_after(&text, read.unwrap_or(0))?,
            again: read.is_none(),
            rewritten: read.is_none() && self.history.has_read(),
            rendered: Some((messages, text)),
        })
    }

    fn position_before(&self, turn: &Turn) -> usize {
        if turn.again {
            return 0;
        }
        usize::try_from(self.session.position()).unwrap_or(usize::MAX)
    }

    /// Reads a turn and answers; text is given to `show` as it is made.
    ///
    /// # Errors
    /// What the session refuses, or what `show` returns.
    pub fn answer(
        &mut self,
        turn: Turn,
        mut show: impl FnMut(&str) -> Result<()>,
    ) -> Result<Answer> {
        if turn.again {
            self.session.reset();
        }
        let left = self.room.map_or(usize::MAX, |room| {
            room.saturating_sub(self.position_before(&turn) + turn.tokens.len())
        });
        let tokenizer = self.tokenizer;
        let mut written = Written::new(&self.answering.stop);
        let mut text = String::new();
        let trims = turn.rendered.is_some();
        let mut say = |piece: String| {
            let begun = !text.trim_start().is_empty();
            text.push_str(&piece);
            match trims && !begun {
                true => show(piece.trim_start()),
                false => show(&piece),
            }
        };
        let generated = generate(
            &mut self.session,
            &turn.tokens,
            self.answering.max_tokens.min(left),
            &self.stop,
            &mut self.answering.sampler,
            |token| {
                say(written.push(tokenizer.decode(token)))?;
                Ok(match written.stopped() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            },
        )?;
        say(written.finish())?;
        let shown = if trims { text.trim() } else { &text }.to_owned();
        if let Some((messages, prompt)) = turn.rendered {
            self.history.answered(messages, prompt, text);
        }
        Ok(Answer {
            text: shown,
            full: generated.finish == Finish::Length && generated.tokens.len() == left,
            generated,
        })
    }
}

/// Tokens that end an answer: the model's, and the special token that its template writes behind one. Not every model names
/// that among its own.
pub fn stop_tokens(tokenizer: &TextTokenizer<'_>, template: Option<&Template>) -> Vec<u32> {
    let mut stop = tokenizer.stop().to_vec();
    stop.extend(template.and_then(|template| end_of_answer(tokenizer, template)));
    stop
}

fn end_of_answer(tokenizer: &TextTokenizer<'_>, template: &Template) -> Option<u32> {
    let [ask, more] = ["a", "c"].map(|text| Message::new(Role::User, text));
    let mut history = History::default();
    let prompt = template.render(std::slice::from_ref(&ask)).ok()?;
    history.answered(vec![ask], prompt, "b".to_owned());
    let messages = [&history.messages[..], &[more]].concat();
    let text = template.render(&messages).ok()?;
    let after = tokenizer
        .encode_after(&text, history.read_of(&text)?)
        .ok()?;
    after
        .first()
        .copied()
        .filter(|&token| tokenizer.is_special(token))
}
