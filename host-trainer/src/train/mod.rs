//! The training run: batches, gradients, AdamW, checkpoints, metrics.
//!
//! State after step `s` is a pure function of configuration, data and `s` (except under a time
//! budget): a killed run that is resumed writes the same weights as one that was not.

pub mod adamw;
pub mod checkpoint;
mod claim;
pub mod gradients;
pub mod group;
pub mod metrics;
pub mod probe;
pub mod report;
pub mod schedule;
pub mod speed;
pub mod tensorboard;
mod trainer;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{bail, ensure};
use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::config::{Config, ModelConfig, WeightType};
use crate::data::batch::{Dataset, SourceInfo, same_rows};
use crate::data::source::Source;
use crate::device;
use crate::model::{self, Spec};
use crate::tokenizer::Tokenizer;
use checkpoint::Checkpoint;
use group::{Alone, Group};
use metrics::{Line, Metrics};
use report::Report;

pub use trainer::Trainer;

/// Held-out rows that are kept for the exporter's check.
const HELD_OUT_ROWS: usize = 16;

/// What to train, and where it goes.
pub struct Request {
    /// Model and training; `vocab_size` 0 takes the tokenizer's.
    pub config: Config,
    /// Training and held-out documents.
    pub data: Vec<Source>,
    /// The tokenizer that made `data`.
    pub tokenizer: Tokenizer,
    /// Directory for checkpoint, tokenizer, metrics and curve.
    pub out: PathBuf,
    /// Continue from the checkpoint in `out`.
    pub resume: bool,
    /// Let a resumed run go on with data that it was not started with.
    pub new_data: bool,
    /// Stop after this step, as a kill would, with a checkpoint; the schedule stays that of the
    /// whole run.
    pub stop_after: Option<u64>,
    /// Show a progress bar on stderr.
    pub progress: bool,
    /// Where the model is and runs.
    pub device: Device,
    /// The processes that train it.
    pub group: Box<dyn Group>,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Steps done in all.
    pub steps: u64,
    /// Learned values.
    pub parameters: usize,
    /// Tokens seen in this call.
    pub tokens: u64,
    /// Seconds of this call, validation included.
    pub seconds: f64,
    /// Tokens a second, validation left out.
    pub tokens_per_second: f64,
    /// Last mean training loss, nats a token.
    pub loss: f64,
    /// Held-out loss, nats a token.
    pub val_loss: Option<f64>,
    /// Directory of the checkpoint.
    pub checkpoint: PathBuf,
}

/// Trains. With `train.seconds` set, the run ends with the budget and the learning rate follows
/// elapsed over budget instead of step over steps.
///
/// # Errors
/// One line that names the cause: impossible configuration, too little data, a checkpoint of another
/// configuration, a full disk.
pub fn run(request: Request) -> anyhow::Result<Summary> {
    let mut config = request.config.clone();
    config.model.fit_vocab(request.tokenizer.vocab_size())?;
    config.validate()?;
    device::check(&request.device, &config.model)?; // before anything is written
    device::check_segment(&request.device, config.train.segment)?;
    let data = Dataset::new(
        request.data,
        config.train.val_fraction,
        config.train.context,
    )?;
    ensure!(
        request.group.size() == 1 || config.train.seconds.is_none(),
        "train.seconds: several processes have no clock in common; give train.steps instead"
    );
    let writes = request.group.rank() == 0;
    let _lock = writes.then(|| claim::claim(&request.out)).transpose()?;
    if writes {
        checkpoint::save_held_out(&request.out, &data.held_out_rows(HELD_OUT_ROWS))?;
    }
    let mut run = Run {
        group: request.group,
        ..Run::new(config, data, request.out.clone(), &request.device)?
    };
    if request.resume {
        run.resume(&request.tokenizer, request.new_data)?;
    } else if writes {
        checkpoint::save_tokenizer(&request.out, &request.tokenizer)?;
    }
    let summary = run.train(request.stop_after.unwrap_or(u64::MAX), request.progress)?;
    run.group.leave();
    Ok(summary)
}

struct Run {
    config: Config,
    data: Dataset,
    sources: Vec<SourceInfo>,
    out: PathBuf,
    specs: Vec<Spec>,
    trainer: Trainer,
    group: Box<dyn Group>,
    /// Seconds of earlier calls.
    before: f64,
    started: Instant,
}

/// Sums since the last line of metrics.
struct Window {
    loss: f64,
    steps: u64,
    tokens: u64,
    started: Instant,
}

impl Window {
    fn new() -> Self {
        Self {
            loss: 0.0,
            steps: 0,
            tokens: 0,
            started: Instant::now(),
        }
    }
}

impl Run {
    fn new(config: Config, data: Dataset, out: PathBuf, device: &Device) -> anyhow::Result<Self> {
        Ok(Self {
            trainer: Trainer::new(config.clone(), device)?,
            specs: model::specs(&config.model),
            config,
            sources: data.describe(),
            data,
            out,
            group: Box::new(Alone),
            before: 0.0,
            started: Instant::now(),
        })
    }

    fn resume(&mut self, tokenizer: &Tokenizer, new_data: bool) -> anyhow::Result<()> {
        let saved = Checkpoint::load(&self.out)?;
        same_model(&saved.config.model, &self.config.model)?;
        ensure!(
            saved.tokenizer()?.fingerprint() == tokenizer.fingerprint(),
            "the checkpoint in {} was trained with another tokenizer; pass that one with --tokenizer",
            self.out.display()
        );
        ensure!(
            new_data || saved.data.is_empty() || same_rows(&saved.data, &self.sources),
            "the data is not what the checkpoint in {} was trained on; pass the same files and weights, or --new-data to \
             go on with these",
            self.out.display()
        );
        self.before = saved.seconds;
        self.trainer.restore(&saved)
    }

    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Share of the run that is done.
    fn done(&self) -> f64 {
        match self.config.train.seconds {
            Some(budget) => self.seconds() / budget,
            None => self.trainer.step() as f64 / self.config.train.steps as f64,
        }
    }

    fn train(&mut self, stop_after: u64, progress: bool) -> anyhow::Result<Summary> {
        let first = self.trainer.step();
        self.started = Instant::now();
        let writes = self.group.rank() == 0;
        let metrics = writes.then(|| Metrics::open(&self.out, self.trainer.step()));
        let mut metrics = metrics.transpose()?;
        let bar = self.bar(progress && writes);
        let (mut window, mut last) = (Window::new(), None);
        let (mut tokens, mut trained) = (0, 0.0);
        while self.done() < 1.0 && self.trainer.step() < stop_after {
            let started = Instant::now();
            self.data.check()?;
            let batch = self.data.batch(
                self.config.train.seed,
                self.trainer.step(),
                self.config.train.batch,
            );
            let lr = schedule::learning_rate(&self.config.train, self.done());
            let (loss, grad_norm) = self.trainer.update(&*self.group, &batch, lr)?;
            window.loss += loss;
            window.steps += 1;
            window.tokens += batch.counted() as u64;
            tokens += batch.counted() as u64;
            trained += started.elapsed().as_secs_f64();
            let ends = self.done() >= 1.0 || self.trainer.step() >= stop_after;
            self.show(&bar, &window);
            if ends || self.due(self.config.train.log_every) {
                let mut losses = (window.loss / window.steps as f64, None);
                if let Some(metrics) = &mut metrics {
                    let line = self.line(&window, lr, grad_norm, ends)?;
                    losses.1 = line.val_loss;
                    metrics.push(line)?;
                }
                (window, last) = (Window::new(), Some(losses));
            }
            if let Some(metrics) = &metrics
                && (ends || self.due(self.config.train.checkpoint_every))
            {
                self.save()?;
                self.report(metrics.lines())?;
            }
        }
        bar.finish_and_clear();
        let Some((loss, val_loss)) = last else {
            bail!("nothing to do: the run is at step {first} already; raise --steps or --seconds");
        };
        Ok(Summary {
            steps: self.trainer.step(),
            parameters: self.trainer.parameters(),
            tokens,
            seconds: self.started.elapsed().as_secs_f64(),
            tokens_per_second: tokens as f64 / trained,
            loss,
            val_loss,
            checkpoint: self.out.clone(),
        })
    }

    fn due(&self, every: u64) -> bool {
        every > 0 && self.trainer.step().is_multiple_of(every)
    }

    fn line(&self, window: &Window, lr: f64, grad_norm: f64, ends: bool) -> anyhow::Result<Line> {
        let seconds = window.started.elapsed().as_secs_f64();
        let probed = ends || self.due(self.config.train.eval_every);
        self.data.check()?;
        let host = if probed {
            self.trainer.on_host()?
        } else {
            None
        };
        let subject = probe::Subject {
            config: &self.config.train,
            data: &self.data,
            model: self.trainer.model(),
            host: host.as_ref().unwrap_or(self.trainer.model()),
            specs: &self.specs,
            ternary: self.config.model.weights == WeightType::Ternary,
            vars: self.trainer.vars(),
        };
        let (val_loss, probe) = match probed.then(|| subject.probe()).transpose()? {
            Some((val_loss, probe)) => (val_loss, Some(probe)),
            None => (None, None),
        };
        Ok(Line {
            step: self.trainer.step(),
            loss: window.loss / window.steps as f64,
            val_loss,
            lr,
            grad_norm,
            tokens: window.tokens,
            tokens_per_second: window.tokens as f64 / seconds,
            seconds: self.seconds(),
            time: metrics::now(),
            probe,
        })
    }

    /// Draws what the lines of metrics say.
    fn report(&self, lines: &[Line]) -> anyhow::Result<()> {
        metrics::loss_chart(lines).save(&self.out.join("loss.svg"))?;
        let report = Report {
            config: &self.config,
            sources: &self.sources,
            epochs: self
                .data
                .epochs(self.trainer.step(), self.config.train.batch),
            parameters: self.trainer.parameters(),
            lines,
        };
        report.save(&self.out)
    }

    fn save(&self) -> anyhow::Result<()> {
        self.trainer
            .write(&self.out, true, self.seconds(), &self.sources)
    }

    fn bar(&self, visible: bool) -> ProgressBar {
        if !visible {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(1000);
        let template = "{bar:30} {percent}% {msg}, {elapsed} gone, {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
        bar
    }

    fn show(&self, bar: &ProgressBar, window: &Window) {
        bar.set_position((self.done() * 1000.0) as u64);
        let rate = window.tokens as f64 / window.started.elapsed().as_secs_f64();
        let loss = window.loss / window.steps as f64;
        bar.set_message(format!(
            "step {}, loss {loss:.3}, {rate:.0} tokens/s",
            self.trainer.step()
        ));
    }
}

/// Names the first field in which the models differ.
fn same_model(saved: &ModelConfig, asked: &ModelConfig) -> anyhow::Result<()> {
    let (saved, asked) = (serde_json::to_value(saved)?, serde_json::to_value(asked)?);
    let fields = saved.as_object().into_iter().flatten();
    for (name, value) in fields {
        ensure!(
            &asked[name] == value,
            "the checkpoint has model.{name} = {value}, the configuration {}; use the same, or another --out",
            asked[name]
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
