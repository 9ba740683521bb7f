//! A long life in one go: text without end, and what becomes of the learned state.

use anyhow::{Result, ensure};
use bitttt_core::{Batch, Learning, Model};
use serde::Serialize;

use super::blob::{HOST_BATCH, memory_for};
use super::documents::Document;
use super::evaluate::cross_entropy;
use super::machine::Machine;

/// Lines of the report.
const LINES: u64 = 20;

/// What the stream looked like on the way.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    /// Tokens read so far.
    pub tokens: u64,
    /// Nats a token since the moment before.
    pub loss: f64,
    /// Largest number of the learned state.
    pub largest: f32,
    /// Root of the mean square of the learned state.
    pub rms: f64,
    /// Updates dropped so far because they were not finite.
    pub dropped_updates: u64,
}

/// Reads the documents again and again, document tokens between them but no reset, until `tokens` are read.
///
/// # Errors
/// Nothing to read, or a context that cannot go on for ever.
pub fn run(
    machine: &Machine,
    model: &Model<'_>,
    documents: &[Document],
    tokens: u64,
    learning: Learning,
) -> Result<Vec<Moment>> {
    let end = model.config().document_token;
    let mut text = Vec::new();
    for document in documents {
        text.push(end);
        text.extend(&document.tokens);
    }
    ensure!(text.len() > documents.len(), "there is no text to read");
    let layers = 0..model.config().n_layers;
    for layer in layers {
        ensure!(
            !model.layer_config(layer)?.needs_context(),
            "block {layer} remembers every token, so that no memory is enough for a stream; give it a window"
        );
    }
    let batch: Batch = HOST_BATCH;
    let mut memory = memory_for(model, batch)?;
    let mut session = machine.session(*model, batch, &mut memory)?;
    session.set_learning(learning);
    let (mut moments, mut read) = (Vec::new(), 0);
    for line in 1..=LINES {
        let (mut sum, mut counted) = (0.0, 0u64);
        while read < tokens * line / LINES {
            let at = (read % text.len() as u64) as usize;
            let left = (tokens * line / LINES - read).min(4096) as usize;
            let inputs = &text[at..text.len().min(at + left)];
            session.prefill_with(inputs, &mut |i, logits| {
                let target = text[(at + i + 1) % text.len()];
                sum += f64::from(cross_entropy(logits, target));
                counted += 1;
            })?;
            read += inputs.len() as u64;
        }
        let state = session.state();
        let squares: f64 = state.iter().map(|x| f64::from(*x).powi(2)).sum();
        moments.push(Moment {
            tokens: read,
            loss: sum / counted.max(1) as f64,
            largest: state.iter().fold(0.0, |max, x| x.abs().max(max)),
            rms: (squares / state.len() as f64).sqrt(),
            dropped_updates: u64::from(session.dropped_updates()),
        });
    }
    Ok(moments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitttt_core::format::DType;
    use bitttt_export::AlignedCopy;
    use bitttt_export::random::{FULL_LAYER, blueprint, small_config};

    #[test]
    fn a_stream_begins_again_at_its_end_and_tells_of_every_twentieth() {
        let blob = blueprint(&small_config(), &[FULL_LAYER; 2], DType::T2, 1);
        let blob = AlignedCopy::of(&blob.to_bytes().unwrap());
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let machine = Machine::new(bitttt_core::Backend::detect(), 1).unwrap();
        let document = Document {
            tokens: (1..50).collect(),
            bytes: 49,
            ends: false,
            skip: 0,
            recall: Vec::new(),
        };
        let moments = run(&machine, &model, &[document], 1000, Learning::On).unwrap();
        let tokens: Vec<u64> = moments.iter().map(|m| m.tokens).collect();
        assert_eq!(tokens, (1..=20).map(|i| i * 50).collect::<Vec<_>>());
        assert!(
            moments
                .iter()
                .all(|m| m.loss > 0.0 && m.largest > 0.0 && m.rms > 0.0)
        );
    }
}
