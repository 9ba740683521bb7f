//! What a run tells: `metrics.jsonl`, one JSON object a line, and `loss.svg`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bitttt_export::save::{save_atomically, write_fault};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

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
        let mut svg = String::new();
        if !train.is_empty() {
            draw(&mut svg, &train, &held_out).map_err(|e| anyhow::anyhow!("{e}"))?;
        }
        Ok(save_atomically(path, svg.as_bytes())?)
    }
}

fn json_line(line: &Line) -> String {
    serde_json::to_string(line).expect("plain numbers") + "\n"
}

type Points = [(f64, f64)];

fn draw(
    svg: &mut String,
    train: &Points,
    held_out: &Points,
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || train.iter().chain(held_out);
    let last = all().map(|p| p.0).fold(1.0, f64::max);
    let high = all().map(|p| p.1).fold(0.0, f64::max);
    let low = all().map(|p| p.1).fold(high, f64::min);
    let area = SVGBackend::with_string(svg, (800, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .caption("loss (nats a token)", ("sans-serif", 20))
        .build_cartesian_2d(0.0..last, low * 0.95..high * 1.02 + 1e-6)?;
    chart.configure_mesh().x_desc("step").draw()?;
    let curves = [(train, "training", BLUE), (held_out, "held out", RED)];
    for (points, name, colour) in curves {
        chart
            .draw_series(LineSeries::new(
                points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}
