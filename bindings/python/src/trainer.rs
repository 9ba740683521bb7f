//! Training on tokens that Python gives, batch by batch.

use crate::arrays::Integers;
use crate::config::{Config, to_python};
use crate::error::{Refusal, compute, input, only_user};
use bitttt::cmd::export::Packed;
use bitttt::data::batch::Batch;
use bitttt::engine::export::{Storage, Trained, write};
use bitttt::ops::loss::IGNORE;
use bitttt::tokenizer::Tokenizer;
use bitttt::train::Trainer as Learner;
use bitttt::train::checkpoint::{self, Checkpoint};
use bitttt::train::group::Alone;
use bitttt::{device, process};
use pyo3::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Rows that the exporter compares core and trainer on.
const ROWS: usize = 16;

/// Trains a model.
#[pyclass(frozen, module = "bitttt")]
pub struct Trainer {
    inner: Mutex<Inner>,
    vocab_size: u32,
}

struct Inner {
    learner: Learner,
    tokenizer: Option<Tokenizer>,
    /// The first of the last batch.
    rows: Vec<Vec<u32>>,
}

#[pymethods]
impl Trainer {
    #[new]
    #[pyo3(signature = (config, device="cpu", *, tokenizer=None))]
    fn new(
        py: Python<'_>,
        config: &Config,
        device: &str,
        tokenizer: Option<PathBuf>,
    ) -> PyResult<Self> {
        let mut run = config.run.clone();
        let made = compute(py, || {
            let tokenizer = tokenizer.as_deref().map(open_tokenizer).transpose()?;
            if let Some(tokenizer) = &tokenizer {
                run.model.fit_vocab(tokenizer.vocab_size())?;
            }
            process::keep_freed_memory();
            let learner = Learner::new(run, &device::open(device)?)?;
            Ok(Inner {
                learner,
                tokenizer,
                rows: Vec::new(),
            })
        })?;
        Ok(Self::of(made.or_input()?))
    }

    /// Goes on from what `save` or `bitttt train` wrote.
    #[staticmethod]
    #[pyo3(signature = (path, device="cpu"))]
    fn load(py: Python<'_>, path: PathBuf, device: &str) -> PyResult<Self> {
        let made = compute(py, || {
            let saved = Checkpoint::load(&path)?;
            process::keep_freed_memory();
            let mut learner = Learner::new(saved.config.clone(), &device::open(device)?)?;
            learner.restore(&saved)?;
            Ok(Inner {
                learner,
                tokenizer: saved.tokenizer,
                rows: checkpoint::held_out(&path).unwrap_or_default(),
            })
        })?;
        Ok(Self::of(made.or_file()?))
    }

    /// One step on tokens [batch, seq], each to predict the next or its target; returns the mean loss, nats a token.
    #[pyo3(signature = (tokens, targets=None, *, lr=None))]
    fn train_step(
        &self,
        py: Python<'_>,
        tokens: &Bound<'_, PyAny>,
        targets: Option<&Bound<'_, PyAny>>,
        lr: Option<f64>,
    ) -> PyResult<f64> {
        let batch = batch(tokens, targets, self.vocab_size)?;
        if let Some(lr) = lr.filter(|lr| !(lr.is_finite() && *lr >= 0.0)) {
            return Err(input(format_args!("lr = {lr} must be 0 or more")));
        }
        self.with(|inner| {
            let learner = &mut inner.learner;
            let loss = compute(py, || match lr {
                None => learner.train(&batch),
                Some(lr) => Ok(learner.update(&Alone, &batch, lr)?.0),
            })?;
            let loss = loss.or_input()?;
            let rows = batch.tokens.chunks(batch.len).take(ROWS);
            inner.rows = rows.map(<[u32]>::to_vec).collect();
            Ok(loss)
        })
    }

    /// Writes a checkpoint into a directory, from which `load` goes on to the same numbers.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.with(|inner| {
            let save = || {
                inner.learner.save(&path, inner.tokenizer.as_ref())?;
                checkpoint::save_held_out(&path, &inner.rows)
            };
            compute(py, save)?.or_file()
        })
    }

    /// Writes the model for `Model`, once core and trainer agree on the last batch.
    #[pyo3(signature = (path, *, weights="t2", compact=false))]
    fn export<'py>(
        &self,
        py: Python<'py>,
        path: PathBuf,
        weights: &str,
        compact: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let packed = match weights {
            "t2" => Packed::T2,
            "t5" => Packed::T5,
            _ => {
                return Err(input(format_args!(
                    "weights = {weights:?} must be \"t2\" or \"t5\""
                )));
            }
        };
        let storage = Storage {
            packed: packed.into(),
            halves: compact,
        };
        self.with(|inner| {
            if inner.rows.is_empty() {
                return Err(input(
                    "there are no tokens to compare the core with the trainer on: train a step first",
                ));
            }
            let write = || {
                let trained = Trained {
                    config: inner.learner.config(),
                    weights: &inner.learner.weights()?,
                    tokenizer: inner.tokenizer.as_ref(),
                    steps: inner.learner.step(),
                };
                let report = write(&trained, &inner.rows, storage, &path)?;
                Ok(serde_json::to_value(report)?)
            };
            to_python(py, &compute(py, write)?.or_file()?)
        })
    }

    /// Steps done.
    #[getter]
    fn step(&self) -> PyResult<u64> {
        self.with(|inner| Ok(inner.learner.step()))
    }

    /// Learned values.
    #[getter]
    fn parameters(&self) -> PyResult<usize> {
        self.with(|inner| Ok(inner.learner.parameters()))
    }

    /// The configuration.
    #[getter]
    fn config(&self) -> PyResult<Config> {
        self.with(|inner| {
            let run = inner.learner.config().clone();
            Ok(Config { run })
        })
    }
}

impl Trainer {
    fn of(inner: Inner) -> Self {
        Self {
            vocab_size: inner.learner.config().model.vocab_size as u32,
            inner: Mutex::new(inner),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> PyResult<T>) -> PyResult<T> {
        work(&mut *only_user(&self.inner, "trainer")?)
    }
}

fn open_tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    match path.to_str() {
        Some(name) => Tokenizer::open(name),
        None => Tokenizer::load(path),
    }
}

/// `tokens [batch, seq]`, each to predict the next; or each to predict its target, where there are targets: negative
/// ones do not count.
fn batch(
    tokens: &Bound<'_, PyAny>,
    targets: Option<&Bound<'_, PyAny>>,
    vocab_size: u32,
) -> PyResult<Batch> {
    let tokens = Integers::of(tokens, "tokens")?;
    let (rows, len) = match *tokens.shape {
        [len] => (1, len),
        [rows, len] => (rows, len),
        _ => {
            return Err(input(format_args!(
                "tokens must have the shape [batch, seq], these have {} dimensions",
                tokens.shape.len()
            )));
        }
    };
    let shape = tokens.shape.clone();
    if let Some(targets) = targets {
        let targets = Integers::of(targets, "targets")?;
        if targets.shape != shape {
            return Err(input(format_args!(
                "targets have the shape {:?}, tokens {shape:?}: give a target for each token",
                targets.shape
            )));
        }
        return predicting(
            rows,
            len,
            tokens.into_tokens(vocab_size)?,
            targets,
            vocab_size,
        );
    }
    let tokens = tokens.into_tokens(vocab_size)?;
    if rows == 0 || len < 2 {
        return Err(input(format_args!(
            "tokens have the shape {shape:?}: give at least one row of at least two tokens"
        )));
    }
    let cut = |range: std::ops::Range<usize>| {
        let rows = tokens.chunks(len);
        rows.flat_map(|row| &row[range.clone()]).copied().collect()
    };
    Ok(Batch {
        rows,
        len: len - 1,
        tokens: cut(0..len - 1),
        targets: cut(1..len),
    })
}

fn predicting(
    rows: usize,
    len: usize,
    tokens: Vec<u32>,
    mut targets: Integers,
    vocab_size: u32,
) -> PyResult<Batch> {
    let counts: Vec<bool> = targets.values.iter().map(|&t| t >= 0).collect();
    if !counts.contains(&true) {
        return Err(input("no target counts: give one that is not negative"));
    }
    targets.values.iter_mut().for_each(|t| *t = (*t).max(0));
    let targets = targets.into_tokens(vocab_size)?.into_iter().zip(counts);
    Ok(Batch {
        rows,
        len,
        tokens,
        targets: targets
            .map(|(t, counts)| if counts { t } else { IGNORE })
            .collect(),
    })
}
