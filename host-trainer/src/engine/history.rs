//! What text far back is worth: the loss of the same tokens after different amounts of text before them.
//!
//! Loss by position compares other text at every place; this compares the same targets.

use anyhow::{Result, ensure};
use bitttt_core::{Learning, Model};
use serde::Serialize;

use super::documents::Document;
use super::evaluate::evaluate;
use super::machine::Machine;

/// Tokens of a window whose loss is taken.
const WINDOW: usize = 1024;
/// Most windows, spread evenly over the text.
const WINDOWS: usize = 16;

/// Mean loss over all windows.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// Tokens read before each window.
    pub tokens: usize,
    /// Nats a token with learning on.
    pub learning: f64,
    /// Standard error of the difference to the shortest history, over the windows.
    pub error: f64,
}

/// Measures every history on the same windows: those behind the longest history of the longest document.
///
/// # Errors
/// A text that is too short, or no history.
pub fn measure(
    machine: &Machine,
    model: &Model<'_>,
    documents: &[Document],
    histories: &[usize],
) -> Result<Vec<History>> {
    let longest = histories.iter().copied().max().unwrap_or(0);
    let text = documents.iter().max_by_key(|d| d.tokens.len());
    let tokens = text.map_or(&[][..], |d| &d.tokens);
    ensure!(
        !histories.is_empty() && tokens.len() >= longest + WINDOW,
        "the longest document has {} tokens, fewer than a history of {longest} and {WINDOW} behind it; give a longer text or a \
         shorter --history",
        tokens.len()
    );
    let room = tokens.len() - longest;
    let windows = (room / WINDOW).min(WINDOWS);
    let losses: Vec<Vec<f64>> = histories
        .iter()
        .map(|&history| {
            let document = |w: usize| {
                let start = longest + w * (room - WINDOW) / (windows - 1).max(1);
                Document {
                    tokens: tokens[start - history..start + WINDOW].to_vec(),
                    bytes: WINDOW, // no part of what is asked
                    ends: false,
                    skip: history,
                    recall: Vec::new(),
                }
            };
            let loss = |w| {
                let score = evaluate(machine, model, &[document(w)], Learning::On, None)?;
                Ok(score.loss)
            };
            (0..windows).map(loss).collect()
        })
        .collect::<Result<_>>()?;
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let shortest = histories.iter().enumerate().min_by_key(|(_, h)| **h);
    let base = &losses[shortest.map_or(0, |(i, _)| i)];
    let error = |own: &[f64]| {
        let gains: Vec<f64> = own.iter().zip(base).map(|(a, b)| a - b).collect();
        let centre = mean(&gains);
        let squares: f64 = gains.iter().map(|g| (g - centre).powi(2)).sum();
        (squares / (gains.len() * (gains.len() - 1).max(1)) as f64).sqrt()
    };
    Ok(histories
        .iter()
        .zip(&losses)
        .map(|(&tokens, own)| History {
            tokens,
            learning: mean(own),
            error: error(own),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitttt_core::format::DType;
    use bitttt_export::AlignedCopy;
    use bitttt_export::random::{FULL_LAYER, blueprint, small_config};

    #[test]
    fn every_history_is_measured_on_the_same_windows() {
        let blob = blueprint(&small_config(), &[FULL_LAYER; 2], DType::T2, 1);
        let blob = AlignedCopy::of(&blob.to_bytes().unwrap());
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let machine = Machine::new(bitttt_core::Backend::detect(), 2).unwrap();
        let document = |count: u32| Document {
            tokens: (0..count).map(|i| i * i % 251 + 1).collect(),
            bytes: 0,
            ends: false,
            skip: 0,
            recall: Vec::new(),
        };
        let found = measure(&machine, &model, &[document(3100)], &[100, 2000, 100]).unwrap();
        assert_eq!(found[0].learning, found[2].learning);
        assert_ne!(found[0].learning, found[1].learning);
        assert_eq!(found[0].error, 0.0);
        let error = measure(&machine, &model, &[document(3000)], &[2000]).unwrap_err();
        assert!(error.to_string().contains("3000 tokens"), "{error}");
    }
}
