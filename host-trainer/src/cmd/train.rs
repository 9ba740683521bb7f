//! `bitttt train`: trains a model and leaves a checkpoint.

use std::path::PathBuf;

use crate::config::{Config, DataFile};
use crate::data;
use crate::device;
use crate::output::Output;
use crate::tokenizer::Tokenizer;
use crate::train::checkpoint::{Checkpoint, TOKENIZER};
use crate::train::{self, Request, group};

/// Trains a model
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bitttt train --data corpus.txt --tokenizer tokenizer.json --out run --steps 1000\n  \
bitttt train --out run --resume\n  \
bitttt train --data prose.bin=0.7 --data code.bin=0.3 --tokenizer tokenizer.json --out run\n\n\
--data takes texts and files of `bitttt prepare`. With weights, each file gives its share of the rows; without, files are \
mixed by size. A flag overrides the field of the same name in the \
configuration. With --seconds the run ends with that budget and the learning rate follows elapsed over \
budget: such a run can be resumed, but is not repeatable bit for bit.\n\n\
Launched as one of several, by mpirun in a build with `--features mpi` or as by torchrun with `--features nccl`, it trains on \
its rows of each batch."
)]
pub struct Args {
    /// Texts and prepared token files (the default on --resume: what the checkpoint was trained on)
    #[arg(long, value_name = "FILE[=WEIGHT]", num_args = 1..)]
    pub data: Vec<DataFile>,
    /// Directory for checkpoint, metrics.jsonl and loss.svg
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Tokenizer file, or `bytes` (the default, unless a resumed checkpoint has another)
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<String>,
    /// Configuration in TOML, with tables model and train
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Steps of the whole run
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Time budget instead of steps
    #[arg(long, value_name = "N")]
    pub seconds: Option<f64>,
    /// Peak learning rate
    #[arg(long, value_name = "F")]
    pub lr: Option<f64>,
    /// Rows of a step
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Most tokens of a row
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Tokens through which gradients flow: longer rows are read in segments of so many, memory grows with these alone
    #[arg(long, value_name = "N")]
    pub segment: Option<usize>,
    /// Seed of first weights and of the order of the data
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Device to train on
    #[arg(long, value_name = "cpu|cuda[:N]", default_value = "cpu")]
    pub device: String,
    /// Continue from the checkpoint in --out
    #[arg(long)]
    pub resume: bool,
    /// Go on with --data that the checkpoint was not trained on
    #[arg(long, requires = "resume")]
    pub new_data: bool,
    /// Stop after this step with a checkpoint; the schedule stays that of the whole run
    #[arg(long, value_name = "N")]
    pub stop_after: Option<u64>,
    /// Replace bytes that are not UTF-8 instead of refusing them
    #[arg(long)]
    pub lossy: bool,
}

/// Runs the command.
///
/// # Errors
/// Bad data, an impossible configuration, a checkpoint of another one, a full disk.
pub fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let device = device::open(&own_device(&args.device))?;
    let group = group::join(&device)?;
    let talks = group.rank() == 0;
    let config = resolve(args)?;
    config.validate()?;
    let tokenizer = tokenizer(args)?;
    let data = data::open_all(&config.data, &tokenizer, args.lossy)?;
    let summary = train::run(Request {
        config,
        data,
        tokenizer,
        out: args.out.clone(),
        resume: args.resume,
        new_data: args.new_data,
        stop_after: args.stop_after,
        progress: true,
        device,
        group,
    })?;
    if !talks {
        return Ok(());
    }
    let held_out = summary
        .val_loss
        .map_or(String::new(), |loss| format!(", {loss:.4} held out"));
    output.say(format_args!(
        "{}: step {}, {} parameters, loss {:.4}{held_out} nats a token, {:.0} tokens/s, {:.1} s",
        summary.checkpoint.display(),
        summary.steps,
        summary.parameters,
        summary.loss,
        summary.tokens_per_second,
        summary.seconds
    ));
    output.result(&summary)
}

/// Of several processes on a machine each takes a GPU of its own.
fn own_device(name: &str) -> String {
    match (name, std::env::var("LOCAL_RANK")) {
        ("cuda", Ok(local)) => format!("cuda:{local}"),
        _ => name.to_owned(),
    }
}

/// The configuration file, or on --resume the checkpoint's, or the default; then the flags.
fn resolve(args: &Args) -> anyhow::Result<Config> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None if args.resume => Checkpoint::load(&args.out)?.config,
        None => Config::default(),
    };
    if args.resume && args.config.is_some() && config.model.vocab_size == 0 {
        config.model.vocab_size = Checkpoint::load(&args.out)?.config.model.vocab_size;
    }
    if !args.data.is_empty() {
        config.data.clone_from(&args.data);
    } else if args.resume && config.data.is_empty() {
        config.data = Checkpoint::load(&args.out)?.config.data;
    }
    let train = &mut config.train;
    train.steps = args.steps.unwrap_or(train.steps);
    train.seconds = args
        .seconds
        .or(train.seconds.filter(|_| args.steps.is_none()));
    train.lr = args.lr.unwrap_or(train.lr);
    train.batch = args.batch.unwrap_or(train.batch);
    train.context = args.context.unwrap_or(train.context);
    train.segment = args.segment.unwrap_or(train.segment);
    train.seed = args.seed.unwrap_or(train.seed);
    Ok(config)
}

fn tokenizer(args: &Args) -> anyhow::Result<Tokenizer> {
    match &args.tokenizer {
        Some(name) => Tokenizer::open(name),
        None if args.resume => Tokenizer::load(&args.out.join(TOKENIZER)),
        None => Ok(Tokenizer::bytes()),
    }
}
