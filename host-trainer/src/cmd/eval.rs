//! `bitttt eval`

use super::machine::MachineArgs;
use super::trained::Trained;
use crate::engine::blob::Blob;
use crate::engine::documents::{Document, documents, read_recall, skip, split};
use crate::engine::evaluate::{Score, evaluate};
use crate::engine::text::{self, TextTokenizer};
use crate::engine::{history, stream};
use crate::output::Output;
use crate::plot;
use anyhow::{Context as _, Result, ensure};
use bitttt_core::{Learning, Model};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Measure a model on text: loss, perplexity, bits per byte, recall; learning on against frozen
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  bitttt eval --model demo/demo.bttt --data heldout.txt --plot loss.svg\n  \
bitttt eval --checkpoint run --device cuda --data heldout.txt --context 2048\n\n\
Documents are separated by <|endoftext|>. Where FILE.recall lies beside the data (`bitttt corpus` writes it), the share of\n\
recalled values is reported too."
)]
pub struct Args {
    /// The model, a .bttt blob
    #[arg(long, value_name = "FILE", required_unless_present = "checkpoint")]
    pub model: Option<PathBuf>,
    /// A trained model instead
    #[command(flatten)]
    pub trained: Trained,
    /// UTF-8 text
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Measure the frozen model only
    #[arg(long)]
    pub freeze: bool,
    /// Take only this last share of the documents, or of the text when it is one document: what `train` held out
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub tail: f64,
    /// Start afresh every N tokens instead of once a document
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Take every N bytes as a document, separators among them, instead of cutting at separators
    #[arg(long, value_name = "N", conflicts_with_all = ["lossy", "context"])]
    pub split_bytes: Option<NonZeroUsize>,
    /// Read the first N tokens of every document, but leave them out of the figures
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip: usize,
    /// Measure the same text of the longest document after so many tokens before it, instead of everything: what text far
    /// back is worth
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with_all = ["context", "skip", "freeze", "plot", "checkpoint"])]
    pub history: Vec<usize>,
    /// Read N tokens in one unbroken stream instead, the data again and again: loss and size of the learned state on the way
    #[arg(long, value_name = "N", conflicts_with_all = ["context", "skip", "plot", "checkpoint", "history"])]
    pub stream: Option<u64>,
    /// Draw loss by position (SVG)
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Replace bytes that are not UTF-8
    #[arg(long)]
    pub lossy: bool,
    /// What to run on
    #[command(flatten)]
    pub machine: MachineArgs,
}

#[derive(serde::Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    learning: Option<Score>,
    frozen: Score,
}

/// Runs the command.
///
/// # Errors
/// Unreadable model or data, a plot that cannot be written.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    ensure!(
        args.tail > 0.0 && args.tail <= 1.0,
        "--tail {} must lie in (0, 1]",
        args.tail
    );
    ensure!(
        args.context != Some(0),
        "--context 0 leaves nothing to read; give at least 1"
    );
    if !args.history.is_empty() {
        return of_history(args, out);
    }
    if let Some(tokens) = args.stream {
        return of_stream(args, tokens, out);
    }
    let report = match &args.model {
        Some(path) => of_blob(args, path)?,
        None => of_checkpoint(args)?,
    };
    for (name, score) in [
        ("learning on", report.learning.as_ref()),
        ("frozen", Some(&report.frozen)),
    ] {
        if let Some(score) = score {
            out.say(describe(name, score));
        }
    }
    out.say(positions(report.learning.as_ref(), &report.frozen));
    if let Some(path) = &args.plot {
        plot::loss_by_position(path, report.learning.as_ref(), &report.frozen)?;
    }
    out.result(&report)
}

fn of_blob(args: &Args, path: &Path) -> Result<Report> {
    let blob = Blob::open(path)?;
    let (model, documents) = (blob.model(), read(args, &blob.tokenizer()?)?);
    let machine = args.machine.machine()?;
    report(args, |learning| {
        evaluate(&machine, &model, &documents, learning, args.context)
    })
}

fn of_history(args: &Args, out: &Output) -> Result<()> {
    let path = args.model.as_ref().context("--history needs --model")?;
    let blob = Blob::open(path)?;
    let documents = read(args, &blob.tokenizer()?)?;
    let machine = args.machine.machine()?;
    let found = history::measure(&machine, &blob.model(), &documents, &args.history)?;
    for h in &found {
        out.say(format!(
            "after {:>8} tokens: {:.4} nats a token, {:+.4} ± {:.4}",
            h.tokens,
            h.learning,
            h.learning - found[0].learning,
            h.error
        ));
    }
    out.result(&found)
}

fn of_stream(args: &Args, tokens: u64, out: &Output) -> Result<()> {
    let path = args.model.as_ref().context("--stream needs --model")?;
    let blob = Blob::open(path)?;
    let documents = read(args, &blob.tokenizer()?)?;
    let learning = match args.freeze {
        true => Learning::Frozen,
        false => Learning::On,
    };
    let machine = args.machine.machine()?;
    let moments = stream::run(&machine, &blob.model(), &documents, tokens, learning)?;
    out.say("      tokens      loss  largest       rms  dropped");
    for m in &moments {
        out.say(format!(
            "{:>12} {:>9.4} {:>8.3} {:>9.5} {:>8}",
            m.tokens, m.loss, m.largest, m.rms, m.dropped_updates
        ));
    }
    out.result(&moments)
}

fn of_checkpoint(args: &Args) -> Result<Report> {
    let (mut graph, blob) = args.trained.load()?;
    let tokenizer = TextTokenizer::of(&Model::from_bytes(blob.bytes())?)?;
    let documents = read(args, &tokenizer)?;
    report(args, |learning| {
        graph.evaluate(&documents, learning, args.context)
    })
}

fn report(args: &Args, mut score: impl FnMut(Learning) -> Result<Score>) -> Result<Report> {
    let learning = (!args.freeze).then(|| score(Learning::On)).transpose()?;
    Ok(Report {
        learning,
        frozen: score(Learning::Frozen)?,
    })
}

/// The documents asked for.
fn read(args: &Args, tokenizer: &TextTokenizer<'_>) -> Result<Vec<Document>> {
    let all = match args.split_bytes {
        Some(bytes) => split(tokenizer, &text::read_bytes(&args.data)?, bytes)?,
        None => {
            let text = text::read(&args.data, args.lossy)?;
            let recall = match args.lossy {
                true => Vec::new(),
                false => read_recall(&args.data)?,
            };
            documents(tokenizer, &text, &recall)?
        }
    };
    let mut chosen = tail(all, args.tail);
    skip(&mut chosen, args.skip, tokenizer);
    Ok(chosen)
}

/// The last documents; of a single document its last tokens.
fn tail(documents: Vec<Document>, share: f64) -> Vec<Document> {
    let keep = |n: usize| ((n as f64 * share).round() as usize).clamp(1, n);
    match documents.as_slice() {
        [one] if share < 1.0 => {
            let from = one.tokens.len() - keep(one.tokens.len().max(1)).min(one.tokens.len());
            let bytes = (one.bytes as f64 * (one.tokens.len() - from) as f64
                / one.tokens.len().max(1) as f64)
                .round() as usize;
            let recall = one
                .recall
                .iter()
                .filter(|r| r.start >= from)
                .map(|r| Range {
                    start: r.start - from,
                    end: r.end - from,
                });
            vec![Document {
                tokens: one.tokens[from..].to_vec(),
                bytes,
                recall: recall.collect(),
                ends: one.ends,
                skip: one.skip,
            }]
        }
        [] => documents,
        _ => documents[documents.len() - keep(documents.len())..].to_vec(),
    }
}

/// One line of figures.
pub fn describe(name: &str, score: &Score) -> String {
    let recall = score.recall.map_or(String::new(), |r| {
        format!(", recall {:.1}% of {}", r * 100.0, score.recall_values)
    });
    format!(
        "{name:>11}: loss {:.4} nats a token, perplexity {:.2}, {:.4} bits a byte{recall}",
        score.loss, score.perplexity, score.bits_per_byte
    )
}

/// Loss by position as a table.
pub fn positions(learning: Option<&Score>, frozen: &Score) -> String {
    let mut table = String::from("   position  learning    frozen\n");
    for (i, bucket) in frozen.by_position.iter().enumerate() {
        let learned = learning
            .and_then(|l| l.by_position.get(i))
            .map_or("-".into(), |b| format!("{:.4}", b.loss));
        let range = format!("{}-{}", bucket.from, bucket.to);
        table += &format!("{range:>11} {learned:>9} {:>9.4}\n", bucket.loss);
    }
    table.trim_end().to_owned()
}
