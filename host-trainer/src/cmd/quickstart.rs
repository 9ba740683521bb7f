//! `bitttt quickstart`

use super::eval::{describe, positions};
use super::export::{self, Packed};
use super::{inspect, plan};
use crate::config::{Config, DataFile};
use crate::corpus::Corpus;
use crate::engine::blob::{Blob, HOST_BATCH, memory_for};
use crate::engine::documents::{documents, read_recall};
use crate::engine::evaluate::{Score, evaluate};
use crate::engine::export::Report;
use crate::engine::generate::{Generated, generate};
use crate::engine::machine::Machine;
use crate::output::Output;
use crate::tokenizer::{SEPARATOR, Tokenizer};
use crate::train::{self, Request, Summary};
use crate::{data, plot};
use anyhow::{Context as _, Result, ensure};
use bitttt_core::{Backend, Batch, Learning, Parallel, Sampler};
use bitttt_threads::physical_cores;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The whole road in about two minutes: corpus, tokenizer, training, export, generation, adaptation in figures
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Example:\n  bitttt quickstart --out out")]
pub struct Args {
    /// Directory for everything that is made
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// Seconds of training
    #[arg(long, value_name = "N")]
    pub seconds: Option<f64>,
}

const TRAINING_BYTES: usize = 2_000_000;
const HELD_OUT_BYTES: usize = 60_000;
const VOCAB_SIZE: usize = 512;
const PROMPT: &str = "Ada Varga";
const GENERATED_TOKENS: usize = 96;

/// Runs the command.
///
/// # Errors
/// A directory that cannot be written, or engines that disagree.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let start = Instant::now();
    let dir = &args.out;
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot create directory {}", dir.display()))?;
    out.say(
        "1/6 writing a corpus of documents with private facts, and learning a tokenizer from it",
    );
    let tokenizer = corpus_and_tokenizer(dir)?;
    out.say("2/6 training");
    let summary = train_model(args, dir, tokenizer)?;
    out.say(format!(
        "    {} parameters, {} steps, {:.0} tokens/s, loss {:.3} nats a token",
        summary.parameters, summary.steps, summary.tokens_per_second, summary.loss
    ));
    out.say("3/6 exporting, and checking the core against the trainer");
    let path = dir.join("model.bttt");
    let exported = export_blob(dir, &path, out)?;
    let blob = Blob::open(&path)?;
    out.say("4/6 reading held-out documents, learning on and frozen");
    let (learning, frozen) = adapt(&blob, dir, out)?;
    out.say("5/6 generating, on every backend and road");
    let roads = every_road(&blob, out)?;
    out.say("6/6 what it needs on a device");
    let board = (plan::BOARD, plan::device(plan::BOARD)?);
    let bytes = blob.bytes().len();
    let plan = plan::plan(&blob.model(), bytes, Batch::ONE, board, None, None);
    out.say(plan.table());
    let described = inspect::describe(&blob.model(), blob.bytes().len());
    let seconds = start.elapsed().as_secs_f64();
    let report = json!({
        "seconds": seconds,
        "recall": { "learning": learning.recall, "frozen": frozen.recall },
        "loss": { "learning": learning.loss, "frozen": frozen.loss },
        "by_position": { "learning": learning.by_position, "frozen": frozen.by_position },
        "blob": {
            "bytes": blob.bytes().len(),
            "bits_per_ternary_weight": described.bits_per_ternary_weight,
            "ternary_weights": described.ternary_weights,
            "parameters": described.parameters,
            "fingerprint": exported.fingerprint,
        },
        "parity": exported.parity,
        "training": summary,
        "token_hash": roads["token_hash"],
        "state_hash": roads["state_hash"],
        "text": roads["text"],
        "speed": roads["speed"],
        "memory": plan,
    });
    bitttt_export::save_atomically(
        &dir.join("report.json"),
        serde_json::to_string_pretty(&report)?.as_bytes(),
    )?;
    out.say(format!("done in {seconds:.0} s; figures in {0}/report.json, curves in {0}/*.svg, the model in {0}/model.bttt", dir.display()));
    out.result(&report)
}

/// Training and held-out text (of other documents), and a tokenizer learned from the former.
fn corpus_and_tokenizer(dir: &Path) -> Result<Tokenizer> {
    let corpus = Corpus::generate(TRAINING_BYTES, 1);
    corpus.save(&dir.join("corpus.txt"))?;
    Corpus::generate(HELD_OUT_BYTES, 2).save(&dir.join("heldout.txt"))?;
    let tokenizer = Tokenizer::train(corpus.text.split(SEPARATOR), VOCAB_SIZE)?;
    tokenizer.save(&dir.join("tokenizer.json"))?;
    Ok(tokenizer)
}

fn train_model(args: &Args, dir: &Path, tokenizer: Tokenizer) -> Result<Summary> {
    let mut config = Config::quickstart();
    config.train.seconds = args.seconds.or(config.train.seconds);
    config.data = vec![DataFile {
        path: dir.join("corpus.txt"),
        weight: None,
    }];
    config.validate()?;
    let data = data::open_all(&config.data, &tokenizer, false)?;
    let out = dir.join("run");
    train::run(Request {
        config,
        data,
        tokenizer,
        out,
        resume: false,
        new_data: false,
        stop_after: None,
        progress: true,
        device: candle_core::Device::Cpu,
        group: Box::new(train::group::Alone),
    })
}

fn export_blob(dir: &Path, path: &Path, out: &Output) -> Result<Report> {
    let args = export::Args {
        checkpoint: dir.join("run"),
        out: path.to_owned(),
        weights: Packed::T5,
        compact: false,
        data: None,
    };
    let report = export::export(&args)?;
    let p = &report.parity;
    out.say(format!(
        "    {} bytes; largest logit difference {:.5}, top-1 agreement {:.2}%",
        report.bytes,
        p.max_logit_difference,
        p.top1_agreement * 100.0
    ));
    Ok(report)
}

/// Scores with learning on and frozen.
fn adapt(blob: &Blob, dir: &Path, out: &Output) -> Result<(Score, Score)> {
    let path = dir.join("heldout.txt");
    let documents = documents(
        &blob.tokenizer()?,
        &std::fs::read_to_string(&path)?,
        &read_recall(&path)?,
    )?;
    let machine = Machine::detect()?;
    let score = |learning| evaluate(&machine, &blob.model(), &documents, learning, None);
    let (learning, frozen) = (score(Learning::On)?, score(Learning::Frozen)?);
    out.say(describe("learning on", &learning));
    out.say(describe("frozen", &frozen));
    out.say(positions(Some(&learning), &frozen));
    plot::loss_by_position(&dir.join("position.svg"), Some(&learning), &frozen)?;
    Ok((learning, frozen))
}

/// Generates greedily on every backend, on one thread and on all cores, reading the prompt at once and token by token: all
/// must give the same tokens and the same learned state.
fn every_road(blob: &Blob, out: &Output) -> Result<Value> {
    let tokenizer = blob.tokenizer()?;
    let prompt = tokenizer.prompt(PROMPT, 0)?;
    let mut roads: Vec<Road> = Vec::new();
    for backend in Backend::all() {
        for threads in BTreeSet::from([1, physical_cores()]) {
            let machine = Machine::new(backend, threads)?;
            for batch in [HOST_BATCH, Batch::ONE] {
                roads.push(road(blob, &prompt, &machine, batch)?);
            }
        }
    }
    let first = &roads[0];
    let same = roads
        .iter()
        .all(|r| (&r.token_hash, &r.state_hash) == (&first.token_hash, &first.state_hash));
    ensure!(
        same,
        "backends disagree, which must never happen; please report this model"
    );
    let bytes: Vec<u8> = first
        .generated
        .tokens
        .iter()
        .flat_map(|&t| tokenizer.decode(t))
        .copied()
        .collect();
    let text = format!("{PROMPT}{}", String::from_utf8_lossy(&bytes));
    out.say(format!("    {}", text.replace('\n', " ")));
    for road in roads.iter().filter(|r| r.batch == 1) {
        out.say(format!(
            "    {:<6} {:>7.0} tokens/s decode, {} {}",
            road.backend,
            road.generated.decode_tokens_per_s,
            road.threads,
            if road.threads == 1 {
                "thread"
            } else {
                "threads"
            }
        ));
    }
    out.say(format!(
        "    tokens {}, learned state {}, the same on all",
        first.token_hash, first.state_hash
    ));
    let speed: Vec<_> = roads.iter().map(|r| json!({"backend": r.backend, "threads": r.threads, "batch": r.batch, "decode_tokens_per_s": r.generated.decode_tokens_per_s})).collect();
    Ok(
        json!({"token_hash": first.token_hash, "state_hash": first.state_hash, "text": text, "speed": speed}),
    )
}

#[derive(Serialize)]
struct Road {
    backend: &'static str,
    threads: usize,
    batch: usize,
    generated: Generated,
    token_hash: String,
    state_hash: String,
}

fn road(blob: &Blob, prompt: &[u32], machine: &Machine, batch: Batch) -> Result<Road> {
    let mut memory = memory_for(&blob.model(), batch)?;
    let mut session = machine.session(blob.model(), batch, &mut memory)?;
    let mut sampler = Sampler::greedy();
    let generated = generate(
        &mut session,
        prompt,
        GENERATED_TOKENS,
        &[],
        &mut sampler,
        |_| Ok(ControlFlow::Continue(())),
    )?;
    Ok(Road {
        backend: machine.backend.name(),
        threads: machine.pool.width(),
        batch: batch.tokens(),
        token_hash: generated.tokens_hash(),
        state_hash: format!("{:08x}", session.state_hash()),
        generated,
    })
}
