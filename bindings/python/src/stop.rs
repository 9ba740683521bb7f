//! Where generation is asked to end: tokens, and strings that the text is searched for.

use crate::error::input;
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
