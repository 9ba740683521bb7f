//! Brings what the tests need onto the machine, or says in one line what is missing and how to get it.

use crate::boards::{BOARDS, Emulator, targets};
use crate::c;
use crate::command::{cargo, command, output, run, succeeds};
use crate::machines::{AARCH64, BARE, Machine, WASM};
use anyhow::{Result, anyhow};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian's newer compiler: it comes with the sources of `core`, from which any target can be built.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LINKER: &str = "ld.lld-22";
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "rust-web-src", "lld-22"];

/// A library with headers, a launcher, and what reads the headers.
const MPI_PACKAGES: &[&str] = &["libopenmpi-dev", "openmpi-bin", "libclang-dev"];

const PYTHON_PACKAGES: &[&str] = &["python3", "python3-venv"];

/// Set this variable to test the second way of compiling for a target where the first one works too.
const FORCE_DEBIAN: &str = "BITTTT_DEBIAN_RUSTC";

/// A compiler for a bare target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The active one; the target's `core` is installed.
    Installed,
    /// Debian's, which builds `core` from source.
    Debian,
}

impl Toolchain {
    /// Makes a `cargo build` for `target` use this compiler.
    pub fn apply(self, build: &mut Command, target: &str) {
        build.env_remove("RUSTFLAGS"); // would replace the linker flags of the crate's own config
        if self == Self::Debian {
            let linker = format!(
                "CARGO_TARGET_{}_LINKER",
                target.replace(['-', '.'], "_").to_uppercase()
            );
            build
                .args(["-Z", "build-std=core"])
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1");
            build.env(linker, DEBIAN_LINKER);
        }
    }
}

/// A compiler for `target`, installed if need be.
pub fn toolchain(target: &str) -> Result<Toolchain> {
    let forced = std::env::var_os(FORCE_DEBIAN).is_some();
    if !forced && (has_target(target) || add_target(target)) {
        return Ok(Toolchain::Installed);
    }
    if has_debian() || (install(DEBIAN_PACKAGES) && has_debian()) {
        return Ok(Toolchain::Debian);
    }
    Err(anyhow!(
        "no compiler for {target}: run `rustup target add {target}`, or on Debian as root `apt-get install {}`",
        DEBIAN_PACKAGES.join(" ")
    ))
}

/// Installs a program if need be.
pub fn program(program: &str, package: &str) -> Result<()> {
    let works = || succeeds(command(program).arg("--version"));
    if works() || (install(&[package]) && works()) {
        return Ok(());
    }
    Err(anyhow!(
        "{program} is missing: install it, on Debian as root with `apt-get install {package}`"
    ))
}

/// Installs a board's emulator if need be.
pub fn emulator(emulator: &Emulator) -> Result<()> {
    program(emulator.program, emulator.package)
}

/// Installs what training under MPI is built and run with, if need be.
pub fn mpi() -> Result<()> {
    let works = || {
        succeeds(command("mpirun").arg("--version")) && succeeds(command("mpicc").arg("--version"))
    };
    if works() && has_libclang() {
        return Ok(());
    }
    if install(MPI_PACKAGES) && works() && has_libclang() {
        return Ok(());
    }
    Err(anyhow!(
        "MPI or libclang is missing: install them, on Debian as root with `apt-get install {}`",
        MPI_PACKAGES.join(" ")
    ))
}

/// Whether bindings to MPI can be made.
fn has_libclang() -> bool {
    let folders = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let llvm = folders.filter(|f| f.file_name().to_string_lossy().starts_with("llvm-"));
    let mut libraries = llvm.flat_map(|f| {
        std::fs::read_dir(f.path().join("lib"))
            .into_iter()
            .flatten()
            .flatten()
    });
    std::env::var_os("LIBCLANG_PATH").is_some()
        || libraries.any(|f| f.file_name().to_string_lossy().starts_with("libclang"))
}

/// Installs the standard library of `target` if need be. Debian's compiler does not help: it would need a C library too.
pub fn target(target: &str) -> Result<()> {
    if has_target(target) || add_target(target) {
        return Ok(());
    }
    Err(anyhow!(
        "no standard library for {target}: run `rustup target add {target}`"
    ))
}

/// Asked whether an environment can be made: on Debian `venv` may be there without what it needs.
const CAN_MAKE_ENVIRONMENTS: &str =
    "import sys, venv, ensurepip; assert sys.version_info >= (3, 9)";

/// A Python that can make environments, installed if need be.
pub fn python() -> Result<&'static str> {
    let works = |name: &&str| succeeds(command(name).args(["-c", CAN_MAKE_ENVIRONMENTS]));
    let find = || ["python3", "python"].into_iter().find(works);
    if let Some(python) = find() {
        return Ok(python);
    }
    install(PYTHON_PACKAGES);
    find().ok_or_else(|| {
        anyhow!(
            "Python 3.9 with venv is missing: install it, on Debian as root with `apt-get install {}`",
            PYTHON_PACKAGES.join(" ")
        )
    })
}

/// Installs the test runner if need be.
pub fn nextest() -> Result<()> {
    if succeeds(&mut cargo(&["nextest", "--version"])) {
        return Ok(());
    }
    run(&mut cargo(&["install", "cargo-nextest", "--locked"]))
}

/// Installs rustfmt and clippy if need be.
pub fn components() -> Result<()> {
    let works = || {
        succeeds(&mut cargo(&["fmt", "--version"]))
            && succeeds(&mut cargo(&["clippy", "--version"]))
    };
    if works() {
        return Ok(());
    }
    run(command("rustup").args(["component", "add", "rustfmt", "clippy"]))
}

/// Installs everything; false where something is missing.
pub fn everything() -> Result<bool> {
    let emulators = BOARDS.iter().map(|board| emulator(&board.emulator));
    let machines = AARCH64.iter().chain(WASM).map(Machine::set_up);
    let bare = targets().into_iter().chain(BARE.iter().copied());
    let bare = bare.map(|target| toolchain(target).map(drop));
    let faults: Vec<_> = [
        nextest(),
        components(),
        mpi(),
        c::set_up(),
        python().map(drop),
    ]
    .into_iter()
    .chain(emulators)
    .chain(machines)
    .chain(bare)
    .filter_map(Result::err)
    .collect();
    faults.iter().for_each(|fault| eprintln!("{fault:#}"));
    if faults.is_empty() {
        eprintln!("everything is there");
    }
    Ok(faults.is_empty())
}

/// Whether the active compiler has a `core` for the target; asks no rustup, which not everybody has.
fn has_target(target: &str) -> bool {
    let folder = output(command("rustc").args(["--print", "target-libdir", "--target", target]));
    folder.is_some_and(|folder| Path::new(&folder).is_dir())
}

fn add_target(target: &str) -> bool {
    // The list of files, not the exit status, is believed.
    let _ = run(command("rustup").args(["target", "add", target]));
    has_target(target)
}

fn has_debian() -> bool {
    Path::new(DEBIAN_RUSTC).is_file()
        && succeeds(command(DEBIAN_LINKER).arg("--version"))
        && debian_sources().is_some_and(|sources| sources.is_dir())
}

/// Folder of the standard library's sources that Debian's compiler looks into.
fn debian_sources() -> Option<PathBuf> {
    let sysroot = output(command(DEBIAN_RUSTC).args(["--print", "sysroot"]))?;
    Some(Path::new(&sysroot).join("lib/rustlib/src/rust/library/core"))
}

/// Installs Debian packages where this is Debian and we may; believes nothing, callers look for themselves.
fn install(packages: &[&str]) -> bool {
    let root = output(command("id").arg("-u")).as_deref() == Some("0");
    if !root || !succeeds(command("apt-get").arg("--version")) {
        return false;
    }
    eprintln!("installing {}", packages.join(" "));
    let apt = |arguments: &[&str]| {
        run(command("apt-get")
            .args(["-qq", "-y"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()))
    };
    let update = apt(&["update"]);
    let arguments = [&["install", "--no-install-recommends"], packages].concat();
    [update, apt(&arguments)]
        .into_iter()
        .all(|done| done.map_err(|fault| eprintln!("{fault:#}")).is_ok())
}
