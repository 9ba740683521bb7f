//! Watches machines with a small model that learns each one's normal while it runs, beside the same model frozen and
//! two detectors without a model. How the model was made and what came out: docs/EMBEDDED.md, "Streams that are not text".
//!
//! ```sh
//! cargo run --release -p bitttt-sensor --example sensor                                    # synthetic machines
//! cargo run --release -p bitttt-sensor --example sensor -- --csv FILE --column 2           # a series of yours
//! cargo run --release -p bitttt-sensor --example sensor -- text --csv FILE --out train.txt # to train on it
//! ```

mod detect;
mod figures;
mod report;
mod series;
mod text;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use detect::{Detector, Settings};
use series::{Injection, Source};
use std::ops::Range;
use std::path::PathBuf;

#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Subcommand)]
enum Command {
    /// Writes series as the text that `bitttt train` takes
    Text(text::Args),
}

/// Watches machines, or the series of a CSV file, and prints what was found
#[derive(clap::Args)]
struct Watch {
    /// The model
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/sensor.bttt"))]
    model: PathBuf,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    injection: Injection,
    /// Lines of the file in which something is known to be wrong, as 2128..2695
    #[arg(long, value_name = "LINES", value_parser = series::lines, requires = "csv")]
    window: Vec<Range<usize>>,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Text(args)) => text::write(&args),
        None => watch(&cli.watch),
    }
}

fn watch(args: &Watch) -> Result<()> {
    let mut all = args.source.read()?;
    args.injection.apply(&args.source, &mut all)?;
    if let [one] = all.as_mut_slice() {
        one.mark(&args.window);
    } else {
        ensure!(args.window.is_empty(), "--window needs a single --csv");
    }
    let blob = std::fs::read(&args.model)?;
    let blob = bitttt_export::AlignedCopy::of(&blob);
    let detectors = Detector::all(args.settings.settle);
    let mut runs = Vec::new();
    for detector in &detectors {
        let traces = all
            .iter()
            .map(|s| detector.run(blob.bytes(), s, &args.settings));
        runs.push(traces.collect::<Result<Vec<_>>>()?);
    }
    report::print(&detectors, &all, &runs, &args.settings);
    Ok(())
}
