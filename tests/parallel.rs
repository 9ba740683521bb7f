//! Several processes under `mpirun` train one model. `cargo xtask test` runs this where MPI is.

mod support;

use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::Bench;

/// Five rows on two or three processes: no equal parts.
const CONFIG: &str = "[model]\nd_model = 32\nn_heads = 2\nn_layers = 1\nd_ffn = 48\n\
    [train]\ncontext = 64\nbatch = 5\nlog_every = 1\ncheckpoint_every = 5\n";

fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("c.toml", CONFIG);
    bench.json("corpus --out corpus.txt --bytes 40000 --seed 3");
    bench
}

/// `mpirun` of so many processes of `bitttt train`.
fn several(bench: &Bench, processes: usize, flags: &str) -> Command {
    let mut command = Command::new("mpirun");
    command
        .current_dir(bench.path(""))
        .envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ])
        .args(["--oversubscribe", "-n", &processes.to_string()])
        .arg(env!("CARGO_BIN_EXE_bitttt"))
        .args("train --config c.toml --data corpus.txt --json".split_whitespace())
        .args(flags.split_whitespace());
    command
}

fn succeeds(mut command: Command) -> Value {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).expect("one process tells the result, once")
}

fn losses(bench: &Bench, run: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(bench.path(&format!("{run}/metrics.jsonl"))).unwrap();
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
    text.lines().map(|line| loss(line).unwrap()).collect()
}

/// Sums are taken in another order; from the first trit that falls to another side, the runs part slowly.
#[test]
fn several_processes_have_the_losses_of_one_and_resume_in_another_number() {
    let bench = bench();
    bench.json("train --config c.toml --data corpus.txt --out one --steps 12");
    let summary = succeeds(several(&bench, 2, "--out two --steps 12"));
    assert_eq!(summary["steps"], 12);
    succeeds(several(&bench, 3, "--out three --steps 12 --stop-after 5"));
    succeeds(several(&bench, 2, "--out three --steps 12 --resume"));
    let one = losses(&bench, "one");
    for run in ["two", "three"] {
        let found = losses(&bench, run);
        assert_eq!(found.len(), 12);
        assert!((found[0] - one[0]).abs() < 2e-6, "{run}: {found:?} {one:?}");
        for (found, one) in found.iter().zip(&one) {
            assert!((found - one).abs() < 2e-3, "{run}: {found} {one}");
        }
    }
    bench.json("export --checkpoint two --out two.bttt");
}

#[test]
fn what_one_process_cannot_do_ends_all_with_one_line() {
    let bench = bench();
    let output = several(&bench, 2, "--out x --seconds 5").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(told.contains("bitttt: error: train.seconds"), "{told}");
}

#[test]
fn a_process_that_is_killed_takes_the_others_with_it() {
    let bench = bench();
    let mut command = several(&bench, 2, "--out x --steps 1000000");
    let mut run = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while !bench.path("x/checkpoint.safetensors").exists() {
        assert!(Instant::now() < patience && run.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    let one = children(&run)
        .into_iter()
        .next_back()
        .expect("a process that trains");
    let killed = Command::new("kill").args(["-9", &one]).status().unwrap();
    assert!(killed.success());
    while run.try_wait().unwrap().is_none() {
        assert!(Instant::now() < patience, "the others hang");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!run.wait().unwrap().success());
}

/// Process ids of what `mpirun` has started.
fn children(run: &Child) -> Vec<String> {
    let output = Command::new("ps")
        .args(["-o", "pid=", "--ppid", &run.id().to_string()])
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}
