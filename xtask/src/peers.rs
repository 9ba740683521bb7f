//! `cargo xtask peers`: our speed beside that of the strongest other engines, on the same shapes in the same run.
//!
//! Peers are built from their registry packages into `target/peers`, once. Their models hold ternary weights and no
//! others, at random, in every type of theirs that can hold them exactly.

mod blocks;
mod crates;
mod engine;
mod gguf;
mod llama;
mod ours;
mod quiet;
mod results;
mod shape;
mod workshop;

use anyhow::{Context, Result, ensure};
use bitttt_threads::physical_cores;
use blocks::Quant;
use crates::{Candle, Cortex, Variant};
use engine::{Engine, Job, Test};
use gguf::Architecture;
use llama::Llama;
use ours::Ours;
use results::Row;
use shape::Shape;
use std::path::PathBuf;
use workshop::Workshop;

/// What `cargo xtask peers` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// Shape to compare at, all unless given; may be repeated
    #[arg(long, value_enum)]
    shape: Vec<Shape>,
    /// Threads for every engine, one a physical core unless given; may be repeated
    #[arg(long, value_name = "N", value_parser = parse_count)]
    threads: Vec<usize>,
    /// What to time, both unless given
    #[arg(long, value_enum, value_delimiter = ',')]
    tests: Vec<Test>,
    /// Peers to compare with, by name or part of it; all unless given
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    peers: Vec<String>,
    /// How often ours and theirs take turns; medians count
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_count)]
    rounds: usize,
    /// Time for every measurement: 0.3 for tiny, 1 for small and 3 for larger shapes unless given
    #[arg(long, value_name = "F")]
    seconds: Option<f64>,
    /// Hold both sides to AVX2: our backend of that name, and a build of llama.cpp for it
    #[arg(long)]
    avx2: bool,
    /// Packing of our ternary weights
    #[arg(long, default_value = "t2", value_parser = ["t2", "t5"])]
    weights: String,
    /// Compare with llama.cpp on its own files: BitNets, imported here with the embedding as `i8`
    #[arg(long)]
    import: bool,
    /// The `bitttt` to time instead of this source's
    #[arg(long, value_name = "FILE")]
    bitttt: Option<PathBuf>,
    /// Print the rows as JSON on stdout, and all text on stderr
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "Examples:
  cargo xtask peers --shape tiny
  cargo xtask peers --shape 1b --tests decode --peers TQ2_0,Q4_0 --rounds 5 --json
  cargo xtask peers --import --shape 2b4t --tests decode --peers TQ2_0

Peers: llama.cpp with TQ2_0, TQ1_0, Q4_0, Q2_K, Q4_K and MXFP4 weights (embedding and head Q6_K; flash attention on or
off, whichever is faster); candle with Q4_0; cortex_rust as shipped, packed, and with the copy of each transposed weight
that its releases before 0.6.0 made (at tiny and small; beside ours of its kind: ttt-lite, an FFN of four times the
width). A measurement during which others took more than 3% of the cores is repeated, twice at most; the column `others` has the
largest share that was left. Decode is 128 tokens from an empty context, prefill 512 tokens into one. What is built and written goes to target/peers:
12 GB with all shapes. Needs Python 3 with venv, a C++ compiler and OpenSSL's headers.";

fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("`{text}` is not a number above 0"))
}

/// Builds, times and prints; false where a peer failed.
pub fn run(options: &Options) -> Result<bool> {
    let names = chosen(options)?;
    let workshop = Workshop::open()?;
    let program = ours::program(options.bitttt.as_deref())?;
    let ours = |kind, imports| Ours {
        workshop: &workshop,
        program: &program,
        kind,
        imports,
        weights: &options.weights,
        backend: options.avx2.then_some("avx2"),
    };
    let is_llama = |name: &String| name.starts_with("llama.cpp");
    let bench = if names.iter().any(is_llama) {
        llama::build(&workshop, options.avx2)?
    } else {
        PathBuf::new()
    };
    let pair = |name: &String| {
        let (peer, imports) = peer(name, &workshop, &bench, options.import)?;
        Ok((ours(peer.kind(), imports), peer))
    };
    let mut contest = Contest {
        pairs: names.iter().map(pair).collect::<Result<_>>()?,
        rounds: options.rounds,
        failed: false,
    };
    let mut rows = Vec::new();
    for job in jobs(options) {
        rows.extend(contest.hold(&job));
    }
    if options.json {
        eprint!("\n{}", results::table(&rows));
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("\n{}", results::table(&rows));
    }
    Ok(!contest.failed)
}

/// Names of the peers to time.
fn chosen(options: &Options) -> Result<Vec<String>> {
    let wanted = &options.peers;
    // what cannot be imported is no peer there
    let llamas = Quant::TERNARY
        .iter()
        .filter(|&&quant| !options.import || quant != Quant::Mxfp4);
    let mut known: Vec<_> = llamas
        .map(|quant| format!("llama.cpp {}", quant.name()))
        .collect();
    if !options.avx2 && !options.import {
        known.push("candle".to_owned());
        known.extend(Variant::ALL.map(|variant| variant.name().to_owned()));
    }
    let matches = |name: &str, part: &str| name.to_lowercase().contains(&part.to_lowercase());
    for part in wanted {
        let found = known.iter().any(|name| matches(name, part));
        ensure!(
            found,
            "there is no peer `{part}`; there are: {}",
            known.join(", ")
        );
    }
    known.retain(|name| wanted.is_empty() || wanted.iter().any(|part| matches(name, part)));
    Ok(known)
}

/// Builds the peer of that name; and the type of its weights where its files are imported.
fn peer<'a>(
    name: &str,
    workshop: &'a Workshop,
    bench: &'a std::path::Path,
    import: bool,
) -> Result<(Box<dyn Engine + 'a>, Option<Quant>)> {
    let quant = Quant::TERNARY
        .into_iter()
        .find(|quant| name == format!("llama.cpp {}", quant.name()));
    if let Some(quant) = quant {
        let architecture = match import {
            true => Architecture::Bitnet,
            false => Architecture::Llama,
        };
        let llama = Llama::new(workshop, bench, quant, architecture);
        return Ok((Box::new(llama), import.then_some(quant)));
    }
    let variant = Variant::ALL
        .into_iter()
        .find(|variant| variant.name() == name);
    let peer: Box<dyn Engine> = match variant {
        Some(variant) => Box::new(Cortex::build(workshop, variant)?),
        None => Box::new(Candle::build(workshop)?),
    };
    Ok((peer, None))
}

/// Every figure to measure: all tests of one shape together, so that its files stay in memory.
fn jobs(options: &Options) -> Vec<Job> {
    let or_all = |given: &[Shape]| {
        if given.is_empty() {
            Shape::ALL.to_vec()
        } else {
            given.to_vec()
        }
    };
    let tests = if options.tests.is_empty() {
        Test::ALL.to_vec()
    } else {
        options.tests.clone()
    };
    let mut threads = options.threads.clone();
    if threads.is_empty() {
        threads.push(physical_cores());
    }
    let mut jobs = Vec::new();
    for shape in or_all(&options.shape) {
        let seconds = options.seconds.unwrap_or(match shape {
            Shape::Tiny => 0.3,
            Shape::Small => 1.0,
            Shape::OneB | Shape::TwoB4T => 3.0,
        });
        for &threads in &threads {
            jobs.extend(tests.iter().map(|&test| Job {
                shape,
                threads,
                test,
                seconds,
            }));
        }
    }
    jobs
}

struct Contest<'a> {
    /// Ours and theirs.
    pairs: Vec<(Ours<'a>, Box<dyn Engine + 'a>)>,
    rounds: usize,
    failed: bool,
}

impl Contest<'_> {
    /// Ours against every peer; a peer that fails is told of and left out.
    fn hold(&mut self, job: &Job) -> Vec<Row> {
        eprintln!(
            "{} ({} ternary weights), {} threads, {}",
            job.shape.name(),
            job.shape.dims().ternary_weights(),
            job.threads,
            job.test.name()
        );
        let mut rows = Vec::new();
        for (ours, peer) in &mut self.pairs {
            if let Some(why) = peer.refuses(job.shape) {
                eprintln!("  {:22} not at this shape: {why}", peer.name());
                continue;
            }
            match meet(ours, peer.as_mut(), job, self.rounds) {
                Ok(row) => {
                    eprintln!("  {:22} {:.2}x", row.peer, row.ratio);
                    rows.push(row);
                }
                Err(error) => {
                    eprintln!("  {:22} failed: {error:#}", peer.name());
                    self.failed = true;
                }
            }
        }
        rows.extend(results::best(&rows));
        rows
    }
}

/// Prepares both sides and times them.
fn meet(ours: &mut dyn Engine, theirs: &mut dyn Engine, job: &Job, rounds: usize) -> Result<Row> {
    theirs.prepare(job).with_context(|| theirs.name())?; // first: its file may be what ours imports
    ours.prepare(job).with_context(|| ours.name())?;
    results::duel(ours, theirs, job, rounds)
}
