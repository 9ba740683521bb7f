//! `cargo xtask firmware`: every board's firmware, built, emulated, measured and compared with this machine.

mod kernels;
mod monitor;
mod plan;
mod row;
mod signed;
mod sizes;
mod task;

pub use kernels::run as kernels;
pub use monitor::run as monitor;
pub use row::Row;
pub use signed::run as signed;

use crate::blob;
use crate::boards::{self, BOARDS, Board};
use crate::command::{cargo, output_within, root, run as run_command};
use crate::elf::Image;
use crate::host::Job;
use crate::report::Report;
use crate::setup::{self, Toolchain, toolchain};
use anyhow::{Result, ensure};
use bitttt_core::format::DType;
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use task::Task;

/// What else a row has to be.
type Judge = fn(&Board, &Task<'_>, &mut Row) -> Result<()>;

/// An emulated board runs about 10^8 instructions a second.
pub const EMULATION_LIMIT: Duration = Duration::from_secs(300);

/// The job whose stack is planned to the byte.
const PROMPT: &str = "Ada";
const TOKENS: u16 = 32;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Options {
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
    /// Only this board
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(BOARDS.iter().map(|board| board.name)))]
    board: Option<String>,
    /// Model to run; boards that it does not fit on run a small one [default: demo/demo.bttt, or a random one where
    /// that is missing]
    #[arg(long, value_name = "FILE")]
    blob: Option<PathBuf>,
    /// Text to start from
    #[arg(long, value_name = "TEXT", default_value = PROMPT)]
    prompt: String,
    /// Print the flash of each module too
    #[arg(long)]
    sizes: bool,
    /// Measure all boards with the models of the repository and write firmware-example/measured.json, which `bitttt plan`
    /// reads
    #[arg(long, exclusive = true)]
    record: bool,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = TOKENS, value_parser = clap::value_parser!(u16).range(1..))]
    tokens: u16,
}

/// Runs the boards; false where one is not ok.
pub fn run(options: &Options) -> Result<bool> {
    if options.record {
        return plan::record();
    }
    let blob = blob::choose(options.blob.as_deref())?;
    let job = Job {
        blob: &blob,
        prompt: &options.prompt,
        tokens: options.tokens.into(),
    };
    let wanted = |board: &&Board| options.board.as_ref().is_none_or(|name| name == board.name);
    let boards: Vec<&Board> = BOARDS.iter().filter(wanted).collect();
    let rows = all(&boards, &job)?;
    if options.sizes {
        rows.iter()
            .for_each(|row| eprintln!("{}", sizes::table(row)));
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    Ok(rows.iter().all(Row::is_ok))
}

/// Figures of boards, compared with their plans; they are also shown on stderr.
pub fn all(boards: &[&'static Board], job: &Job<'_>) -> Result<Vec<Row>> {
    rows(boards, job, plan::compare)
}

/// Figures of boards; `judge` may add faults.
fn rows(boards: &[&'static Board], job: &Job<'_>, judge: Judge) -> Result<Vec<Row>> {
    let small = blob::small()?;
    let asked = Task::new(job.clone())?;
    let mut rows = Vec::new();
    for board in boards {
        rows.push(if asked.fits(board) {
            measure(board, &asked, judge)
        } else {
            let job = Job {
                blob: &small,
                ..job.clone()
            };
            measure(board, &Task::new(job)?, judge)
        });
    }
    eprintln!("{}", row::table(&rows));
    Ok(rows)
}

/// One board's figures; whatever goes wrong is a fault in the row.
fn measure(board: &Board, task: &Task<'_>, judge: Judge) -> Row {
    eprintln!("--- {}: {}", board.name, task);
    let mut row = Row::new(board.name, task.model());
    let measured = try_measure(board, task, &mut row);
    if let Err(fault) = measured.and_then(|()| judge(board, task, &mut row)) {
        row.fault(format!("{fault:#}"));
    }
    row
}

fn try_measure(board: &Board, task: &Task<'_>, row: &mut Row) -> Result<()> {
    setup::emulator(&board.emulator)?;
    let toolchain = toolchain(board.target)?;
    // `kernels` is not for every board: its weights need a quarter of a megabyte.
    let arguments = ["build", "--bin", "generate", "--bin", "self-test"];
    run_command(&mut cargo_for(board, toolchain, &task.job, &arguments))?;
    let image = Image::read(&binary(board, "generate"))?;
    row.read_image(board, &image, task.blob_bytes);
    let output = emulate(board, toolchain, &task.job, "generate")?;
    let report = Report::parse(&output)?;
    eprintln!("{}", report.text);
    row.read_report(board, &report, &task.expected, task.session_bytes)?;
    let output = emulate(board, toolchain, &task.job, "self-test")?;
    row.read_self_test(&Report::parse(&output)?, &task.expected)
}

/// `cargo` with these arguments, in a board's crate, around a job.
pub fn cargo_for(
    board: &Board,
    toolchain: Toolchain,
    job: &Job<'_>,
    arguments: &[&str],
) -> Command {
    let mut cargo = cargo(arguments);
    cargo
        .args(["--release", "--locked"])
        .args(board.engine.arguments())
        .arg("--config")
        .arg(board.configuration())
        .arg("--target-dir")
        .arg(target_folder())
        .current_dir(root().join(board.folder))
        .env("BITTTT_BLOB", job.blob)
        .env("BITTTT_PROMPT", job.prompt)
        .env("BITTTT_TOKENS", job.tokens.to_string());
    toolchain.apply(&mut cargo, board.target);
    cargo
}

/// Boards share it: most of what is built is the same for several.
fn target_folder() -> PathBuf {
    root().join("firmware-example/target")
}

/// Where cargo puts a firmware's ELF file; boards with the same compiler target take turns.
fn binary(board: &Board, name: &str) -> PathBuf {
    let release = target_folder().join(board.target).join("release");
    release.join(name)
}

/// Shows that the least firmware refuses a model that needs more than it has, instead of running it somehow.
pub fn refuses() -> Result<()> {
    let blob = blob::random(DType::T2)?;
    let job = Job {
        blob: &blob,
        prompt: PROMPT,
        tokens: 1,
    };
    let board = boards::minimal();
    let toolchain = toolchain(board.target)?;
    let mut cargo = cargo_for(
        board,
        toolchain,
        &job,
        &["run", "--quiet", "--bin", "generate"],
    );
    let (output, success) = output_within(&mut cargo, EMULATION_LIMIT)?;
    let last = output.lines().last().unwrap_or_default();
    ensure!(
        !success && last.starts_with("failed: the blob is damaged, or needs"),
        "{} does not refuse {}: {last}",
        board.name,
        blob.display()
    );
    Ok(())
}

/// What a firmware prints. Cargo becomes the emulator, which the board's configuration names.
fn emulate(board: &Board, toolchain: Toolchain, job: &Job<'_>, name: &str) -> Result<String> {
    let mut cargo = cargo_for(board, toolchain, job, &["run", "--quiet", "--bin", name]);
    let (output, success) = output_within(&mut cargo, EMULATION_LIMIT)?;
    if success {
        return Ok(output);
    }
    anyhow::bail!(
        "{name} failed: {}",
        output.lines().last().unwrap_or("(it printed nothing)")
    )
}
