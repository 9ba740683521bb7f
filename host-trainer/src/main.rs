//! The command `bitttt`.

use std::process::ExitCode;

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
enum Command {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Output { json: cli.json };
    match run(cli.command, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bitttt: error: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, _out: &Output) -> anyhow::Result<()> {
    match command {}
}
