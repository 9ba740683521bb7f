//! Small runs of training that write a checkpoint at every step, and what must hold of the folders that they leave.

use super::Bench;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

pub const CONFIG: &str = "[model]\nd_model = 16\nn_heads = 2\nn_layers = 1\nd_ffn = 16\n[train]\ncontext = 16\nbatch = 1\nlog_every = 1\ncheckpoint_every = 1\neval_every = 1000\n";
/// Its beginning: what follows are steps and the folder.
pub const TRAIN: &str = "train --config c.toml --data corpus.bin --tokenizer bytes";

/// A corpus, and a configuration that writes a checkpoint at every step.
pub fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("c.toml", CONFIG);
    bench.json("corpus --out corpus.txt --bytes 6000 --seed 3");
    bench.json("prepare --data corpus.txt --tokenizer bytes --out corpus.bin");
    bench
}

/// The command, not yet started, with what it says in files of its own.
pub fn command(bench: &Bench, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitttt"));
    command
        .current_dir(bench.path("."))
        .args(line.split_whitespace());
    command
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.stderr(std::fs::File::create(bench.path("stderr")).unwrap());
    command
}

pub fn said(bench: &Bench) -> String {
    std::fs::read_to_string(bench.path("stderr")).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Tensors of a checkpoint by name, and the step that it was written at; nothing where there is no checkpoint.
pub fn checkpoint(folder: &Path) -> Option<(BTreeMap<String, Vec<u8>>, u64)> {
    let bytes = std::fs::read(folder.join("checkpoint.safetensors")).ok()?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let step = header.metadata().as_ref().unwrap()["step"].parse().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, t.data().to_vec()));
    Some((tensors.collect(), step))
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Every file under its name is whole. Returns the checkpoint's step.
pub fn whole(folder: &Path) -> Option<u64> {
    for name in names(folder) {
        let read = || std::fs::read_to_string(folder.join(&name)).unwrap();
        let is_json = |text: &str| serde_json::from_str::<Value>(text).is_ok();
        match name.as_str() {
            "tokenizer.json" | "held_out.json" => assert!(is_json(&read()), "{name}"),
            "metrics.jsonl" => assert!(read().lines().all(is_json), "{name}"),
            "report.html" => assert!(read().trim_end().ends_with("</html>"), "{name}"),
            "loss.svg" => assert!(read().trim_end().ends_with("</svg>"), "{name}"),
            "train.lock" | "checkpoint.safetensors" => {}
            name => assert!(
                name.starts_with(".tmp") || name.starts_with("events."),
                "{name}"
            ),
        }
    }
    checkpoint(folder).map(|(_, step)| step)
}

/// A finished run has the bytes of one to which nothing happened, every step in its metrics once, and nothing besides.
pub fn is_finished(bench: &Bench, run: &str, like: &str, steps: u64) {
    let folder = bench.path(run);
    assert!(
        checkpoint(&folder) == checkpoint(&bench.path(like)),
        "{run} ends with other weights"
    );
    let metrics = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let step = |line: &str| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64();
    let logged: Vec<_> = metrics.lines().filter_map(step).collect();
    assert_eq!(logged, (1..=steps).collect::<Vec<_>>());
    let names = names(&folder);
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("events."))
            .count(),
        1
    );
    assert!(!names.iter().any(|name| name.contains("tmp")), "{names:?}");
}

/// Steps of a run that faults happen to.
pub const STEPS: u64 = 60;

pub fn cannot_trace() {
    eprintln!(
        "skipped: processes cannot be traced here (needs Linux on x86-64 and the right to ptrace)"
    );
}

/// Waits until a file is there.
pub fn appears(path: &Path) {
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
}
