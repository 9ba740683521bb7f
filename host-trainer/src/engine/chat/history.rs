//! What was said, and how much of it the session has read; kept beside a saved state.

use super::{Chat, Message, Role};
use crate::engine::blob::{load_state, save_state};
use anyhow::{Context as _, Result};
use bitttt_core::snapshot::SnapshotError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The messages of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// All messages in order; answers as the model wrote them.
    pub messages: Vec<Message>,
    /// What the session has read, if it has.
    read: Option<ReadText>,
}

/// The last prompt as the template rendered it, and the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReadText {
    prompt: String,
    answer: String,
}

impl History {
    /// How many bytes of a rendered conversation have been read: `None` where it does not go on from what was read, `0`
    /// where nothing was.
    pub fn read_of(&self, rendered: &str) -> Option<usize> {
        let Some(read) = &self.read else {
            let begun = self.messages.iter().any(|m| m.role != Role::System);
            return (!begun).then_some(0);
        };
        let answer = &read.answer;
        let after = rendered.strip_prefix(&read.prompt)?;
        // Whether a template trims answers, and at which end, is its business.
        let forms = [
            answer,
            answer.trim_end(),
            answer.trim_start(),
            answer.trim(),
        ];
        let form = forms.into_iter().find(|form| after.starts_with(form))?;
        Some(read.prompt.len() + form.len())
    }

    /// Whether the session has read it.
    pub fn has_read(&self) -> bool {
        self.read.is_some()
    }

    /// Takes up a turn that was answered.
    pub fn answered(&mut self, mut messages: Vec<Message>, prompt: String, answer: String) {
        messages.push(Message::new(Role::Assistant, answer.clone()));
        self.messages = messages;
        self.read = Some(ReadText { prompt, answer });
    }

    /// Sets the system's message, which comes first; an empty one is none.
    pub fn set_system(&mut self, text: &str) {
        self.messages.retain(|m| m.role != Role::System);
        if !text.is_empty() {
            self.messages.insert(0, Message::new(Role::System, text));
        }
    }

    /// Forgets everything but the system's message.
    pub fn clear(&mut self) {
        self.messages.retain(|m| m.role == Role::System);
        self.read = None;
    }
}

/// A history in a file, with the state that has read it.
#[derive(Serialize, Deserialize)]
struct Saved {
    model: String,
    state_hash: String,
    #[serde(flatten)]
    history: History,
}

/// What a saved state brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// The learned state; there is no template, so that nothing else is to be known.
    State,
    /// State and conversation.
    Conversation,
    /// The state only: no history lies beside it, or that of another state.
    NoHistory,
    /// The conversation only: the state was taken with other room for context. It is read again with the next turn.
    NoState,
}

/// Where the history of a saved state lies: `FILE.chat.json`.
pub fn history_file(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(".chat.json");
    name.into()
}

impl Chat<'_, '_, '_> {
    /// Saves the state, and with a template the conversation beside it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        save_state(&self.session, path)?;
        if !self.has_template() {
            return Ok(());
        }
        let saved = Saved {
            model: self.model_name(),
            state_hash: self.state_name(),
            history: self.history.clone(),
        };
        let text = serde_json::to_string_pretty(&saved)?;
        Ok(bitttt_export::save_atomically(
            &history_file(path),
            text.as_bytes(),
        )?)
    }

    /// Takes up a saved state, and with a template the conversation beside it.
    ///
    /// # Errors
    /// A state that cannot be read or does not fit, a history that cannot be read; the conversation stays as it was.
    pub fn load(&mut self, path: &Path) -> Result<Loaded> {
        let saved = match self.has_template() {
            true => read_saved(&history_file(path))?,
            false => None,
        };
        let saved = saved.filter(|saved| saved.model == self.model_name());
        match (load_state(&mut self.session, path), saved) {
            (Ok(()), Some(saved)) if saved.state_hash == self.state_name() => {
                self.history = saved.history;
                Ok(Loaded::Conversation)
            }
            (Ok(()), _) => {
                self.history.clear();
                Ok(match self.has_template() {
                    true => Loaded::NoHistory,
                    false => Loaded::State,
                })
            }
            (Err(error), Some(saved)) if is_length(&error) => {
                self.session.reset();
                self.history = saved.history;
                self.history.read = None;
                Ok(Loaded::NoState)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn model_name(&self) -> String {
        format!("{:08x}", self.session.model().fingerprint())
    }

    fn state_name(&self) -> String {
        format!("{:08x}", self.session.state_hash())
    }
}

fn is_length(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SnapshotError::Length))
}

fn read_saved(path: &Path) -> Result<Option<Saved>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let saved = serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "history {} is damaged; remove it to go on from the state alone",
            path.display()
        )
    })?;
    Ok(Some(saved))
}
