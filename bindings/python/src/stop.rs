//! Where generation ends: tokens, and strings that text is searched for.

use crate::error::input;
use bitttt::engine::text::Utf8Stream;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// What ends a generation.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Tokens.
    pub tokens: Vec<u32>,
    /// Strings; none is empty.
    pub strings: Vec<String>,
}

impl Stop {
    /// Takes a token, a string, or a sequence of both; `default` where there is none.
    ///
    /// # Errors
    /// `TypeError` for anything else; an empty string.
    pub fn of(given: Option<&Bound<'_, PyAny>>, default: Vec<u32>) -> PyResult<Self> {
        let mut stop = Self::default();
        match given {
            None => stop.tokens = default,
            Some(one) if one.is_instance_of::<PyString>() => stop.take(one)?,
            Some(given) => match given.try_iter() {
                Ok(items) => items.into_iter().try_for_each(|item| stop.take(&item?))?,
                Err(_) => stop.take(given)?,
            },
        }
        Ok(stop)
    }

    fn take(&mut self, one: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = one.cast::<PyString>() {
            let text: String = text.extract()?;
            if text.is_empty() {
                return Err(input("a stop string is empty: leave it out"));
            }
            self.strings.push(text);
            return Ok(());
        }
        self.tokens.push(one.extract()?);
        Ok(())
    }
}

/// Text made of tokens: characters that are split over tokens are held back, and so is what may be the beginning of a
/// string that ends the text.
pub struct Text {
    stream: Utf8Stream,
    strings: Vec<String>,
    held: String,
}

impl Text {
    /// Text that ends before the first of these strings.
    pub fn new(strings: Vec<String>) -> Self {
        Self {
            stream: Utf8Stream::default(),
            strings,
            held: String::new(),
        }
    }

    /// Takes a token's bytes; returns the text that is certain now, and whether it ends there.
    pub fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        let piece = self.stream.push(bytes);
        self.held.push_str(&piece);
        let found = self.strings.iter().filter_map(|s| self.held.find(s)).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.strings.iter().map(|s| begun(&self.held, s)).max();
        let rest = self.held.split_off(self.held.len() - keep.unwrap_or(0));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is left when the tokens end.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.stream).finish();
        std::mem::take(&mut self.held) + &rest
    }
}

/// Bytes at the end of `text` that `string` begins with.
fn begun(text: &str, string: &str) -> usize {
    let most = text.len().min(string.len() - 1);
    let lengths = (1..=most).rev().filter(|&n| string.is_char_boundary(n));
    let mut begun = lengths.filter(|&n| text.ends_with(&string[..n]));
    begun.next().unwrap_or(0)
}
