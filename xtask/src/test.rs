//! `cargo xtask test`: every check there is, one after the other, and at the end what ran and what did not.

use crate::blob;
use crate::boards::{self, BOARDS, Board};
use crate::c;
use crate::command::{cargo, root, run as run_command};
use crate::dependencies;
use crate::firmware;
use crate::host::Job;
use crate::machines::{self, AARCH64, BARE, Machine, WASM};
use crate::python;
use crate::setup::{self, Toolchain};
use anyhow::{Result, anyhow, bail};
use bitttt_core::format::DType;
use std::path::Path;
use std::time::{Duration, Instant};

type Step = fn() -> Result<()>;

/// How a step ended.
#[derive(Debug)]
enum End {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A step that cannot run here, and why.
#[derive(Debug)]
struct Skip(String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Options {
    /// Only the steps with this in their names
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Runs everything; false where a step failed.
pub fn run(options: &Options) -> Result<bool> {
    let steps: [(&str, Step); 16] = [
        ("format", format),
        ("dependencies", dependencies::check),
        ("clippy", clippy),
        ("clippy, firmware", clippy_firmware),
        ("clippy, other instruction sets", clippy_machines),
        ("tests", tests),
        ("training by several processes", parallel),
        ("examples in the docs", doc_tests),
        ("Python package", python_package),
        ("core tests, every backend chosen", machines::choose_here),
        ("core tests on emulated AArch64", aarch64_tests),
        ("core tests in WebAssembly", wasm_tests),
        ("core without std", bare_core),
        ("docs", docs),
        ("firmware in emulators", firmwares),
        ("C in an emulator", c_firmware),
    ];
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let only = options.only.as_deref().unwrap_or_default();
    let ends: Vec<_> = steps
        .into_iter()
        .filter(|(name, _)| name.contains(only))
        .map(|(name, step)| perform(name, step, strict))
        .collect();
    if ends.is_empty() {
        bail!("no step has {only:?} in its name");
    }
    Ok(summarise(&ends))
}

fn perform(
    name: &'static str,
    step: fn() -> Result<()>,
    strict: bool,
) -> (&'static str, End, Duration) {
    eprintln!("\n=== {name}");
    let start = Instant::now();
    let end = judge(step(), strict);
    (name, end, start.elapsed())
}

/// Where nobody watches, what cannot run has failed.
fn judge(result: Result<()>, strict: bool) -> End {
    match result {
        Ok(()) => End::Passed,
        Err(error) if !strict && error.is::<Skip>() => End::Skipped(format!("{error:#}")),
        Err(error) => End::Failed(format!("{error:#}")),
    }
}

fn summarise(ends: &[(&str, End, Duration)]) -> bool {
    eprintln!("\n=== summary");
    for (name, end, time) in ends {
        let (word, why) = match end {
            End::Passed => ("passed", ""),
            End::Failed(why) => ("FAILED", why.as_str()),
            End::Skipped(why) => ("skipped", why.as_str()),
        };
        eprintln!(
            "{word:8}{:6.1} s  {name}{}{why}",
            time.as_secs_f32(),
            if why.is_empty() { "" } else { ": " }
        );
    }
    !ends.iter().any(|(_, end, _)| matches!(end, End::Failed(_)))
}

fn format() -> Result<()> {
    setup::components()?;
    run_command(&mut cargo(&["fmt", "--all", "--check"]))?;
    run_command(cargo(&["fmt", "--all", "--check"]).current_dir(root().join("firmware-example")))
}

fn clippy() -> Result<()> {
    setup::components()?;
    run_command(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn clippy_firmware() -> Result<()> {
    let blob = blob::choose(None)?;
    let job = Job {
        blob: &blob,
        prompt: "Ada",
        tokens: 1,
    };
    for board in boards::families() {
        if toolchain(board.target)? == Toolchain::Debian {
            return Err(skip("clippy needs a target that rustup has installed"));
        }
        let mut clippy = firmware::cargo_for(board, Toolchain::Installed, &job, &["clippy"]);
        run_command(clippy.args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

fn tests() -> Result<()> {
    setup::nextest()?;
    run_command(&mut cargo(&[
        "nextest",
        "run",
        "--workspace",
        "--no-fail-fast",
    ]))
}

/// `bitttt train` under `mpirun`: a feature that not everybody can build.
fn parallel() -> Result<()> {
    setup::nextest()?;
    setup::mpi().map_err(|why| skip(&why.to_string()))?;
    run_command(&mut cargo(&[
        "nextest",
        "run",
        "--package",
        "bitttt",
        "--features",
        "mpi",
        "--test",
        "parallel",
    ]))
}

fn doc_tests() -> Result<()> {
    run_command(&mut cargo(&["test", "--workspace", "--doc", "--quiet"]))
}

/// The package as pip installs it, tested by pytest.
fn python_package() -> Result<()> {
    setup::python().map_err(|why| skip(&why.to_string()))?;
    python::set_up()?;
    python::test()
}

fn aarch64_tests() -> Result<()> {
    machine_tests(AARCH64)
}

fn wasm_tests() -> Result<()> {
    machine_tests(WASM)
}

fn machine_tests(machines: &[Machine]) -> Result<()> {
    setup::nextest()?;
    for machine in machines {
        machine.set_up().map_err(|why| skip(&why.to_string()))?;
        machine.test()?;
        machine.choose()?;
    }
    Ok(())
}

fn clippy_machines() -> Result<()> {
    setup::components()?;
    for machine in AARCH64.iter().chain(WASM) {
        machine.set_up().map_err(|why| skip(&why.to_string()))?;
        machine.lint()?;
    }
    Ok(())
}

/// The boards' targets are built for by their firmware.
fn bare_core() -> Result<()> {
    let boards = boards::families().map(|board| board.target);
    for target in BARE.iter().copied().chain(boards) {
        let toolchain = toolchain(target)?;
        let mut build = cargo(&["build", "--target", target]);
        for package in [
            "bitttt-core",
            "bitttt-sensor",
            "bitttt-sign",
            "bitttt-store",
        ] {
            build.args(["--package", package]);
        }
        toolchain.apply(&mut build, target);
        run_command(&mut build)?;
    }
    Ok(())
}

fn docs() -> Result<()> {
    run_command(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The C library in a firmware that is written in C; the host's part of it is among the tests.
fn c_firmware() -> Result<()> {
    c::set_up().map_err(|why| skip(&why.to_string()))?;
    let random = blob::random(DType::T2)?;
    for blob in blob::demo().into_iter().chain([random]) {
        c::firmware(&Job {
            blob: &blob,
            prompt: "Ada",
            tokens: 40,
        })?;
    }
    Ok(())
}

/// The demo, whose weights are `t5`, and a random model in `t2` on every board; one in `t5` that has what the demo has
/// not, and one with every mixer, on a board of each family.
fn firmwares() -> Result<()> {
    for board in BOARDS {
        toolchain(board.target)?;
        setup::emulator(&board.emulator).map_err(|why| skip(&why.to_string()))?;
    }
    let all: Vec<_> = BOARDS.iter().collect();
    run_on(&all, &blob::choose(None)?)?;
    run_on(&all, &blob::random(DType::T2)?)?;
    run_on(&boards::families(), &blob::random(DType::T5)?)?;
    run_on(&boards::families(), &blob::mixers()?)?;
    firmware::refuses()?;
    firmware::monitor()?;
    firmware::signed(&blob::choose(None)?)?;
    firmware::kernels(&blob::choose(None)?)
}

fn run_on(boards: &[&'static Board], blob: &Path) -> Result<()> {
    let rows = firmware::all(
        boards,
        &Job {
            blob,
            prompt: "Ada",
            tokens: 40, // the mini-batch closes more than once
        },
    )?;
    if !rows.iter().all(firmware::Row::is_ok) {
        bail!("a board's firmware is not ok with {}", blob.display());
    }
    Ok(())
}

fn toolchain(target: &str) -> Result<Toolchain> {
    setup::toolchain(target).map_err(|why| skip(&why.to_string()))
}

fn skip(why: &str) -> anyhow::Error {
    anyhow!(Skip(why.to_owned()))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_step_that_cannot_run_is_skipped_with_its_reason() {
        let end = judge(Err(skip("no emulator")), false);
        assert!(matches!(&end, End::Skipped(why) if why == "no emulator"));
        assert!(summarise(&[("firmware", end, Duration::ZERO)]));
    }

    #[test]
    fn where_nobody_watches_a_step_that_cannot_run_has_failed() {
        let end = judge(Err(skip("no emulator")), true);
        assert!(matches!(&end, End::Failed(_)));
        assert!(!summarise(&[
            ("docs", End::Passed, Duration::ZERO),
            ("firmware", end, Duration::ZERO)
        ]));
    }
}
