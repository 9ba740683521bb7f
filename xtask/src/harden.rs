//! `cargo xtask harden`: the unsafe code under Miri, which sees every read and write that Rust does not define, and under
//! AddressSanitizer, which runs all instruction sets of this machine at full speed. Both need a nightly compiler, which
//! `cargo xtask test` does not: this is run by hand, before a release and after work on kernels.

use crate::command::{command, output, run as run_command, succeeds};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Options {
    /// The compiler, as rustup calls it; it needs the components miri and rust-src
    #[arg(long, default_value = "nightly")]
    toolchain: String,
    /// Only the checks with this in their names
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// One run of cargo.
struct Check {
    name: &'static str,
    tool: Tool,
    /// Packages and tests.
    arguments: &'static [&'static str],
    flags: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Tool {
    /// With this many cases of each property: Miri is some thousand times slower than the machine.
    Miri(u32),
    Address,
}

const CHECKS: &[Check] = &[
    Check {
        name: "Miri, kernels in plain Rust and with AVX2", // it knows neither AVX-512 nor assembly: AddressSanitizer's
        tool: Tool::Miri(1),
        arguments: &["--package", "bitttt-core", "--lib", "kernel::"],
        flags: "-Ctarget-feature=+avx2",
    },
    Check {
        name: "Miri, threads",
        tool: Tool::Miri(1),
        arguments: &["--package", "bitttt-threads"],
        flags: "",
    },
    Check {
        name: "Miri, C interface",
        tool: Tool::Miri(1),
        arguments: &["--package", "bitttt-fuzz", "--test", "replay", "c_api"],
        flags: "",
    },
    Check {
        name: "AddressSanitizer, core with every backend",
        tool: Tool::Address,
        arguments: &["--package", "bitttt-core", "--lib", "--tests"],
        flags: "-Zsanitizer=address",
    },
    Check {
        name: "AddressSanitizer, threads, C interface and what fuzzing kept",
        tool: Tool::Address,
        arguments: &[
            "--package",
            "bitttt-threads",
            "--package",
            "bitttt-fuzz",
            "--lib",
            "--tests",
        ],
        flags: "-Zsanitizer=address",
    },
];

/// Runs the checks; false where one failed.
pub fn run(options: &Options) -> Result<bool> {
    let toolchain = &options.toolchain;
    if !succeeds(cargo(toolchain).args(["miri", "--version"])) {
        bail!(
            "no compiler `{toolchain}` with Miri: `rustup toolchain install nightly --component miri,rust-src`, or name another with --toolchain"
        );
    }
    let host = output(command("rustc").args(["--print", "host-tuple"])).context("no rustc")?;
    let only = options.only.as_deref().unwrap_or_default();
    let mut failed = false;
    for check in CHECKS.iter().filter(|check| check.name.contains(only)) {
        eprintln!("\n=== {}", check.name);
        if let Err(fault) = run_command(&mut check.command(toolchain, &host)) {
            eprintln!("{fault:#}");
            failed = true;
        }
    }
    Ok(!failed)
}

impl Check {
    fn command(&self, toolchain: &str, host: &str) -> Command {
        let mut cargo = cargo(toolchain);
        match self.tool {
            Tool::Miri(cases) => cargo
                .args(["miri", "test"])
                .env("MIRIFLAGS", "-Zmiri-disable-isolation") // proptest keeps what it found in files
                .env("PROPTEST_CASES", cases.to_string()),
            // a target of its own keeps the sanitizer out of what runs while building
            Tool::Address => cargo.args(["test", "--target", host]),
        };
        cargo.args(self.arguments).env("RUSTFLAGS", self.flags);
        cargo
    }
}

fn cargo(toolchain: &str) -> Command {
    let mut cargo = command("rustup");
    cargo.args(["run", toolchain, "cargo"]);
    cargo.env_remove("CARGO");
    cargo
}
