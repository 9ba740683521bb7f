//! Runs the command in a folder of its own.
#![allow(dead_code)] // each test file uses its part

pub mod runs;
pub mod trace;

use assert_cmd::Command;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A temporary folder with the command at hand.
pub struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        bitttt_core::Backend::request_amx(); // as the command does: the tests then name the same backends
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs `bitttt` with the words of `line` in the folder.
    pub fn run(&self, line: &str) -> Output {
        self.run_args(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub fn run_args(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bitttt"))
            .current_dir(self.folder.path())
            .args(args)
            .output()
            .unwrap()
    }

    pub fn run_with_input(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitttt"));
        command
            .current_dir(self.folder.path())
            .args(args)
            .write_stdin(input)
            .output()
            .unwrap()
    }

    /// Runs and expects success; the JSON document of stdout.
    pub fn json(&self, line: &str) -> serde_json::Value {
        let output = self.run(&format!("{line} --json"));
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{line}: stdout is not one JSON document: {e}"))
    }

    /// Runs and expects exit code `code`, and one line on stderr that says all of `words`.
    pub fn refuses(&self, line: &str, code: i32, words: &[&str]) {
        self.refuses_args(&line.split_whitespace().collect::<Vec<_>>(), code, words);
    }

    /// Runs where no file can grow beyond 4 KiB.
    pub fn run_on_a_full_disk(&self, args: &[&str]) -> Output {
        let limited = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command
            .current_dir(self.folder.path())
            .args(["-c", limited, env!("CARGO_BIN_EXE_bitttt")])
            .args(args);
        command.output().unwrap()
    }

    /// Starts the command and does not wait for it.
    pub fn start(&self, line: &str) -> std::process::Child {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bitttt"));
        command
            .current_dir(self.folder.path())
            .args(line.split_whitespace());
        command.stderr(std::process::Stdio::null()).spawn().unwrap()
    }

    /// Runs where no file can grow beyond 4 KiB, and expects one line that names `file`, and no file.
    pub fn refuses_on_a_full_disk(&self, args: &[&str], file: &str) {
        let output = self.run_on_a_full_disk(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(
            stderr.contains("bitttt: error: ") && stderr.contains(file),
            "{args:?}: {stderr}"
        );
        assert!(!self.path(file).exists(), "{file} was left half-written");
    }

    pub fn refuses_args(&self, args: &[&str], code: i32, words: &[&str]) {
        let output = self.run_args(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        let last = stderr.trim_end().lines().last().unwrap_or_default();
        for word in words {
            assert!(
                last.contains(word),
                "{args:?} should mention `{word}`: {stderr}"
            );
        }
        if code == 1 {
            assert!(last.starts_with("bitttt: error: "), "{stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// The blob that lives in the repository.
pub fn demo() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/demo.bttt");
    path.to_str().unwrap().to_owned()
}
