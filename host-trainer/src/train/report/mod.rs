//! `report.html`: one page of a run, complete in itself, with everything that `metrics.jsonl` has as curves and tables.

mod tables;

use std::path::Path;

use super::metrics::{Line, loss_chart};
use crate::config::Config;
use crate::data::batch::SourceInfo;
use crate::plot::{self, Chart, number};

/// Name of the page in the run's directory.
pub const FILE: &str = "report.html";

/// What the page is made of.
pub struct Report<'a> {
    /// The run's configuration.
    pub config: &'a Config,
    /// What it is trained on.
    pub sources: &'a [SourceInfo],
    /// How often each source was gone through.
    pub epochs: Vec<f64>,
    /// Learned values.
    pub parameters: usize,
    /// Lines of `metrics.jsonl`.
    pub lines: &'a [Line],
}

impl Report<'_> {
    /// Writes the page to `dir`, replacing the one before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let html = self.html(&dir.display().to_string())?;
        Ok(bitttt_export::save_atomically(
            &dir.join(FILE),
            html.as_bytes(),
        )?)
    }

    fn html(&self, name: &str) -> anyhow::Result<String> {
        let (name, style) = (escape(name), include_str!("style.css"));
        let mut sections = String::new();
        for (title, what, chart) in self.charts() {
            if chart.lines.iter().any(|line| !line.points.is_empty()) {
                let svg = chart.svg()?;
                sections += &format!("<section><h2>{title}</h2><p>{what}</p>{svg}</section>\n");
            }
        }
        let config = escape(&toml::to_string(self.config)?);
        Ok(format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{name} - bitttt</title>\n\
             <style>\n{style}</style>\n<main>\n<h1>{name}</h1>\n<p>{}</p>\n{}<div class=\"grid\">\n{sections}{}\
             <section class=\"wide\"><details><summary>Configuration</summary><pre>{config}</pre></details></section>\n\
             </div>\n</main>\n</html>\n",
            self.subtitle(),
            self.cards(),
            self.tables(),
        ))
    }

    fn subtitle(&self) -> String {
        let (model, train) = (&self.config.model, &self.config.train);
        let mixers: Vec<String> = (0..model.n_layers)
            .map(|l| model.mixer_of(l).to_string())
            .collect();
        let mut runs: Vec<(&str, usize)> = Vec::new();
        for mixer in &mixers {
            match runs.last_mut() {
                Some((last, n)) if last == mixer => *n += 1,
                _ => runs.push((mixer, 1)),
            }
        }
        let runs: Vec<String> = runs.iter().map(|(m, n)| format!("{n} {m}")).collect();
        format!(
            "width {}, {} heads, blocks: {}; {} rows of up to {} tokens a step, vocabulary of {}",
            model.d_model,
            model.n_heads,
            runs.join(", "),
            train.batch,
            train.context,
            model.vocab_size
        )
    }

    fn cards(&self) -> String {
        let last = self.lines.last().cloned().unwrap_or_default();
        let held_out = self.lines.iter().rev().find_map(|l| l.val_loss);
        let tokens: u64 = self.lines.iter().map(|l| l.tokens).sum();
        let mut rates: Vec<f64> = self.lines.iter().map(|l| l.tokens_per_second).collect();
        rates.sort_by(f64::total_cmp);
        let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
        let mut cards = vec![
            (format!("{:.4}", last.loss), "training loss, nats a token"),
            (last.step.to_string(), "steps"),
            (number(self.parameters as f64), "parameters"),
            (number(tokens as f64), "tokens trained on"),
            (number(median), "tokens a second, median"),
            (duration(last.seconds), "trained"),
        ];
        if let Some(loss) = held_out {
            let perplexity = number(loss.exp());
            cards.insert(0, (format!("{loss:.4}"), "held-out loss, nats a token"));
            cards.insert(1, (perplexity, "held-out perplexity"));
        }
        let card = |(value, name)| {
            format!("<div class=\"card\"><b>{value}</b><span>{name}</span></div>\n")
        };
        let cards: String = cards.into_iter().map(card).collect();
        format!("<div class=\"cards\">\n{cards}</div>\n")
    }

    /// Title, explanation and curves; those without a point are left out.
    fn charts(&self) -> Vec<(&'static str, &'static str, Chart<'static>)> {
        let over_steps = |y: &'static str, value: fn(&Line) -> f64| {
            let points = self.lines.iter().map(|l| (l.step as f64, value(l)));
            steps(y, vec![plot::Line::new(y, points.collect())])
        };
        let mut loss = loss_chart(self.lines);
        loss.title.clear();
        vec![
            (
                "Loss",
                "Mean of the training rows between two lines of metrics, and of held-out rows.",
                loss,
            ),
            (
                "Loss by position",
                "Held-out loss by place in the row: what the model gains from what it has read.",
                self.positions(),
            ),
            (
                "Inner loss",
                "What inner learning still gets wrong before and after each mini-batch's update, mean of all blocks.",
                self.inner_loss(),
            ),
            (
                "Zero weights",
                "Share of zeros among the ternary weights, mean of all blocks.",
                self.zero_weights(),
            ),
            (
                "Loss by source",
                "Held-out loss of every weighted file.",
                self.by_source(),
            ),
            (
                "Learning rate",
                "Of the last step before each line.",
                over_steps("learning rate", |l| l.lr),
            ),
            (
                "Gradient norm",
                "Over all weights, before clipping.",
                over_steps("gradient norm", |l| l.grad_norm),
            ),
            (
                "Speed",
                "Tokens trained on a second, validation left out.",
                over_steps("tokens a second", |l| l.tokens_per_second),
            ),
        ]
    }

    /// The first, the middle and the last time it was measured.
    fn positions(&self) -> Chart<'static> {
        let probed = |l: &&Line| l.probe.as_ref().is_some_and(|p| !p.by_position.is_empty());
        let probed: Vec<&Line> = self.lines.iter().filter(probed).collect();
        let mut chosen = vec![0, probed.len() / 2, probed.len().saturating_sub(1)];
        chosen.dedup();
        let line = |line: &&Line| {
            let buckets = line.probe.iter().flat_map(|p| &p.by_position);
            let points = buckets.map(|b| (b.middle(), b.loss)).collect();
            plot::Line::new(format!("step {}", line.step), points)
        };
        let lines = chosen.into_iter().filter_map(|i| probed.get(i)).map(line);
        Chart {
            title: String::new(),
            x: "place in the row, tokens",
            y: "nats a token",
            log_x: true,
            lines: lines.collect(),
        }
    }

    fn inner_loss(&self) -> Chart<'static> {
        let blocks = |l: &Line| l.probe.as_ref().map(|p| p.inner_loss.clone());
        let before = self.means(|l| Some(blocks(l)?.iter().map(|b| b.before).collect()));
        let after = self.means(|l| Some(blocks(l)?.iter().map(|b| b.after).collect()));
        // In the colours of the bars in the table.
        let lines = [("after the update", after), ("before", before)];
        let lines = lines.map(|(name, points)| plot::Line::new(name, points));
        steps("inner loss", lines.into())
    }

    fn zero_weights(&self) -> Chart<'static> {
        let line = |name: String| {
            let points = self.means(|l| {
                let zeros = l.probe.iter().flat_map(|p| &p.zero_weights);
                Some(
                    zeros
                        .filter(|z| z.matrix == name)
                        .map(|z| z.share)
                        .collect(),
                )
            });
            plot::Line::new(name, points)
        };
        steps(
            "share of zeros",
            self.matrices().into_iter().map(line).collect(),
        )
    }

    fn by_source(&self) -> Chart<'static> {
        let line = |source: &SourceInfo| {
            let points = self.means(|l| {
                let sources = l.probe.iter().flat_map(|p| &p.by_source);
                Some(
                    sources
                        .filter(|s| s.name == source.name)
                        .map(|s| s.loss)
                        .collect(),
                )
            });
            plot::Line::new(&source.name, points)
        };
        steps("nats a token", self.sources.iter().map(line).collect())
    }

    /// The mean of some values of each line, where it has any, over steps.
    fn means(&self, values: impl Fn(&Line) -> Option<Vec<f64>>) -> Vec<(f64, f64)> {
        let point = |l: &Line| {
            let values = values(l).filter(|v| !v.is_empty())?;
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            Some((l.step as f64, mean))
        };
        self.lines.iter().filter_map(point).collect()
    }
}

fn steps(y: &'static str, lines: Vec<plot::Line>) -> Chart<'static> {
    Chart {
        title: String::new(),
        x: "step",
        y,
        log_x: false,
        lines,
    }
}

fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02} min"),
        (h, m, _) => format!("{h}:{m:02} h"),
    }
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
