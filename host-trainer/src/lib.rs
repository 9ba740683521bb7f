//! Trains ternary models that keep learning: data, Candle model, optimiser, and the command's parts.
//!
//! The module list follows the data: text to tokens, tokens to batches, batches through the model,
//! gradients into weights, weights into a checkpoint.

pub mod cmd;
pub mod config;
pub mod corpus;
pub mod data;
pub mod device;
pub mod engine;
pub mod model;
pub mod ops;
pub mod output;
pub mod plot;
pub mod process;
pub mod rng;
pub mod shape;
pub mod tokenizer;
pub mod train;
