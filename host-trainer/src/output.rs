//! Where results go: human text, or with `--json` one JSON document on stdout and text on stderr.

use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use serde::Serialize;

/// The user's choice of output, handed to every command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// Print one JSON document on stdout; human text goes to stderr.
    pub json: bool,
}

impl Output {
    /// Prints a line for a human, who may have stopped reading.
    pub fn say(&self, text: impl std::fmt::Display) {
        let _ = if self.json {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }

    /// Prints the machine-readable result of the command, when asked for.
    ///
    /// # Errors
    /// When `value` has no JSON form, or stdout cannot be written; a reader that has gone is no error.
    pub fn result(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(value)?;
        match writeln!(std::io::stdout(), "{text}") {
            Err(fault) if fault.kind() != ErrorKind::BrokenPipe => {
                Err(fault).context("cannot write the result to stdout")
            }
            _ => Ok(()),
        }
    }
}
