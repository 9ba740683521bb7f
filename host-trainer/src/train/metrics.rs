//! What a run tells: `metrics.jsonl`, one JSON object a line, and `loss.svg`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bitttt_export::save::{save_atomically, write_fault};
use serde::{Deserialize, Serialize};

use crate::plot;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Steps done.
    pub step: u64,
    /// Mean training loss since the line before, nats a token.
    pub loss: f64,
    /// Held-out loss, nats a token, when it was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub val_loss: Option<f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Global gradient norm of the last step, before clipping.
    pub grad_norm: f64,
    /// Tokens a second since the line before.
    pub tokens_per_second: f64,
    /// Seconds trained.
    pub seconds: f64,
}

/// The growing `metrics.jsonl`.
pub struct Metrics {
    path: PathBuf,
    lines: Vec<Line>,
}

impl Metrics {
    /// Starts anew, or after the lines up to `step` when a run is resumed there.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(dir: &Path, step: u64) -> anyhow::Result<Self> {
        let path = dir.join("metrics.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) if step > 0 => text,
            _ => String::new(),
        };
        // A line cut short by a kill is no line.
        let parsed = |text: &str| {
            Some((
                text.to_owned() + "\n",
                serde_json::from_str::<Line>(text).ok()?,
            ))
        };
        let (kept, lines): (String, Vec<Line>) = text
            .lines()
            .filter_map(parsed)
            .filter(|(_, line)| line.step <= step)
            .unzip();
        save_atomically(&path, kept.as_bytes())?;
        Ok(Self { path, lines })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, line: Line) -> anyhow::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&self.path)
            .map_err(|e| write_fault(&self.path, e))?;
        file.write_all(json_line(&line).as_bytes())
            .map_err(|e| write_fault(&self.path, e))?;
        self.lines.push(line);
        Ok(())
    }

    /// Draws training and held-out loss over steps.
    ///
    /// # Errors
    /// When the picture cannot be written.
    pub fn draw(&self, path: &Path) -> anyhow::Result<()> {
        let train: Vec<_> = self.lines.iter().map(|l| (l.step as f64, l.loss)).collect();
        let held_out = |l: &Line| l.val_loss.map(|loss| (l.step as f64, loss));
        let held_out: Vec<_> = self.lines.iter().filter_map(held_out).collect();
        let curves = [("training", train), ("held out", held_out)];
        let curves = curves.map(|(name, points)| plot::Line { name, points });
        plot::lines(path, "Training", "step", "nats a token", false, &curves)
    }
}

fn json_line(line: &Line) -> String {
    serde_json::to_string(line).expect("plain numbers") + "\n"
}
