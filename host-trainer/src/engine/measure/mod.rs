//! How fast a model runs here, against how fast its bytes can be read at all.
//!
//! Runs of the model and plain reads of its bytes alternate, so that whatever else the machine does meets both; figures
//! are medians.

mod bandwidth;
mod start;
pub mod traffic;

use super::blob::{Blob, HOST_BATCH, memory_for};
use super::machine::Machine;
use anyhow::Result;
use bandwidth::Reader;
use bitttt_core::{Batch, Model, Parallel, Session};
use serde::Serialize;
use start::Start;
use std::time::{Duration, Instant};
use traffic::Traffic;

/// Most tokens of one timed run of decoding.
const MAX_RUN: usize = 128;
/// A run of decoding lasts this share of the time given, if [`MAX_RUN`] tokens are not faster.
const RUNS: f64 = 8.0;
/// A read of the model's bytes lasts at least that long, so that handing it to threads costs nothing.
const READ_TIME: Duration = Duration::from_millis(5);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Test {
    /// One token after the other
    Decode,
    /// A prompt, many tokens at once
    Prefill,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Kernels.
    pub backend: &'static str,
    /// Threads.
    pub threads: usize,
    /// What was measured.
    pub test: Test,
    /// Median.
    pub tokens_per_s: f64,
    /// Bytes of weights that are read for a token: see [`Traffic`].
    pub weight_bytes_per_token: f64,
    /// What the same threads read of the blob's bytes in a plain sum, 10^9 bytes a second.
    pub read_gb_s: f64,
    /// Weight bytes a second over that.
    pub bandwidth_share: f64,
    /// Tokens read before, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Learned state and caches of a session with that context, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_bytes: Option<usize>,
}

/// Measures one model on one machine.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The model.
    pub blob: &'a Blob,
    /// What it runs on.
    pub machine: &'a Machine,
    /// Time for each figure.
    pub time: Duration,
}

impl Bench<'_> {
    /// Tokens a second of prefill of `tokens` tokens from the start of a document.
    ///
    /// # Errors
    /// Too little memory.
    pub fn prefill(&self, tokens: usize) -> Result<Figure> {
        let model = self.blob.model();
        let batch = HOST_BATCH.with_context(tokens);
        let mut memory = memory_for(&model, batch)?;
        let mut session = self.machine.session(model, batch, &mut memory)?;
        let prompt = some_tokens(&model, tokens);
        session.prefill(&prompt[..1])?;
        let (rate, read) = self.alternate(|| {
            session.reset();
            let start = Instant::now();
            session.prefill(&prompt)?;
            Ok(tokens as f64 / start.elapsed().as_secs_f64())
        })?;
        let bytes = Traffic::of(&model).prefill(tokens, batch.tokens());
        Ok(self.figure(Test::Prefill, rate, bytes, read))
    }

    /// Tokens a second of decoding at the start of a document, or after `context` tokens of one. Choosing the tokens is
    /// not part of it.
    ///
    /// # Errors
    /// Too little memory.
    pub fn decode(&self, context: Option<usize>) -> Result<Figure> {
        let model = self.blob.model();
        let start = Start::after(context, MAX_RUN);
        let batch = HOST_BATCH.with_context(start.capacity);
        let mut memory = memory_for(&model, batch)?;
        let mut session = self.machine.session(model, batch, &mut memory)?;
        let snapshot = start.snapshot(&mut session)?;
        let tokens = some_tokens(&model, MAX_RUN);
        start.take(&mut session, snapshot.as_deref(), MAX_RUN)?;
        let run = self.run_length(&mut session, &tokens)?;
        let (rate, read) = self.alternate(|| {
            start.take(&mut session, snapshot.as_deref(), run)?;
            let start = Instant::now();
            for &token in &tokens[..run] {
                session.step(token)?;
            }
            Ok(run as f64 / start.elapsed().as_secs_f64())
        })?;
        let mut figure = self.figure(Test::Decode, rate, Traffic::of(&model).decode(), read);
        figure.context = context;
        figure.state_bytes =
            context.map(|context| model.memory(Batch::ONE.with_context(context)).state * 4);
        Ok(figure)
    }

    /// How many tokens a run of decoding takes; running them also warms everything up.
    fn run_length(&self, session: &mut Session<'_, '_>, tokens: &[u32]) -> Result<usize> {
        let limit = self.time.div_f64(RUNS);
        let start = Instant::now();
        let mut run = 0;
        while run < tokens.len() && (run == 0 || start.elapsed() < limit) {
            session.step(tokens[run])?;
            run += 1;
        }
        Ok(run)
    }

    /// Medians of what `work` returns and of the read bandwidth, taken in turn until the time is up.
    fn alternate(&self, mut work: impl FnMut() -> Result<f64>) -> Result<(f64, f64)> {
        let reader = Reader::new(&self.machine.pool, self.blob.bytes(), READ_TIME);
        let (mut rates, mut reads) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while rates.is_empty() || start.elapsed() < self.time {
            rates.push(work()?);
            reads.push(reader.speed());
        }
        Ok((median(rates), median(reads)))
    }

    fn figure(&self, test: Test, tokens_per_s: f64, bytes: f64, read: f64) -> Figure {
        Figure {
            backend: self.machine.backend.name(),
            threads: self.machine.pool.width(),
            test,
            tokens_per_s,
            weight_bytes_per_token: bytes,
            read_gb_s: read,
            bandwidth_share: tokens_per_s * bytes / 1e9 / read,
            context: None,
            state_bytes: None,
        }
    }
}

/// Tokens that are all over the vocabulary.
fn some_tokens(model: &Model<'_>, count: usize) -> Vec<u32> {
    let vocab_size = u64::from(model.config().vocab_size);
    let mut rng = crate::rng::Rng::new(1, 0);
    (0..count).map(|_| rng.below(vocab_size) as u32).collect()
}

/// The middle one, or the mean of the middle two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    (values[low] + values[high]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
    }
}
