//! `cargo xtask firmware`: every board's firmware, built, emulated, measured and compared with this machine.

use crate::blob;
use crate::boards::{BOARDS, Board};
use crate::command::{cargo, command, output_within, root, run as run_command};
use crate::elf::Image;
use crate::host::{self, Job, Outcome};
use crate::report::Report;
use crate::setup::{Toolchain, program, toolchain};
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// An emulated board runs about 10^8 instructions a second.
const EMULATION_LIMIT: Duration = Duration::from_secs(300);

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Options {
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
    /// Model to run [default: demo/demo.bttt, or a random one where that is missing]
    #[arg(long, value_name = "FILE")]
    blob: Option<PathBuf>,
    /// Text to start from
    #[arg(long, value_name = "TEXT", default_value = "Ada")]
    prompt: String,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    tokens: u16,
}

/// One board's figures.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    board: &'static str,
    tokens_hash: Option<String>,
    state_hash: Option<String>,
    /// Mean over the generated tokens: reading one and choosing the next.
    instructions_per_token: Option<u64>,
    /// Session, other statics and the deepest stack.
    ram_bytes: Option<u64>,
    session_bytes: Option<u64>,
    /// The whole firmware.
    flash_bytes: Option<u64>,
    /// The same without the blob.
    engine_flash_bytes: Option<u64>,
    ok: bool,
    /// What is wrong where it is not ok.
    faults: Vec<String>,
}

/// Runs all boards; false where one is not ok.
pub fn run(options: &Options) -> Result<bool> {
    let blob = blob::choose(options.blob.as_deref())?;
    let job = Job {
        blob: &blob,
        prompt: &options.prompt,
        tokens: options.tokens.into(),
    };
    let rows = all(&job)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    Ok(rows.iter().all(|row| row.ok))
}

/// Figures of all boards, which are also shown on stderr.
pub fn all(job: &Job<'_>) -> Result<Vec<Row>> {
    let expected = host::outcome(job)?;
    eprintln!(
        "model {}, prompt {:?}, {} tokens",
        job.blob.display(),
        job.prompt,
        job.tokens
    );
    eprintln!(
        "this machine: tokens {:08x}, state {:08x}",
        expected.tokens_hash, expected.state_hash
    );
    let rows: Vec<Row> = BOARDS
        .iter()
        .map(|board| measure(board, job, &expected))
        .collect();
    rows.iter().for_each(show);
    Ok(rows)
}

/// One board's figures; whatever goes wrong is a fault in the row.
fn measure(board: &Board, job: &Job<'_>, expected: &Outcome) -> Row {
    let mut row = Row {
        board: board.name,
        ..Row::default()
    };
    if let Err(fault) = try_measure(board, job, expected, &mut row) {
        row.faults.push(format!("{fault:#}"));
    }
    row.ok = row.faults.is_empty();
    row
}

fn try_measure(board: &Board, job: &Job<'_>, expected: &Outcome, row: &mut Row) -> Result<()> {
    program(board.emulator, board.emulator)?;
    run_command(&mut build(board, toolchain(board.target)?, job, "build"))?;
    let image = Image::read(&binary(board, "generate"))?;
    let engine = image
        .flash_bytes
        .saturating_sub(std::fs::metadata(job.blob)?.len());
    row.flash_bytes = Some(image.flash_bytes);
    row.engine_flash_bytes = Some(engine);
    row.check(engine <= board.flash_limit, || {
        format!("flash without the blob is above {}", board.flash_limit)
    });
    row.check(image.panics.is_empty(), || {
        format!("it could panic: {}", image.panics.join(", "))
    });
    let output = emulate(board, "generate")?;
    read_figures(board, &Report::parse(&output)?, expected, row)?;
    let output = emulate(board, "self-test")?;
    let state = Report::parse(&output)?.hash("state_hash")?;
    row.check(state == expected.prompt_state_hash, || {
        format!(
            "state after the prompt is {state:08x}, not {:08x}",
            expected.prompt_state_hash
        )
    });
    Ok(())
}

fn read_figures(
    board: &Board,
    report: &Report<'_>,
    expected: &Outcome,
    row: &mut Row,
) -> Result<()> {
    eprintln!("{}", report.text);
    let (tokens, state) = (report.hash("tokens_hash")?, report.hash("state_hash")?);
    let (ram, session) = (report.count("ram_bytes")?, report.count("session_bytes")?);
    row.tokens_hash = Some(format!("{tokens:08x}"));
    row.state_hash = Some(format!("{state:08x}"));
    row.instructions_per_token = Some(report.count("instructions_per_token")?);
    row.ram_bytes = Some(ram);
    row.session_bytes = Some(session);
    let hashes = (tokens, state) == (expected.tokens_hash, expected.state_hash);
    row.check(hashes, || {
        "the hashes differ from this machine's".to_owned()
    });
    row.check(ram <= session + board.ram_limit, || {
        format!("RAM without the session is above {}", board.ram_limit)
    });
    Ok(())
}

impl Row {
    /// Whether everything is as it should be.
    pub fn is_ok(&self) -> bool {
        self.ok
    }

    fn check(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }
}

/// `cargo build` or `cargo clippy` of a board's firmware around a job.
pub fn build(board: &Board, toolchain: Toolchain, job: &Job<'_>, verb: &str) -> Command {
    let mut build = cargo(&[verb, "--release", "--bins", "--locked"]);
    build
        .current_dir(root().join(board.folder))
        .env("BITTTT_BLOB", job.blob)
        .env("BITTTT_PROMPT", job.prompt)
        .env("BITTTT_TOKENS", job.tokens.to_string());
    toolchain.apply(&mut build, board.target);
    build
}

/// Where cargo puts a firmware's ELF file; its target folder is its own, whatever this build's is.
fn binary(board: &Board, name: &str) -> PathBuf {
    let target = root().join(board.folder).join("target");
    target.join(board.target).join("release").join(name)
}

fn emulate(board: &Board, name: &str) -> Result<String> {
    let mut emulator = command(board.emulator);
    emulator.args(board.arguments).arg(binary(board, name));
    let (output, success) = output_within(&mut emulator, EMULATION_LIMIT)?;
    if success {
        return Ok(output);
    }
    anyhow::bail!(
        "{name} failed: {}",
        output.lines().last().unwrap_or("(it printed nothing)")
    )
}

fn show(row: &Row) {
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    eprintln!(
        "{}: {}; {} instructions a token; flash {} ({} without the blob); RAM {} ({} without the session)",
        row.board,
        if row.ok { "ok" } else { "FAILED" },
        number(row.instructions_per_token),
        number(row.flash_bytes),
        number(row.engine_flash_bytes),
        number(row.ram_bytes),
        number(
            row.ram_bytes
                .zip(row.session_bytes)
                .map(|(ram, session)| ram - session)
        ),
    );
    row.faults.iter().for_each(|fault| eprintln!("  {fault}"));
}
