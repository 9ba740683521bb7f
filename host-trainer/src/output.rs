//! Where results go: human text, or with `--json` one JSON document on stdout and text on stderr.

use serde::Serialize;

/// The user's choice of output, handed to every command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// Print one JSON document on stdout; human text goes to stderr.
    pub json: bool,
}

impl Output {
    /// Prints a line for a human.
    pub fn say(&self, text: impl std::fmt::Display) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    /// Prints the machine-readable result of the command, when asked for.
    ///
    /// # Errors
    /// When `value` has no JSON form.
    pub fn result(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(value)?);
        }
        Ok(())
    }
}
