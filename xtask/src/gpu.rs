//! `cargo xtask gpu`: the trainer with CUDA, built on any Linux machine, with a GPU or without.
//!
//! nvcc and its headers come from NVIDIA's Python packages into `target/gpu`. The program loads CUDA's libraries when it
//! is asked for a GPU and not before: one program starts everywhere.

mod cudarc;
mod pretend;
mod toolkit;

use crate::command::{cargo, command, root, run as run_command};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What `cargo xtask gpu` takes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  cargo xtask gpu && scp target/gpu/bitttt-gpu.tar.xz GPU-MACHINE:
  # there: tar xf bitttt-gpu.tar.xz && OUT=results bitttt-gpu/run.sh

The first build takes some ten minutes of two cores, since Candle's kernels are compiled. Needs Python 3 with pip, a C++
compiler, tar and xz.")]
pub struct Options {
    /// Compute capability of the GPU that Candle's kernels are compiled for; ours are compiled where they run
    #[arg(long, value_name = "NN", default_value = "90")]
    capability: u32,
    /// Only compile our kernels with nvcc, and print the registers and the memory that each takes
    #[arg(long)]
    kernels: bool,
    /// Run what was built here, on a GPU that is pretended: all of it but the card and its libraries
    #[arg(long)]
    pretend: bool,
    /// Only check that the workspace compiles with the feature
    #[arg(long)]
    check: bool,
}

/// Name of what is packed.
const NAME: &str = "bitttt-gpu";

/// Builds and packs.
pub fn run(options: &Options) -> Result<bool> {
    let folder = folder()?;
    let toolkit = toolkit::assemble(&folder)?;
    if options.kernels {
        return toolkit.report_kernels(options.capability).map(|()| true);
    }
    let patched = cudarc::patched(&folder)?;
    build(options, &toolkit, &patched)?;
    if options.check {
        return Ok(true);
    }
    pack(&folder)?;
    if options.pretend {
        pretend::check(&folder, &folder.join(NAME).join("bitttt"))?;
    }
    Ok(true)
}

/// `target/gpu`, or `gpu` in the folder that cargo is told to build in.
fn folder() -> Result<PathBuf> {
    let folder = target().join("gpu");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target)
}

fn build(options: &Options, toolkit: &toolkit::Toolkit, cudarc: &Path) -> Result<()> {
    let verb = if options.check { "clippy" } else { "build" };
    let mut build = cargo(&[
        verb,
        "--release",
        "--package",
        "bitttt",
        "--features",
        "cuda",
    ]);
    build.arg("--config").arg(format!(
        "patch.crates-io.cudarc.path={:?}",
        cudarc.display().to_string()
    ));
    if options.check {
        build.args(["--all-targets", "--", "-D", "warnings"]);
    }
    toolkit.apply(&mut build, options.capability);
    // A patch on the command line rewrites the lock file, which is to stay upstream's.
    let lock = root().join("Cargo.lock");
    let kept = fs::read(&lock).context("cannot read Cargo.lock")?;
    let built = run_command(&mut build);
    fs::write(&lock, kept).context("cannot restore Cargo.lock")?;
    built
}

/// One folder with all that a GPU machine needs of us, and an archive of it.
fn pack(folder: &Path) -> Result<()> {
    let packed = folder.join(NAME);
    fs::create_dir_all(&packed).context("cannot make the folder to pack")?;
    let program = target().join("release/bitttt");
    fs::copy(&program, packed.join("bitttt"))
        .with_context(|| format!("cannot copy {}", program.display()))?;
    // Not by cargo's profile: another profile compiles Candle's kernels once more.
    run_command(command("strip").arg(packed.join("bitttt")))?;
    let script = root().join("xtask/src/gpu/run.sh");
    fs::copy(&script, packed.join("run.sh"))
        .with_context(|| format!("cannot copy {}", script.display()))?;
    let archive = folder.join(format!("{NAME}.tar.xz"));
    run_command(
        command("tar")
            .arg("-C")
            .arg(folder)
            .args(["--owner=0", "--group=0", "-cJf"])
            .arg(&archive)
            .arg(NAME),
    )?;
    let bytes = fs::metadata(&archive)
        .context("the archive is missing")?
        .len();
    println!("{}: {:.1} MB", archive.display(), bytes as f64 / 1e6);
    Ok(())
}
