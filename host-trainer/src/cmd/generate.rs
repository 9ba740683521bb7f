//! `bitttt generate`

use super::machine::MachineArgs;
use super::trained::Trained;
use crate::engine::blob::{Blob, HOST_BATCH, load_state, memory_for, save_state};
use crate::engine::generate::{Generated, generate};
use crate::engine::text::{Utf8Stream, encode};
use crate::output::Output;
use anyhow::{Context as _, Result, ensure};
use bitttt_core::{Batch, Learning, Model, Parallel, Sampler, Session};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Stream text from a model, which learns as it reads and writes
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  bitttt generate --model demo/demo.bttt --prompt \"Ada Varga\" --max-tokens 60 --temp 0.7"
)]
pub struct Args {
    /// The model, a .bttt blob
    #[arg(long, value_name = "FILE", required_unless_present = "checkpoint")]
    pub model: Option<PathBuf>,
    /// A trained model instead
    #[command(flatten)]
    pub trained: Trained,
    /// Text to continue
    #[arg(long)]
    pub prompt: String,
    /// Most tokens to make
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_tokens: usize,
    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: Sampling,
    /// What the session starts from and leaves
    #[command(flatten)]
    pub state: State,
    /// What to run on
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Go on past the end of the document
    #[arg(long)]
    pub ignore_end: bool,
}

/// How tokens are chosen.
#[derive(clap::Args, Clone, Debug)]
pub struct Sampling {
    /// Temperature; 0 takes the most probable token
    #[arg(long, value_name = "F", default_value_t = 0.8)]
    pub temp: f32,
    /// Keep the N most probable tokens; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_k: usize,
    /// Keep the most probable tokens that make up this share
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub top_p: f32,
    /// Seed of the choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl Sampling {
    /// The sampler.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn sampler(&self) -> Result<Sampler> {
        ensure!(
            self.temp.is_finite() && self.temp >= 0.0,
            "--temp {} must be 0 or more",
            self.temp
        );
        ensure!(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "--top-p {} must lie in (0, 1]",
            self.top_p
        );
        Ok(Sampler::new(self.temp, self.seed)
            .top_k(self.top_k)
            .top_p(self.top_p))
    }
}

/// What the session starts from and leaves.
#[derive(clap::Args, Clone, Debug)]
pub struct State {
    /// Read only: do not learn
    #[arg(long)]
    pub freeze: bool,
    /// Start from what --save-state kept
    #[arg(long, value_name = "FILE")]
    pub load_state: Option<PathBuf>,
    /// Keep what was learned
    #[arg(long, value_name = "FILE")]
    pub save_state: Option<PathBuf>,
    /// Room for N tokens in attention without a window, instead of the model's own figure
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
}

impl State {
    /// Tokens at once, and room for context.
    pub fn batch(&self) -> Batch {
        match self.context {
            Some(tokens) => HOST_BATCH.with_context(tokens),
            None => HOST_BATCH,
        }
    }

    /// Applies `--load-state` and `--freeze`.
    ///
    /// # Errors
    /// A state that cannot be read or does not fit.
    pub fn prepare(&self, session: &mut Session<'_, '_>) -> Result<()> {
        if let Some(path) = &self.load_state {
            load_state(session, path)?;
        }
        session.set_learning(self.learning());
        Ok(())
    }

    fn learning(&self) -> Learning {
        if self.freeze {
            Learning::Frozen
        } else {
            Learning::On
        }
    }

    /// Applies `--save-state`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn keep(&self, session: &Session<'_, '_>) -> Result<()> {
        self.save_state
            .as_ref()
            .map_or(Ok(()), |path| save_state(session, path))
    }
}

#[derive(serde::Serialize)]
struct Report {
    text: String,
    #[serde(flatten)]
    generated: Generated,
    tokens_hash: String,
    state_hash: String,
    backend: &'static str,
    threads: usize,
    dropped_updates: u32,
}

/// Runs the command.
///
/// # Errors
/// Unreadable model or state, an empty prompt, a file that cannot be written.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    ensure!(
        !args.prompt.is_empty(),
        "the prompt is empty; give some text with --prompt"
    );
    match &args.model {
        Some(path) => from_blob(args, path, out),
        None => from_checkpoint(args, out),
    }
}

/// Text as it is made: shown at once, and kept for the report.
struct Shown<'a> {
    out: &'a Output,
    stream: Utf8Stream,
    text: String,
}

impl<'a> Shown<'a> {
    fn new(out: &'a Output, prompt: &str) -> Result<Self> {
        let mut shown = Self {
            out,
            stream: Utf8Stream::default(),
            text: String::new(),
        };
        shown.show(prompt.to_owned())?;
        Ok(shown)
    }

    fn show(&mut self, piece: String) -> Result<()> {
        self.text.push_str(&piece);
        if !self.out.json {
            print!("{piece}");
            std::io::stdout().flush()?;
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let piece = self.stream.push(bytes);
        self.show(piece)
    }

    fn finish(mut self) -> Result<String> {
        let rest = std::mem::take(&mut self.stream).finish();
        self.show(rest)?;
        if !self.out.json {
            println!();
        }
        Ok(self.text)
    }
}

/// What a model from a checkpoint made.
#[derive(serde::Serialize)]
struct TrainedReport {
    text: String,
    prompt_tokens: usize,
    tokens: Vec<u32>,
    device: String,
}

/// The trainer's model reads the whole text again for every token: right, and slow.
fn from_checkpoint(args: &Args, out: &Output) -> Result<()> {
    args.trained
        .refuse("--load-state", args.state.load_state.is_some())?;
    args.trained
        .refuse("--save-state", args.state.save_state.is_some())?;
    let mut sampler = args.sampling.sampler()?;
    let (mut graph, blob) = args.trained.load()?;
    let model = Model::from_bytes(blob.bytes())?;
    let document = model.config().document_token;
    let tokenizer = model.tokenizer();
    let tokenizer = tokenizer.context("the checkpoint has no tokenizer")?;
    let mut prompt = encode(&tokenizer, args.prompt.as_bytes());
    prompt.insert(0, document);
    let mut shown = Shown::new(out, &args.prompt)?;
    let stop = (!args.ignore_end).then_some(document);
    let how = (args.state.learning(), &mut sampler);
    let tokens = graph.generate(&prompt, args.max_tokens, stop, how, |token| {
        shown.push(tokenizer.decode(token))
    })?;
    out.result(&TrainedReport {
        text: shown.finish()?,
        prompt_tokens: prompt.len(),
        tokens,
        device: args.trained.device.clone(),
    })
}

fn from_blob(args: &Args, path: &Path, out: &Output) -> Result<()> {
    let mut sampler = args.sampling.sampler()?;
    let blob = Blob::open(path)?;
    let (model, tokenizer) = (blob.model(), blob.tokenizer()?);
    let machine = args.machine.machine()?;
    let batch = args.state.batch();
    let mut memory = memory_for(&model, batch)?;
    let mut session = machine.session(model, batch, &mut memory)?;
    args.state.prepare(&mut session)?;
    let document = model.config().document_token;
    let mut prompt = encode(&tokenizer, args.prompt.as_bytes());
    if session.position() == 0 {
        prompt.insert(0, document);
    }
    let mut shown = Shown::new(out, &args.prompt)?;
    let stop = (!args.ignore_end).then_some(document);
    let generated = generate(
        &mut session,
        &prompt,
        args.max_tokens,
        stop,
        &mut sampler,
        |token| shown.push(tokenizer.decode(token)),
    )?;
    let text = shown.finish()?;
    args.state.keep(&session)?;
    out.result(&Report {
        text,
        tokens_hash: generated.tokens_hash(),
        generated,
        state_hash: format!("{:08x}", session.state_hash()),
        backend: session.backend().name(),
        threads: machine.pool.width(),
        dropped_updates: session.dropped_updates(),
    })
}
