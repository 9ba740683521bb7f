//! The command `bitttt`.

use std::process::ExitCode;

use bitttt::cmd;
use bitttt::output::Output;
use clap::{Parser, Subcommand};

/// Trains, exports, runs and measures ternary models that keep learning while they run.
#[derive(Parser)]
#[command(name = "bitttt", version, arg_required_else_help = true)]
struct Cli {
    /// Print one JSON document on stdout; human text goes to stderr
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(cmd::quickstart::Args),
    Corpus(cmd::corpus::Args),
    Tokenizer(cmd::tokenizer::Args),
    Prepare(cmd::prepare::Args),
    Train(cmd::train::Args),
    Export(cmd::export::Args),
    Import(cmd::import::Args),
    Generate(cmd::generate::Args),
    Chat(cmd::chat::Args),
    Eval(cmd::eval::Args),
    Inspect(cmd::inspect::Args),
    Plan(cmd::plan::Args),
    Synth(cmd::synth::Args),
    Keygen(cmd::keygen::Args),
    Sign(cmd::sign::Args),
    Verify(cmd::verify::Args),
    Bench(cmd::bench::Args),
    BenchTrain(cmd::bench_train::Args),
    CheckDevice(cmd::check_device::Args),
}

fn main() -> ExitCode {
    bitttt::process::prepare();
    let cli = Cli::parse();
    let out = Output { json: cli.json };
    match run(&cli.command, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bitttt: error: {}", one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// On one line, and with nothing that a terminal would take for a command: names out of hostile files may be in it.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn run(command: &Command, out: &Output) -> anyhow::Result<()> {
    match command {
        Command::Quickstart(args) => cmd::quickstart::run(args, out),
        Command::Corpus(args) => cmd::corpus::run(args, out),
        Command::Tokenizer(args) => cmd::tokenizer::run(args, out),
        Command::Prepare(args) => cmd::prepare::run(args, out),
        Command::Train(args) => cmd::train::run(args, out),
        Command::Export(args) => cmd::export::run(args, out),
        Command::Import(args) => cmd::import::run(args, out),
        Command::Generate(args) => cmd::generate::run(args, out),
        Command::Chat(args) => cmd::chat::run(args, out),
        Command::Eval(args) => cmd::eval::run(args, out),
        Command::Inspect(args) => cmd::inspect::run(args, out),
        Command::Plan(args) => cmd::plan::run(args, out),
        Command::Synth(args) => cmd::synth::run(args, out),
        Command::Keygen(args) => cmd::keygen::run(args, out),
        Command::Sign(args) => cmd::sign::run(args, out),
        Command::Verify(args) => cmd::verify::run(args, out),
        Command::Bench(args) => cmd::bench::run(args, out),
        Command::BenchTrain(args) => cmd::bench_train::run(args, out),
        Command::CheckDevice(args) => cmd::check_device::run(args, out),
    }
}
