//! The C library on a board: built for it, linked by a C compiler with a firmware in C, emulated, and compared with
//! this machine.

use crate::blob;
use crate::boards::{self, Board};
use crate::command::{cargo, command, output_within, root, run};
use crate::elf::Image;
use crate::firmware::EMULATION_LIMIT;
use crate::host::{self, Job};
use crate::report::Report;
use crate::setup::{self, program, toolchain};
use anyhow::{Context, Result, ensure};
use bitttt_core::{Batch, MemoryPlan};
use std::path::{Path, PathBuf};

const TARGET: &str = "thumbv7em-none-eabihf";
const PROFILE: &str = "firmware";
const COMPILER: &str = "arm-none-eabi-gcc";

/// Sources of the firmware.
const FOLDER: &str = "bindings/c/examples/cortex-m4";

/// Most bytes of flash that the firmware may take without the blob.
const FLASH_LIMIT: u64 = 45_900;

/// The processor, then the language; the same as in bindings/c/README.md.
const COMPILER_FLAGS: &[&str] = &[
    "-mcpu=cortex-m4",
    "-mthumb",
    "-mfloat-abi=hard",
    "-mfpu=fpv4-sp-d16",
    "-std=c99",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-nostdlib",
    "-Wl,--gc-sections",
    "-Wl,-z,noexecstack", // what the compiler does not say of its objects, and the linker warns of
    "-Wl,--fatal-warnings",
    "-Ibindings/c/include",
];

/// The board that it is built for and emulated on.
fn board() -> &'static Board {
    let [cortex_m, _] = boards::families();
    cortex_m
}

/// Brings what [`firmware`] needs onto the machine, or says what is missing.
pub fn set_up() -> Result<()> {
    program(COMPILER, "gcc-arm-none-eabi")?;
    setup::emulator(&board().emulator)?;
    toolchain(TARGET).map(drop)
}

/// Builds and runs the firmware around a job; an error where it could panic, is too large or differs from this machine.
pub fn firmware(job: &Job<'_>) -> Result<()> {
    let elf = link(job, &library()?)?;
    let image = Image::read(&elf)?;
    let engine = image
        .flash_bytes
        .saturating_sub(std::fs::metadata(job.blob)?.len());
    ensure!(
        image.panics.is_empty(),
        "the C firmware could panic: {}",
        image.panics.join(", ")
    );
    ensure!(
        engine <= FLASH_LIMIT,
        "flash of the C firmware without the blob is {engine}, above {FLASH_LIMIT}"
    );
    let runner = board().runner()?;
    let (emulator, flags) = runner.split_first().context("a runner is a program")?;
    let (output, success) =
        output_within(command(emulator).args(flags).arg(&elf), EMULATION_LIMIT)?;
    let report = Report::parse(&output)?;
    ensure!(success, "the C firmware ended with a failure");
    let expected = host::outcome(job)?;
    let hashes = (report.hash("tokens_hash")?, report.hash("state_hash")?);
    ensure!(
        hashes == (expected.tokens_hash, expected.state_hash),
        "the C firmware's hashes differ from this machine's"
    );
    eprintln!(
        "C firmware: ok; tokens {:08x}, state {:08x}; flash {} ({engine} without the blob)",
        hashes.0, hashes.1, image.flash_bytes
    );
    Ok(())
}

/// The static library, built as for firmware.
fn library() -> Result<PathBuf> {
    let mut build = cargo(&["build", "--package", "bitttt-c", "--lib"]);
    build.args([
        "--profile",
        PROFILE,
        "--target",
        TARGET,
        "--no-default-features",
    ]);
    build.args(["--target-dir", "target"]); // whatever this build's is
    toolchain(TARGET)?.apply(&mut build, TARGET);
    run(&mut build)?;
    let folder = root().join("target").join(TARGET).join(PROFILE);
    Ok(folder.join("libbitttt_c.a"))
}

/// One call of the C compiler, from sources to ELF file.
fn link(job: &Job<'_>, library: &Path) -> Result<PathBuf> {
    let plan = MemoryPlan::of_blob(blob::read(job.blob)?.bytes(), Batch::ONE)?;
    let folder = root().join("target/xtask");
    std::fs::create_dir_all(&folder)?;
    let elf = folder.join("cortex-m4-c.elf");
    let source = |name: &str| Path::new(FOLDER).join(name);
    let mut compile = command(COMPILER);
    compile
        .args(COMPILER_FLAGS)
        .arg(format!("-DSESSION_BYTES={}", plan.bytes()))
        .arg(format!("-DTOKENS={}", job.tokens))
        .arg(format!("-DPROMPT={:?}", job.prompt))
        .arg(format!("-DMODEL=\"{}\"", job.blob.display()))
        .arg("-T")
        .arg(source("mps2-an386.ld"))
        .args(["main.c", "board.c", "model.S"].map(source))
        .arg(library)
        .arg("-o")
        .arg(&elf);
    run(&mut compile)?;
    Ok(elf)
}
