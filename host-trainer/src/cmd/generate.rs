//! `bitttt generate`

use super::chat::Talk;
use super::machine::MachineArgs;
use super::trained::Trained;
use crate::engine::blob::{Blob, HOST_BATCH, load_state, memory_for, save_state};
use crate::engine::chat::{Message, Role, stop_tokens};
use crate::engine::generate::{Generated, generate};
use crate::engine::text::{TextTokenizer, Written};
use crate::output::Output;
use anyhow::{Context as _, Result, ensure};
use bitttt_core::{Batch, Learning, Model, Parallel, Sampler, Session};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Stream text from a model, which learns as it reads and writes
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  bitttt generate --model demo/demo.bttt --prompt \"Ada Varga\" --max-tokens 60 --temp 0.7\n  \
bitttt generate --model bitnet.bttt --chat --prompt \"What is a ternary weight?\""
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
    /// Take the prompt as a user's message and answer it, by the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// How a chat is written, and where text ends
    #[command(flatten)]
    pub talk: Talk,
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

    /// What `--freeze` says.
    pub fn learning(&self) -> Learning {
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

/// What a blob's session is to read and where it stops.
struct Task<'a> {
    prompt: Vec<u32>,
    /// The text that is shown before what is made.
    echo: &'a str,
    stop: Vec<u32>,
}

impl Args {
    fn task(&self, tokenizer: &TextTokenizer<'_>, position: u64) -> Result<Task<'_>> {
        let mut task = match self.chat {
            true => self.message(tokenizer)?,
            false => Task {
                prompt: tokenizer.prompt(&self.prompt, position)?,
                echo: &self.prompt,
                stop: tokenizer.stop().to_vec(),
            },
        };
        if self.ignore_end {
            task.stop.clear();
        }
        Ok(task)
    }

    /// The prompt as a user's message.
    fn message(&self, tokenizer: &TextTokenizer<'_>) -> Result<Task<'_>> {
        let template = self.talk.template(tokenizer)?;
        let template = template.context(
            "--chat needs a chat template, and this model has none; give one with --template FILE",
        )?;
        let system = self.talk.system.iter();
        let mut messages: Vec<_> = system.map(|s| Message::new(Role::System, s)).collect();
        messages.push(Message::new(Role::User, &self.prompt));
        Ok(Task {
            prompt: tokenizer.encode_after(&template.render(&messages)?, 0)?,
            echo: "",
            stop: stop_tokens(tokenizer, Some(&template)),
        })
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
    ensure!(
        args.chat || (args.talk.system.is_none() && args.talk.template.is_none()),
        "--system and --template are for chats; give --chat too"
    );
    match &args.model {
        Some(path) => from_blob(args, path, out),
        None => from_checkpoint(args, out),
    }
}

/// Text as it is made: shown at once, and kept for the report.
struct Shown<'a> {
    out: &'a Output,
    written: Written,
    text: String,
}

impl<'a> Shown<'a> {
    fn new(out: &'a Output, stop: &[String], prompt: &str) -> Result<Self> {
        let mut shown = Self {
            out,
            written: Written::new(stop),
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

    fn push(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>> {
        let piece = self.written.push(bytes);
        self.show(piece)?;
        Ok(match self.written.stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }

    fn finish(mut self) -> Result<String> {
        let rest = std::mem::replace(&mut self.written, Written::new(&[])).finish();
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
    args.trained.refuse("--chat", args.chat)?;
    let mut sampler = args.sampling.sampler()?;
    let (mut graph, blob) = args.trained.load()?;
    let model = Model::from_bytes(blob.bytes())?;
    let tokenizer = TextTokenizer::of(&model)?;
    let task = args.task(&tokenizer, 0)?;
    let mut shown = Shown::new(out, &args.talk.stop, task.echo)?;
    let how = (args.state.learning(), &mut sampler);
    let tokens = graph.generate(&task.prompt, args.max_tokens, &task.stop, how, |token| {
        shown.push(tokenizer.decode(token))
    })?;
    out.result(&TrainedReport {
        text: shown.finish()?,
        prompt_tokens: task.prompt.len(),
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
    let task = args.task(&tokenizer, session.position())?;
    let mut shown = Shown::new(out, &args.talk.stop, task.echo)?;
    let generated = generate(
        &mut session,
        &task.prompt,
        args.max_tokens,
        &task.stop,
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
