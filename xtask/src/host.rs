//! What the firmware must come to: the same run on this machine, by every road there is.

use crate::blob;
use anyhow::{Context, Result, bail};
use bitttt_core::{Backend, Batch, Model, Sampler, Session, crc32};
use std::path::Path;

/// A firmware's task.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// File with the model.
    pub blob: &'a Path,
    /// Text to start from.
    pub prompt: &'a str,
    /// Tokens to generate.
    pub tokens: usize,
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// CRC-32 of the generated ids as little-endian u32.
    pub tokens_hash: u32,
    /// State after the last generated token was read.
    pub state_hash: u32,
    /// State after the prompt.
    pub prompt_state_hash: u32,
}

/// Runs the job on every backend, by steps and with prefill, and refuses to go on if they differ.
pub fn outcome(job: &Job<'_>) -> Result<Outcome> {
    let file = job.blob.display();
    let blob = blob::read(job.blob)?;
    let model =
        Model::from_bytes(blob.bytes()).with_context(|| format!("{file} is not a model"))?;
    model
        .verify()
        .with_context(|| format!("{file} is damaged"))?;
    let prompt = encode(&model, job.prompt)?;
    let mut first = None;
    for backend in Backend::all() {
        for batch in [1, 16] {
            let outcome = travel(model, backend, batch, &prompt, job.tokens)?;
            let expected = first.get_or_insert_with(|| outcome.clone());
            if outcome != *expected {
                bail!(
                    "{} with batch {batch} differs from scalar step by step",
                    backend.name()
                );
            }
        }
    }
    first.context("there is no backend")
}

/// The document token and the prompt's tokens.
fn encode(model: &Model<'_>, prompt: &str) -> Result<Vec<u32>> {
    let tokenizer = model
        .tokenizer()
        .context("the model has no tokenizer: export it with one")?;
    let mut tokens = vec![model.config().document_token; prompt.len() + 1];
    let used = tokenizer.encode(prompt.as_bytes(), &mut tokens[1..])?;
    tokens.truncate(used + 1);
    Ok(tokens)
}

/// One road: batch 1 steps through the prompt, a larger one prefills it.
fn travel(
    model: Model<'_>,
    backend: Backend,
    batch: usize,
    prompt: &[u32],
    tokens: usize,
) -> Result<Outcome> {
    let batch = Batch::new(batch);
    let mut memory = vec![0.0; model.memory(batch).words()];
    let mut session = Session::with_backend(model, batch, &mut memory, backend)?;
    let mut sampler = Sampler::greedy();
    let mut token = 0;
    for piece in prompt.chunks(if batch == Batch::ONE { 1 } else { prompt.len() }) {
        token = sampler.sample(session.prefill(piece)?);
    }
    let prompt_state_hash = session.state_hash();
    let mut generated = Vec::new();
    for _ in 0..tokens {
        generated.extend(token.to_le_bytes());
        token = sampler.sample(session.step(token)?);
    }
    Ok(Outcome {
        tokens_hash: crc32(&generated),
        state_hash: session.state_hash(),
        prompt_state_hash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitttt_core::format::DType;

    fn run(prompt: &str, tokens: usize) -> Outcome {
        let blob = crate::blob::random(DType::T2).unwrap();
        outcome(&Job {
            blob: &blob,
            prompt,
            tokens,
        })
        .unwrap()
    }

    #[test]
    fn roads_agree_and_hashes_tell_runs_apart() {
        let run_once = run("Ada", 20);
        assert_eq!(run_once, run("Ada", 20));
        let longer = run("Ada", 21);
        assert_eq!(run_once.prompt_state_hash, longer.prompt_state_hash);
        assert_ne!(
            (run_once.tokens_hash, run_once.state_hash),
            (longer.tokens_hash, longer.state_hash)
        );
        assert_ne!(run_once.prompt_state_hash, run("Bea", 20).prompt_state_hash);
    }

    #[test]
    fn an_empty_prompt_is_the_document_token_alone() {
        assert_ne!(run("", 1).prompt_state_hash, run("A", 1).prompt_state_hash);
    }

    #[test]
    fn what_is_not_a_model_is_refused_by_name() {
        let blob = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = outcome(&Job {
            blob: &blob,
            prompt: "",
            tokens: 1,
        })
        .unwrap_err();
        assert!(
            error.to_string().contains("Cargo.toml is not a model"),
            "{error}"
        );
    }
}
