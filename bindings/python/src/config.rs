//! Configuration of a training run: the trainer's own, with the four names that everybody knows in front.

use crate::error::{Refusal, compute, input};
use bitttt::config::{Config as RunConfig, ModelConfig, TrainConfig};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Arguments of their own, and how the trainer calls them.
const NAMES: [(&str, &str); 4] = [
    ("vocab_size", "vocab_size"),
    ("hidden_dim", "d_model"),
    ("num_layers", "n_layers"),
    ("inner_lr", "ttt_base_lr"),
];

/// Model and training: what a configuration file says.
#[pyclass(frozen, eq, module = "bitttt")]
#[derive(Clone, PartialEq)]
pub struct Config {
    pub run: RunConfig,
}

#[pymethods]
impl Config {
    #[new]
    #[pyo3(signature = (vocab_size, hidden_dim=128, num_layers=4, inner_lr=1.0, *, train=None, **model))]
    fn new(
        vocab_size: usize,
        hidden_dim: usize,
        num_layers: usize,
        inner_lr: f32,
        train: Option<&Bound<'_, PyDict>>,
        model: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let mut fields = table(model)?;
        if let Some((ours, theirs)) = NAMES.iter().find(|(_, name)| fields.contains_key(*name)) {
            return Err(input(format_args!("{theirs} is called {ours} here")));
        }
        let default = |fields: &mut Map<String, Value>, name: &str, value: usize| {
            fields.entry(name).or_insert_with(|| value.into());
        };
        default(&mut fields, "n_heads", heads(hidden_dim));
        // As wide in proportion as the trainer's default.
        default(
            &mut fields,
            "d_ffn",
            hidden_dim.saturating_mul(11).div_ceil(128) * 32,
        );
        let model = ModelConfig {
            vocab_size,
            d_model: hidden_dim,
            n_layers: num_layers,
            ttt_base_lr: inner_lr,
            ..read("model", fields)?
        };
        let run = RunConfig {
            model,
            train: read::<TrainConfig>("train", table(train)?)?,
            data: Vec::new(),
        };
        run.validate().or_input()?;
        Ok(Self { run })
    }

    /// Reads a file in TOML.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let run = compute(py, || RunConfig::load(&path))?.or_file()?;
        Ok(Self { run })
    }

    /// All fields.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let fields = serde_json::to_value(&self.run);
        to_python(py, &fields.map_err(anyhow::Error::from).or_input()?)
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.run.model.vocab_size
    }

    #[getter]
    fn hidden_dim(&self) -> usize {
        self.run.model.d_model
    }

    #[getter]
    fn num_layers(&self) -> usize {
        self.run.model.n_layers
    }

    #[getter]
    fn inner_lr(&self) -> f32 {
        self.run.model.ttt_base_lr
    }

    fn __repr__(&self) -> String {
        format!(
            "bitttt.Config(vocab_size={}, hidden_dim={}, num_layers={}, inner_lr={}, ...)",
            self.vocab_size(),
            self.hidden_dim(),
            self.num_layers(),
            self.inner_lr()
        )
    }
}

/// Heads of 32 where the width allows it.
fn heads(width: usize) -> usize {
    if width.is_multiple_of(32) {
        (width / 32).max(1)
    } else {
        1
    }
}

/// A dictionary as the trainer's fields.
fn table(fields: Option<&Bound<'_, PyDict>>) -> PyResult<Map<String, Value>> {
    let Some(fields) = fields else {
        return Ok(Map::new());
    };
    serde_json::from_str(&to_json(fields)?)
        .map_err(|error| input(format_args!("configuration: {error}")))
}

fn read<T: DeserializeOwned>(name: &str, fields: Map<String, Value>) -> PyResult<T> {
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| input(format_args!("{name}: {error}")))
}

/// What `json.loads` makes of a value.
pub fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?
        .call_method1("loads", (value.to_string(),))
}

/// What `json.dumps` makes of an object.
pub fn to_json(object: &Bound<'_, PyAny>) -> PyResult<String> {
    let json = object.py().import("json")?;
    json.call_method1("dumps", (object,))?.extract()
}
