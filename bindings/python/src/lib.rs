//! bitttt for Python: the module `bitttt._bitttt`, whose names the package `bitttt` passes on.
//!
//! The data's way through: [`arrays`] turns what Python passes into tokens and logits into arrays; [`model`] with its
//! [`words`], [`session`] on its [`state`], and [`generation`] are thin over the types of the engine, [`config`] and
//! [`trainer`] over those of the trainer; [`error`] makes exceptions of refusals and of what should never happen.
//!
//! Invariants: computing holds no interpreter lock, and Python never sees memory that a later call changes.

#![deny(unsafe_code)]

mod arrays;
mod config;
mod error;
mod generation;
mod model;
mod pools;
mod session;
mod state;
mod stop;
mod trainer;
mod words;

use pyo3::prelude::*;

/// Names of this machine's backends, slowest first.
#[pyfunction]
fn backends() -> Vec<&'static str> {
    bitttt_core::Backend::all().map(|b| b.name()).collect()
}

#[pymodule]
fn _bitttt(module: &Bound<'_, PyModule>) -> PyResult<()> {
    bitttt_core::Backend::request_amx(); // refused or absent: the backend is not offered then
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(backends, module)?)?;
    module.add_class::<config::Config>()?;
    module.add_class::<generation::Generation>()?;
    module.add_class::<generation::TokenGeneration>()?;
    module.add_class::<model::Model>()?;
    module.add_class::<session::Session>()?;
    module.add_class::<trainer::Trainer>()?;
    Ok(())
}
