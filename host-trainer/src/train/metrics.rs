//! What a run tells while it goes on: `metrics.jsonl`, one JSON object a line, and the same values as a TensorBoard event
//! file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bitttt_export::save::{save_atomically, write_fault};
use serde::{Deserialize, Serialize};

use super::probe::Probe;
use super::tensorboard::{Events, Scalars};
use crate::plot::{self, Chart};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Tokens trained on since the line before.
    #[serde(default)]
    pub tokens: u64,
    /// Tokens a second since the line before, validation left out.
    pub tokens_per_second: f64,
    /// Seconds trained.
    pub seconds: f64,
    /// When the line was written, in seconds since 1970.
    #[serde(default)]
    pub time: f64,
    /// What a validation found, when there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe: Option<Probe>,
}

impl Line {
    fn scalars(&self) -> Scalars {
        let mut values: Vec<(String, f64)> = vec![
            ("loss/train".into(), self.loss),
            ("optimizer/learning_rate".into(), self.lr),
            ("optimizer/gradient_norm".into(), self.grad_norm),
            ("speed/tokens_per_second".into(), self.tokens_per_second),
        ];
        values.extend(self.val_loss.map(|loss| ("loss/held_out".into(), loss)));
        if let Some(probe) = &self.probe {
            values.extend(probe.scalars());
        }
        Scalars {
            time: self.time,
            step: self.step,
            values,
        }
    }
}

impl Probe {
    fn scalars(&self) -> Vec<(String, f64)> {
        let source = |s: &super::probe::SourceLoss| (format!("loss_by_source/{}", s.name), s.loss);
        let mut all: Vec<_> = self.by_source.iter().map(source).collect();
        // Zeros in front keep the tags in order of position.
        let position = |b: &crate::engine::by_position::Bucket| {
            (
                format!("loss_by_position/{:06}-{:06}", b.from, b.to),
                b.loss,
            )
        };
        all.extend(self.by_position.iter().map(position));
        for block in &self.inner_loss {
            for (when, loss) in [("before", block.before), ("after", block.after)] {
                all.push((format!("inner_loss/layer_{:02}_{when}", block.layer), loss));
            }
        }
        for z in &self.zero_weights {
            all.push((
                format!("zero_weights/layer_{:02}.{}", z.layer, z.matrix),
                z.share,
            ));
        }
        all
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |d| d.as_secs_f64())
}

/// The growing `metrics.jsonl` and its event file.
pub struct Metrics {
    path: PathBuf,
    lines: Vec<Line>,
    events: Events,
}

impl Metrics {
    /// Starts anew, or after the lines up to `step` when a run is resumed there.
    ///
    /// # Errors
    /// When a file cannot be read or written.
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
        let told: Vec<Scalars> = lines.iter().map(Line::scalars).collect();
        Ok(Self {
            path,
            lines,
            events: Events::create(dir, now(), &told)?,
        })
    }

    /// Lines so far, those of earlier calls included.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn push(&mut self, line: Line) -> anyhow::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&self.path)
            .map_err(|e| write_fault(&self.path, e))?;
        file.write_all(json_line(&line).as_bytes())
            .map_err(|e| write_fault(&self.path, e))?;
        self.events.push(&line.scalars())?;
        self.lines.push(line);
        Ok(())
    }
}

/// Training and held-out loss over steps.
pub fn loss_chart(lines: &[Line]) -> Chart<'static> {
    let train = lines.iter().map(|l| (l.step as f64, l.loss)).collect();
    let held_out = |l: &Line| l.val_loss.map(|loss| (l.step as f64, loss));
    let held_out = lines.iter().filter_map(held_out).collect();
    Chart {
        title: "Loss".into(),
        x: "step",
        y: "nats a token",
        log_x: false,
        lines: vec![
            plot::Line::new("training", train),
            plot::Line::new("held out", held_out),
        ],
    }
}

fn json_line(line: &Line) -> String {
    serde_json::to_string(line).expect("plain numbers") + "\n"
}
