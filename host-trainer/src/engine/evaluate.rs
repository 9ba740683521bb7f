//! Loss by position, bits per byte and recall of a model on text, with learning on and frozen.

use super::blob::{host_batch, memory_for};
use super::by_position::{Bucket, ByPosition};
use super::documents::Document;
use super::machine::Machine;
use anyhow::{Result, ensure};
use bitttt_core::sampler::argmax;
use bitttt_core::{Batch, Learning, Model, Parallel, Session};
use serde::Serialize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a model did on documents.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// Mean loss in nats a token.
    pub loss: f64,
    /// `e^loss`.
    pub perplexity: f64,
    /// Bits for each byte of text.
    pub bits_per_byte: f64,
    /// Share of recall values whose tokens were all the most probable ones; absent without recall values.
    pub recall: Option<f64>,
    /// Recall values asked.
    pub recall_values: usize,
    /// Mean loss by place in the document.
    pub by_position: Vec<Bucket>,
    /// Tokens predicted.
    pub tokens: usize,
    /// Bytes of text.
    pub bytes: usize,
    /// Updates dropped because they were not finite.
    pub dropped_updates: u64,
}

/// Sums over one document, in its order.
#[derive(Clone, Debug, Default)]
struct Sums {
    /// Losses of each piece that count, and the place of the first.
    pieces: Vec<(usize, Vec<f32>)>,
    recalled: usize,
    asked: usize,
    dropped: u64,
}

/// What was predicted in a piece of a document, a value for each target.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Nats.
    pub losses: Vec<f32>,
    /// Whether the target was the most probable token.
    pub hits: Vec<bool>,
    /// Updates dropped because they were not finite.
    pub dropped: u64,
}

/// Reads tokens from a fresh start and predicts as many targets.
pub type Reader<'a> = dyn FnMut(&[u32], &[u32]) -> Result<Read> + 'a;

/// Runs every document through a reader, one after the other; `end` is the document token.
///
/// # Errors
/// Nothing to predict, or what the reader returns.
pub fn evaluate_with(
    read: &mut Reader<'_>,
    end: u32,
    documents: &[Document],
    context: Option<usize>,
) -> Result<Score> {
    let sums = documents
        .iter()
        .map(|d| run_document(read, end, d, context));
    score(documents, &sums.collect::<Result<Vec<_>>>()?)
}

/// Runs every document in a session of its own: many at the same time, each on one thread, or where there are fewer than
/// threads one after the other on all of them. `context` cuts documents into pieces of that many tokens, each read from a
/// fresh start.
///
/// # Errors
/// Nothing to predict, or too little memory.
pub fn evaluate(
    machine: &Machine,
    model: &Model<'_>,
    documents: &[Document],
    learning: Learning,
    context: Option<usize>,
) -> Result<Score> {
    let run = |document: &Document, session: &mut Session<'_, '_>| {
        session.set_learning(learning);
        let end = session.model().config().document_token;
        let mut read = |inputs: &[u32], targets: &[u32]| read_session(session, inputs, targets);
        run_document(&mut read, end, document, context)
    };
    let longest = documents.iter().map(|d| d.tokens.len()).max().unwrap_or(0);
    let batch = host_batch(model, longest.min(context.unwrap_or(usize::MAX)) + 1);
    let sums = if documents.len() < machine.pool.width() {
        let mut memory = memory_for(model, batch)?;
        let mut session = machine.session(*model, batch, &mut memory)?;
        let each = documents.iter().map(|d| run(d, &mut session));
        each.collect::<Result<Vec<Sums>>>()?
    } else {
        side_by_side(machine, (model, batch), documents, &run)?
    };
    score(documents, &sums)
}

fn read_session(session: &mut Session<'_, '_>, inputs: &[u32], targets: &[u32]) -> Result<Read> {
    let mut read = Read::default();
    session.reset();
    session.prefill_with(inputs, &mut |i, logits| {
        read.losses.push(cross_entropy(logits, targets[i]));
        read.hits.push(argmax(logits) == targets[i]);
    })?;
    read.dropped = u64::from(session.dropped_updates());
    Ok(read)
}

fn score(documents: &[Document], sums: &[Sums]) -> Result<Score> {
    let pieces = || sums.iter().flat_map(|s| &s.pieces);
    let tokens: usize = pieces().map(|(_, losses)| losses.len()).sum();
    ensure!(
        tokens > 0,
        "there is no text to evaluate; give a file with at least one document"
    );
    let mut by_position = ByPosition::default();
    pieces().for_each(|(first, losses)| by_position.add(*first, losses));
    let bytes: usize = documents.iter().map(|d| d.bytes).sum();
    let total: f64 = pieces()
        .flat_map(|(_, losses)| losses)
        .map(|&l| f64::from(l))
        .sum();
    let (recalled, asked) = sums
        .iter()
        .fold((0, 0), |(r, a), s| (r + s.recalled, a + s.asked));
    Ok(Score {
        loss: total / tokens as f64,
        perplexity: (total / tokens as f64).exp(),
        bits_per_byte: total / std::f64::consts::LN_2 / bytes as f64,
        recall: (asked > 0).then(|| recalled as f64 / asked as f64),
        recall_values: asked,
        by_position: by_position.buckets(),
        tokens,
        bytes,
        dropped_updates: sums.iter().map(|s| s.dropped).sum(),
    })
}

/// Results in the order of the documents, each of which the next free thread takes up.
fn side_by_side(
    machine: &Machine,
    (model, batch): (&Model<'_>, Batch),
    documents: &[Document],
    run: &(dyn Fn(&Document, &mut Session<'_, '_>) -> Result<Sums> + Sync),
) -> Result<Vec<Sums>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    machine.pool.run(machine.pool.width(), &|_| {
        let work = || -> Result<Vec<(usize, Sums)>> {
            let mut memory = memory_for(model, batch)?;
            let mut session = Session::with_backend(*model, batch, &mut memory, machine.backend)?;
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                match documents.get(i) {
                    Some(document) => done.push((i, run(document, &mut session)?)),
                    None => return Ok(done),
                }
            }
        };
        let done = work();
        results.lock().expect("no part panics").push(done);
    });
    let results: Result<Vec<_>> = results.into_inner()?.into_iter().collect();
    let mut results: Vec<_> = results?.into_iter().flatten().collect();
    results.sort_by_key(|(i, _)| *i);
    Ok(results.into_iter().map(|(_, sums)| sums).collect())
}

fn run_document(
    read: &mut Reader<'_>,
    end: u32,
    document: &Document,
    context: Option<usize>,
) -> Result<Sums> {
    let piece = context
        .unwrap_or(usize::MAX)
        .min(document.tokens.len().max(1));
    let mut sums = Sums::default();
    let mut hits = vec![false; document.tokens.len() + 1];
    for (p, chunk) in document.tokens.chunks(piece).enumerate() {
        let last = (p + 1) * piece >= document.tokens.len();
        let inputs: Vec<u32> = std::iter::once(end).chain(chunk.iter().copied()).collect();
        let targets: Vec<u32> = inputs[1..]
            .iter()
            .copied()
            .chain((last && document.ends).then_some(end))
            .collect();
        let mut found = read(&inputs[..targets.len()], &targets)?;
        hits[p * piece..][..targets.len()].copy_from_slice(&found.hits);
        let skip = document.skip.saturating_sub(p * piece).min(targets.len());
        sums.pieces.push((skip, found.losses.split_off(skip)));
        sums.dropped += found.dropped;
    }
    sums.asked = document.recall.len();
    sums.recalled = document
        .recall
        .iter()
        .filter(|r| hits[(*r).clone()].iter().all(|&hit| hit))
        .count();
    Ok(sums)
}

/// `log sum exp(logits) - logits[target]`, in f64.
pub fn cross_entropy(logits: &[f32], target: u32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    (sum.ln() + f64::from(max - logits[target as usize])) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::documents::{documents, skip, split};
    use crate::engine::text::TextTokenizer;
    use bitttt_export::AlignedCopy;
    use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
    use std::num::NonZeroUsize;

    fn model_bytes() -> AlignedCopy {
        let blueprint = blueprint(
            &small_config(),
            &[FULL_LAYER; 2],
            bitttt_core::format::DType::T2,
            1,
        );
        AlignedCopy::of(&blueprint.to_bytes().unwrap())
    }

    #[test]
    fn the_score_does_not_depend_on_how_documents_are_spread_over_threads() {
        let bytes = model_bytes();
        let model = Model::from_bytes(bytes.bytes()).unwrap();
        let text = "one two three<|endoftext|>four five six seven<|endoftext|>".repeat(5);
        let documents = documents(&TextTokenizer::of(&model).unwrap(), &text, &[]).unwrap();
        let machine = Machine::new(bitttt_core::Backend::detect(), 3).unwrap();
        let score = |d: &[Document]| evaluate(&machine, &model, d, Learning::On, None).unwrap();
        let all = score(&documents);
        let singly = documents.iter().map(|d| score(std::slice::from_ref(d)));
        let total: f64 = singly.map(|s| s.loss * s.tokens as f64).sum();
        assert!((all.loss - total / all.tokens as f64).abs() < 1e-9);
        assert_eq!(all.tokens, (13 + 1 + 19 + 1) * 5);
    }

    #[test]
    fn skipped_tokens_are_read_but_not_counted() {
        let bytes = model_bytes();
        let model = Model::from_bytes(bytes.bytes()).unwrap();
        let tokenizer = TextTokenizer::of(&model).unwrap();
        let machine = Machine::new(bitttt_core::Backend::detect(), 1).unwrap();
        let score = |d: &[Document]| evaluate(&machine, &model, d, Learning::On, None).unwrap();
        let text: Vec<u8> = (0..100).collect();
        let mut documents = split(&tokenizer, &text, NonZeroUsize::new(40).unwrap()).unwrap();
        let all = score(&documents);
        assert_eq!((documents.len(), all.tokens, all.bytes), (3, 100, 100));
        skip(&mut documents, 17, &tokenizer);
        let late = score(&documents);
        assert_eq!((late.tokens, late.bytes), (23 + 23 + 3, 23 + 23 + 3));
        assert_eq!(
            (late.by_position[0].from, late.by_position[0].tokens),
            (16, 15 + 15 + 3)
        );
        assert_eq!(late.by_position[1], all.by_position[2]);
    }

    #[test]
    fn uniform_logits_cost_the_log_of_the_vocabulary() {
        assert!((cross_entropy(&[3.0; 8], 5) - 8.0f32.ln()).abs() < 1e-6);
    }
}
