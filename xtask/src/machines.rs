//! Machines with other instruction sets, imitated by this one: the core's tests, its whole models among them, are built for
//! them and run there.

use crate::command::{cargo, command, root, run};
use crate::setup;
use anyhow::{Context, Result};
use bitttt_core::Backend;
use std::process::{Command, Stdio};

/// Property tests take fewer cases where each costs ten times as much.
const CASES: &str = "64";

/// An imitated machine.
pub struct Machine {
    /// Compiler target, one with a standard library.
    target: &'static str,
    /// What the compiler may take for granted beyond the target.
    flags: &'static str,
    /// Program that runs others as this machine would, its Debian package, and its arguments.
    emulator: (&'static str, &'static str, &'static [&'static str]),
    /// Every backend that has to be there, slowest first.
    backends: &'static str,
    /// Backends to choose at build time, and what has to come of it.
    choices: &'static [(&'static str, &'static str)],
}

/// With DotProd and I8MM; with DotProd; with neither.
pub const AARCH64: &[Machine] = &[
    aarch64(
        &["-cpu", "max"],
        "scalar,neon,neon-dotprod,neon-i8mm",
        &[("neon", "neon"), ("neon-i8mm", "neon-i8mm")],
    ),
    aarch64(
        &["-cpu", "cortex-a76"],
        "scalar,neon,neon-dotprod",
        &[("neon-dotprod", "neon-dotprod")],
    ),
    aarch64(
        &["-cpu", "cortex-a53"],
        "scalar,neon",
        &[("neon-i8mm", "scalar")],
    ),
];

/// With and without vector registers.
pub const WASM: &[Machine] = &[
    wasm("", "scalar", &[]),
    wasm(
        "-C target-feature=+simd128",
        "scalar,wasm-simd128",
        &[("wasm-simd128", "wasm-simd128")],
    ),
];

/// Targets without an operating system that are built only.
pub const BARE: &[&str] = &[
    "aarch64-unknown-none",
    "aarch64-unknown-none-softfloat",
    "wasm32-unknown-unknown",
];

type Choices = &'static [(&'static str, &'static str)];

const fn aarch64(
    arguments: &'static [&'static str],
    backends: &'static str,
    choices: Choices,
) -> Machine {
    Machine {
        target: "aarch64-unknown-linux-musl", // its linker and C library come with the compiler
        flags: "",
        emulator: ("qemu-aarch64", "qemu-user", arguments),
        backends,
        choices,
    }
}

/// Node 20 frees a memory that has grown large while its other threads collect garbage, and crashes at the end of the program.
const NODE: &[&str] = &["--no-warnings", "--single-threaded-gc", "xtask/wasi.mjs"];

const fn wasm(flags: &'static str, backends: &'static str, choices: Choices) -> Machine {
    Machine {
        target: "wasm32-wasip1",
        flags,
        emulator: ("node", "nodejs", NODE),
        backends,
        choices,
    }
}

impl Machine {
    /// Brings what it needs, or says what is missing.
    pub fn set_up(&self) -> Result<()> {
        let (program, package, _) = self.emulator;
        setup::target(self.target)?;
        setup::program(program, package)
    }

    /// Runs the core's tests.
    pub fn test(&self) -> Result<()> {
        eprintln!("--- {} {}", self.target, self.runner());
        let mut tests = cargo(&["nextest", "run", "--package", "bitttt-core"]);
        tests.args(["--no-fail-fast", "--target", self.target]);
        tests
            .env("PROPTEST_CASES", CASES)
            .env("BITTTT_EXPECTED_BACKENDS", self.backends);
        run(self.compile(&mut tests))
    }

    /// Compiles the core with each choice of a backend and looks at what is chosen.
    pub fn choose(&self) -> Result<()> {
        for (choice, expected) in self.choices {
            let mut build = unit_tests(choice, &["--target", self.target]);
            let tests = executable(self.compile(&mut build))?;
            let (program, _, arguments) = self.emulator;
            let mut tests_there = command(program);
            tests_there.args(arguments).arg(tests);
            check_choice(&mut tests_there, choice, expected)?;
        }
        Ok(())
    }

    /// Lints what is compiled for this machine alone.
    pub fn lint(&self) -> Result<()> {
        let mut clippy = cargo(&["clippy", "--package", "bitttt-core", "--lib"]);
        clippy.args(["--target", self.target]);
        run(self.compile(&mut clippy).args(["--", "-D", "warnings"]))
    }

    /// Makes cargo compile for this machine and run there.
    fn compile<'a>(&self, cargo: &'a mut Command) -> &'a mut Command {
        let target = self.target.replace('-', "_").to_uppercase();
        let variable = |what: &str| format!("CARGO_TARGET_{target}_{what}");
        if self.target.contains("linux") {
            cargo.env(variable("LINKER"), "rust-lld");
        }
        cargo
            .env_remove("RUSTFLAGS") // would replace the machine's
            .env(variable("RUSTFLAGS"), self.flags)
            .env(variable("RUNNER"), self.runner())
    }

    /// The emulator's command line; cargo splits it at spaces and runs it from a package's folder.
    fn runner(&self) -> String {
        let (program, _, arguments) = self.emulator;
        let absolute = |argument: &&str| match argument.ends_with(".mjs") {
            true => root().join(argument).display().to_string(),
            false => (*argument).to_owned(),
        };
        let words = arguments.iter().map(absolute);
        std::iter::once(program.to_owned())
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Compiles the core with each of its backends chosen and runs its unit tests on this machine.
pub fn choose_here() -> Result<()> {
    let names = match std::env::consts::ARCH {
        "x86_64" => &["scalar", "avx2", "avx512", "amx"][..],
        "aarch64" => &["scalar", "neon", "neon-dotprod", "neon-i8mm"],
        _ => &["scalar"],
    };
    Backend::request_amx(); // as the test does
    for name in names {
        let tests = executable(&mut unit_tests(name, &[]))?;
        let there = Backend::by_name(name).map_or("scalar", Backend::name);
        check_choice(&mut command(&tests), name, there)?;
        run(&mut command(&tests))?;
    }
    Ok(())
}

/// Builds the core's unit tests; only the core itself is compiled anew, unlike with `RUSTFLAGS`.
fn unit_tests(choice: &str, arguments: &[&str]) -> Command {
    let mut build = cargo(&["rustc", "--package", "bitttt-core", "--lib"]);
    build
        .args([
            "--profile",
            "test",
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(arguments)
        .args(["--", "--cfg", &format!("bitttt_backend=\"{choice}\"")]);
    build
}

/// Builds; where the executable is.
fn executable(build: &mut Command) -> Result<String> {
    let built = build.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let built = built.output().context("cannot start cargo")?;
    let mut path = None;
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        path = message["executable"].as_str().map(str::to_owned).or(path);
    }
    path.filter(|_| built.status.success())
        .context("the core's unit tests do not compile")
}

/// Runs the one test about the choice.
fn check_choice(tests: &mut Command, choice: &str, expected: &str) -> Result<()> {
    eprintln!("--- {choice} chosen, {expected} expected");
    let name = "kernel::tests::detection_gives_what_was_chosen";
    tests.args([name, "--exact"]);
    run(tests.env("BITTTT_EXPECTED_CHOICE", expected))
}
