//! The Python package, installed into an environment of its own as a user would install it, and its tests.

use crate::command::{cargo, command, root, run, succeeds};
use crate::setup;
use anyhow::Result;
use std::env::{join_paths, split_paths, var_os};
use std::path::PathBuf;
use std::process::Command;

const FOLDER: &str = "bindings/python";

/// What the build, the package and its tests need.
const PACKAGES: &[&str] = &["maturin>=1.9,<2", "numpy>=1.22", "pytest>=7", "mypy"];

/// Makes the environment, or says what is missing.
pub fn set_up() -> Result<()> {
    let python = setup::python()?;
    if !succeeds(pip().arg("--version")) {
        let mut make = command(python);
        run(make.args(["-m", "venv", "--clear"]).arg(environment()))?;
    }
    let mut install = pip();
    install.args(["install", "--quiet"]).args(PACKAGES);
    run(&mut install)
}

/// Installs the package, built with the profile that the other tests have built, and tests it.
pub fn test() -> Result<()> {
    let mut install = pip();
    install.args([
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--force-reinstall",
    ]);
    install.args(["--config-settings", "build-args=--profile=dev"]);
    install.arg(root().join(FOLDER));
    run(&mut install)?;
    // of the whole workspace, so that its crates are those that the other tests have built
    run(&mut cargo(&[
        "build",
        "--quiet",
        "--workspace",
        "--bin",
        "bitttt",
    ]))?;
    let mut pytest = inside("python");
    pytest
        .args(["-m", "pytest"])
        .env("BITTTT_COMMAND", root().join("target/debug/bitttt"))
        .current_dir(root().join(FOLDER));
    run(&mut pytest)
}

/// Where the environment is.
fn environment() -> PathBuf {
    root().join("target/xtask/python")
}

fn pip() -> Command {
    let mut pip = inside("python");
    pip.args(["-m", "pip", "--disable-pip-version-check"]);
    pip
}

/// A program of the environment, for which its other programs are found.
fn inside(program: &str) -> Command {
    let programs = environment().join("bin");
    let mut command = command(programs.join(program));
    let others = var_os("PATH").unwrap_or_default();
    let path = join_paths([programs].into_iter().chain(split_paths(&others)));
    command.env("PATH", path.unwrap_or(others));
    command.env("CARGO_TARGET_DIR", root().join("target"));
    command
}
