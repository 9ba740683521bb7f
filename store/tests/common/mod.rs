//! Sessions that have learned different things, and a flash that loses its power.
#![allow(dead_code)] // each test file uses its part

pub mod nor;

use bitttt_core::format::{Config, DType};
use bitttt_core::{Batch, Model, Session};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};

/// A small model; the same seed gives the same one.
pub fn model(seed: u64) -> Model<'static> {
    let config = Config {
        d_model: 16,
        d_ffn: 32,
        n_heads: 2,
        mini_batch: 4,
        ..small_config()
    };
    let bytes = blueprint(&config, &[FULL_LAYER], DType::T2, seed).to_bytes();
    let blob = Box::leak(Box::new(AlignedCopy::of(&bytes.unwrap())));
    Model::from_bytes(blob.bytes()).unwrap()
}

/// A session that has read so many tokens.
pub fn session(model: Model<'static>, tokens: usize) -> Session<'static, 'static> {
    let memory = vec![f32::NAN; model.memory(Batch::ONE).words()];
    let mut session = Session::new(model, Batch::ONE, memory.leak()).unwrap();
    let tokens: Vec<u32> = (0..tokens as u32).map(|i| i * 37 % 257).collect();
    if !tokens.is_empty() {
        session.prefill(&tokens).unwrap();
    }
    session
}

/// Bytes of a snapshot.
pub fn snapshot_bytes(session: &Session<'_, '_>) -> usize {
    let (head, state) = session.snapshot_parts();
    head.len() + state.len()
}
