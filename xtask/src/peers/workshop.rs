//! The folder that peers are downloaded to and built in, and the tools that this takes.

use crate::command::{command, output, root, run, succeeds};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Everything under it may be deleted: the next run makes it again.
#[derive(Debug)]
pub struct Workshop {
    folder: PathBuf,
}

impl Workshop {
    /// `target/peers`, or `peers` in the folder that cargo is told to build in.
    ///
    /// # Errors
    /// Where the folder cannot be made.
    pub fn open() -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let folder = root().join(target).join("peers");
        for part in ["bin", "models"] {
            let part = folder.join(part);
            std::fs::create_dir_all(&part)
                .with_context(|| format!("cannot make {}", part.display()))?;
        }
        Ok(Self { folder })
    }

    /// A file or folder in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// A model's file.
    pub fn model(&self, name: &str) -> PathBuf {
        self.folder.join("models").join(name)
    }

    /// A program of a Python environment of its own that has these packages.
    ///
    /// # Errors
    /// Where Python is missing or the packages cannot be had.
    pub fn python(&self, program: &str, packages: &[&str]) -> Result<PathBuf> {
        let environment = self.path("venv");
        let python = environment.join("bin/python");
        if !succeeds(command(&python).args(["-m", "pip", "--version"])) {
            eprintln!("making a Python environment in {}", environment.display());
            run(command("python3").args(["-m", "venv"]).arg(&environment)).context(
                "llama.cpp is downloaded with Python: install it, on Debian as root with `apt-get install python3-venv`",
            )?;
        }
        let program = environment.join("bin").join(program);
        let installed = packages.iter().all(|package| {
            succeeds(command(&python).args(["-m", "pip", "show", "--quiet", package]))
        });
        if !installed || !program.is_file() {
            eprintln!("installing {}", packages.join(", "));
            let mut install = command(&python);
            install
                .args(["-m", "pip", "install", "--quiet"])
                .args(packages);
            run(&mut install).context("a package registry of Python must be reachable")?;
        }
        Ok(program)
    }
}

/// The machine's compilers of C and C++.
///
/// # Errors
/// Where one is missing.
pub fn compilers() -> Result<()> {
    for compiler in ["cc", "c++"] {
        if output(command(compiler).arg("--version")).is_none() {
            bail!(
                "{compiler} is missing: install it, on Debian as root with `apt-get install g++`"
            );
        }
    }
    Ok(())
}
