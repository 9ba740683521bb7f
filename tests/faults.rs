//! Disks that fill up, processes that are killed, files that change under their readers: what was saved is never lost, and what
//! cannot be done is one line.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};
use support::trace::{self, Fault};
use support::{Bench, demo};

const CONFIG: &str = "[model]\nd_model = 16\nn_heads = 2\nn_layers = 1\nd_ffn = 16\n[train]\ncontext = 16\nbatch = 1\nlog_every = 1\ncheckpoint_every = 1\neval_every = 1000\n";
const TRAIN: &str = "train --config c.toml --data corpus.bin --tokenizer bytes";

/// A corpus, and a configuration that writes a checkpoint at every step.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("c.toml", CONFIG);
    bench.json("corpus --out corpus.txt --bytes 6000 --seed 3");
    bench.json("prepare --data corpus.txt --tokenizer bytes --out corpus.bin");
    bench
}

/// The command, not yet started, with what it says in files of its own.
fn command(bench: &Bench, line: &str) -> Command {
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

fn said(bench: &Bench) -> String {
    std::fs::read_to_string(bench.path("stderr")).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Tensors of a checkpoint by name, and the step that it was written at; nothing where there is no checkpoint.
fn checkpoint(folder: &Path) -> Option<(BTreeMap<String, Vec<u8>>, u64)> {
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

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Every file under its name is whole. Returns the checkpoint's step.
fn whole(folder: &Path) -> Option<u64> {
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
fn is_finished(bench: &Bench, run: &str, like: &str, steps: u64) {
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
const STEPS: u64 = 60;

/// Goes on with a run until it is at step `until`, with a fault that comes one change of a file later each time: at first within
/// the start, over and over, then within the first step's checkpoint, then the second's. Returns the calls that it happened at,
/// counted; nothing where processes cannot be traced.
fn sweep(bench: &Bench, until: u64, fault: Fault) -> Option<BTreeMap<&'static str, usize>> {
    let (folder, mut met) = (bench.path("run"), BTreeMap::new());
    let step = || folder.exists().then(|| whole(&folder)).flatten();
    for at in 1.. {
        let before = step();
        if before == Some(until) {
            break;
        }
        let resume = if before.is_some() { "--resume" } else { "" };
        let line = format!("{TRAIN} --steps {STEPS} --stop-after {until} --out run {resume}");
        let end = trace::run(&mut command(bench, &line), at, fault)?;
        let Some(call) = end.call else {
            assert_eq!(end.code, Some(0), "{}", said(bench));
            break;
        };
        *met.entry(call).or_default() += 1;
        let after = step();
        assert!(
            after >= before,
            "a checkpoint is lost: {before:?}, {after:?}"
        );
        match fault {
            Fault::Kill => assert_eq!(end.code, None),
            Fault::Error(_) => fails_in_one_line(bench, &folder, end.code, call),
        }
    }
    Some(met)
}

/// After a call failed.
fn fails_in_one_line(bench: &Bench, folder: &Path, code: Option<i32>, call: &str) {
    let said = said(bench);
    assert_eq!(code, Some(1), "{call}: {said}");
    let errors = said.lines().filter(|line| line.contains("bitttt: error: "));
    assert_eq!(errors.count(), 1, "{call}: {said}");
    assert!(
        !said.contains("panicked") && said.contains("run"),
        "{call}: {said}"
    );
    let left = folder.exists() && names(folder).iter().any(|name| name.contains("tmp"));
    assert!(!left, "{call} left a temporary file");
}

fn cannot_trace() {
    eprintln!(
        "skipped: processes cannot be traced here (needs Linux on x86-64 and the right to ptrace)"
    );
}

#[test]
fn a_kill_before_any_change_of_a_file_loses_no_checkpoint() {
    let bench = bench();
    bench.json(&format!("{TRAIN} --steps {STEPS} --out like"));
    for until in [STEPS / 2, STEPS] {
        // the second time the start is that of a resumed run
        let Some(met) = sweep(&bench, until, Fault::Kill) else {
            return cannot_trace();
        };
        println!(
            "killed {} times: before {met:?}",
            met.values().sum::<usize>()
        );
    }
    // killed behind its last checkpoint a run is done, and swept by whoever comes next
    let line = format!("{TRAIN} --steps {STEPS} --out run --resume");
    bench.refuses(&line, 1, &["nothing to do"]);
    is_finished(&bench, "run", "like", STEPS);
}

#[test]
fn an_error_at_any_change_of_a_file_is_one_line_and_loses_no_checkpoint() {
    let bench = bench();
    bench.json(&format!("{TRAIN} --steps {STEPS} --out like"));
    for (until, error) in [(STEPS / 2, libc::ENOSPC), (STEPS, libc::EIO)] {
        let Some(met) = sweep(&bench, until, Fault::Error(error)) else {
            return cannot_trace();
        };
        println!(
            "error {error} {} times: at {met:?}",
            met.values().sum::<usize>()
        );
    }
    is_finished(&bench, "run", "like", STEPS);
}

/// Other files that are replaced: the old one or the new one, whatever happens, and a new one where nothing does.
#[test]
fn a_fault_while_a_file_is_replaced_leaves_the_old_one_or_the_new_one() {
    let bench = bench();
    bench.json(&format!("{TRAIN} --steps 2 --out run"));
    let demo = demo();
    for (line, file) in [
        ("export --checkpoint run --out m.bttt".to_owned(), "m.bttt"),
        (
            format!("generate --model {demo} --prompt Ada --max-tokens 2 --save-state s.state"),
            "s.state",
        ),
        (
            "prepare --data corpus.txt --tokenizer bytes --out t.bin".to_owned(),
            "t.bin",
        ),
        (
            "corpus --out c.txt --bytes 3000 --seed 1".to_owned(),
            "c.txt",
        ),
    ] {
        bench.json(&line);
        let new = std::fs::read(bench.path(file)).unwrap();
        let mut faults = 0;
        for fault in [Fault::Kill, Fault::Error(libc::ENOSPC)] {
            for at in 1.. {
                bench.write(file, b"old");
                let Some(end) = trace::run(&mut command(&bench, &line), at, fault) else {
                    return cannot_trace();
                };
                let now = std::fs::read(bench.path(file)).unwrap();
                if end.call.is_none() {
                    assert!(
                        end.code == Some(0) && now == new,
                        "{line}: {}",
                        said(&bench)
                    );
                    break;
                }
                faults += 1;
                assert!(
                    now == b"old" || now == new,
                    "{line}: {file} is neither old nor new"
                );
                if let Fault::Error(_) = fault {
                    assert_eq!(end.code, Some(1), "{line}: {}", said(&bench));
                    assert!(
                        !said(&bench).contains("panicked"),
                        "{line}: {}",
                        said(&bench)
                    );
                }
            }
        }
        println!("{file}: {faults} faults");
    }
}

/// Runs a shell script in a mount namespace of its own, where any user may mount a memory disk. Nothing where that is not
/// allowed.
fn with_own_mounts(bench: &Bench, script: &str) -> Option<Output> {
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-ec",
            script,
            env!("CARGO_BIN_EXE_bitttt"),
        ]);
        command.current_dir(bench.path(".")).output()
    };
    std::fs::create_dir_all(bench.path("disk")).unwrap();
    let mounts =
        run("mount -t tmpfs -o size=64k none disk").is_ok_and(|output| output.status.success());
    if !mounts {
        eprintln!("skipped: no mount namespaces for this user");
        return None;
    }
    run(script).ok()
}

#[test]
fn a_disk_that_is_really_full_stops_a_run_which_goes_on_when_there_is_room() {
    let bench = bench();
    bench.json(&format!("{TRAIN} --steps 12 --out like"));
    let train = format!("\"$0\" {TRAIN} --steps 12 --out disk/run");
    let script = format!(
        "mount -t tmpfs -o size=600k none disk
         {train} --stop-after 6
         head -c 1000000 /dev/zero > disk/other 2>/dev/null || true
         cp disk/run/checkpoint.safetensors before
         if {train} --resume 2> full; then exit 9; fi
         cmp before disk/run/checkpoint.safetensors
         ls -A disk/run > left
         rm disk/other
         {train} --resume
         cp -r disk/run run"
    );
    let Some(output) = with_own_mounts(&bench, &script) else {
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));
    let full = std::fs::read_to_string(bench.path("full")).unwrap();
    let last = full.trim_end().lines().last().unwrap();
    assert!(
        last.contains("bitttt: error: ") && last.contains("disk/run") && last.contains("space"),
        "{full}"
    );
    assert!(
        !std::fs::read_to_string(bench.path("left"))
            .unwrap()
            .contains("tmp")
    );
    is_finished(&bench, "run", "like", 12);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named() {
    let bench = bench();
    bench.write("file", "not a folder");
    let train = format!("{TRAIN} --steps 2 --out");
    bench.refuses(&format!("{train} file"), 1, &["file"]);
    bench.refuses(&format!("{train} file/run"), 1, &["file/run"]);
    if cfg!(target_os = "linux") {
        bench.refuses(&format!("{train} /proc/run"), 1, &["/proc/run"]); // where root cannot either
    }
    bench.json(&format!("{train} run"));
    let script = format!(
        "mount --bind run disk
         mount -o remount,bind,ro disk
         for line in '{TRAIN} --steps 4 --resume --out disk' '{TRAIN} --steps 4 --out disk/new' 'export --checkpoint run --out disk/m.bttt'; do
           if \"$0\" $line 2>> said; then exit 9; fi
         done"
    );
    let Some(output) = with_own_mounts(&bench, &script) else {
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));
    let said = std::fs::read_to_string(bench.path("said")).unwrap();
    let errors: Vec<_> = said
        .lines()
        .filter(|line| line.contains("bitttt: error: "))
        .collect();
    assert!(
        errors.len() == 3
            && errors
                .iter()
                .all(|e| e.contains("disk") && e.contains("ead-only")),
        "{said}"
    );
    bench.json(&format!("{TRAIN} --steps 4 --out run --resume"));
}

/// Waits until a file is there.
fn appears(path: &Path) {
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn two_runs_in_one_folder_are_one_run_and_a_refusal() {
    let bench = bench();
    bench.json(&format!("{TRAIN} --steps {STEPS} --out like"));
    let mut first = bench.start(&format!("{TRAIN} --steps 1000000 --out run"));
    appears(&bench.path("run/checkpoint.safetensors"));
    for line in [
        format!("{TRAIN} --steps 5 --out run"),
        format!("{TRAIN} --steps 5 --out run --resume"),
    ] {
        bench.refuses(&line, 1, &["another process trains into run"]);
    }
    assert_eq!(first.try_wait().unwrap(), None, "the first one goes on");
    let step = whole(&bench.path("run")).unwrap();
    first.kill().unwrap(); // which takes its lock with it
    first.wait().unwrap();
    assert!(whole(&bench.path("run")).unwrap() >= step);
    bench.json(&format!("{TRAIN} --steps {STEPS} --out run"));
    is_finished(&bench, "run", "like", STEPS);
}

/// A run that begins in the folder of another one with another tokenizer is killed before its first checkpoint.
#[test]
fn a_checkpoint_is_never_beside_the_tokenizer_of_another_run() {
    let bench = bench();
    bench.json("tokenizer --data corpus.txt --vocab-size 280 --out t.json");
    let train = "train --config c.toml --data corpus.txt --steps 2 --out run --tokenizer";
    for at in 1.. {
        bench.json(&format!("{train} t.json"));
        let tokenizer = std::fs::read(bench.path("run/tokenizer.json")).unwrap();
        let end = trace::run(
            &mut command(&bench, &format!("{train} bytes")),
            at,
            Fault::Kill,
        );
        let Some(end) = end else {
            return cannot_trace();
        };
        let kept = std::fs::read(bench.path("run/tokenizer.json")).unwrap() == tokenizer;
        let old = checkpoint(&bench.path("run"))
            .map(|(tensors, _)| tensors.values().any(|t| t.len() == 280 * 16 * 4));
        assert!(
            old.is_none_or(|old| old == kept),
            "{at}: checkpoint and tokenizer of two runs"
        );
        if end.call.is_none() || old == Some(false) {
            break;
        }
    }
}

#[cfg(unix)]
#[test]
fn a_token_file_that_is_written_to_ends_the_run_with_one_line() {
    let bench = bench();
    // steps long beside the reading of a row, in which nothing but the system could tell
    bench.write(
        "c.toml",
        CONFIG
            .replace("d_model = 16", "d_model = 128")
            .replace("batch = 1\n", "batch = 16\n"),
    );
    let whole_file = std::fs::read(bench.path("corpus.bin")).unwrap();
    let shortened = |path: &Path| {
        std::fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(100)
            .unwrap()
    };
    let touched = |path: &Path| std::fs::write(path, &whole_file).unwrap();
    let changes: [(&str, &dyn Fn(&Path)); 2] =
        [("shortened", &shortened), ("written again", &touched)];
    for (change, make) in changes {
        bench.write("corpus.bin", &whole_file);
        let mut run = command(
            &bench,
            &format!("{TRAIN} --steps 100000 --out {}", change.replace(' ', "-")),
        );
        let mut run = run.spawn().unwrap();
        appears(
            &bench
                .path(&change.replace(' ', "-"))
                .join("checkpoint.safetensors"),
        );
        std::thread::sleep(Duration::from_millis(20)); // beyond the clock of the file system
        make(&bench.path("corpus.bin"));
        let status = run.wait().unwrap();
        assert_eq!(status.code(), Some(1), "{change}: {status}");
        let said = said(&bench);
        assert!(
            said.contains("corpus.bin") && said.contains("--resume"),
            "{change}: {said}"
        );
        bench.write("corpus.bin", &whole_file);
        let folder = bench.path(&change.replace(' ', "-"));
        let step = whole(&folder).unwrap();
        bench.json(&format!(
            "{TRAIN} --steps 100000 --stop-after {} --out {} --resume",
            step + 1,
            folder.display()
        ));
    }
}

#[test]
fn a_token_file_that_is_replaced_by_another_one_harms_no_run() {
    let bench = bench();
    bench.json(&format!("{TRAIN} --steps {STEPS} --out like"));
    let mut run = bench.start(&format!("{TRAIN} --steps {STEPS} --out run"));
    appears(&bench.path("run/train.lock"));
    bench.json("corpus --out other.txt --bytes 9000 --seed 8");
    bench.json("prepare --data other.txt --tokenizer bytes --out corpus.bin");
    assert!(run.wait().unwrap().success());
    // where the file was replaced before it was opened the run is another one
    let opened = checkpoint(&bench.path("run")) == checkpoint(&bench.path("like"));
    assert!(opened, "the run read a file that it did not open");
}

#[test]
fn a_clock_that_goes_back_changes_nothing_but_times_that_are_shown() {
    let bench = bench();
    let train = format!("{TRAIN} --steps 12 --out");
    bench.json(&format!("{train} like"));
    bench.json(&format!("{train} run --stop-after 5"));
    // as a run leaves it whose clock is decades ahead
    let far = 4_000_000_000u64;
    let run = bench.path("run");
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let later = metrics.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line["time"] = (far as f64).into();
        format!("{line}\n")
    });
    std::fs::write(run.join("metrics.jsonl"), later.collect::<String>()).unwrap();
    let events = names(&run)
        .into_iter()
        .find(|name| name.starts_with("events."))
        .unwrap();
    std::fs::rename(
        run.join(events),
        run.join(format!("events.out.tfevents.{far}.0.bitttt")),
    )
    .unwrap();
    for name in names(&run) {
        let file = std::fs::File::options()
            .append(true)
            .open(run.join(name))
            .unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(far))
            .unwrap();
    }
    bench.json(&format!("{train} run --resume"));
    is_finished(&bench, "run", "like", 12);
    // a budget goes by what was trained, not by the clock
    bench.json(&format!("{TRAIN} --seconds 0.2 --out timed"));
}

/// A conversation in which something happens to the model's file between two lines.
fn conversation(bench: &Bench, happens: impl FnOnce(&Path)) -> (Output, PathBuf) {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    std::fs::copy(demo(), bench.path("m.bttt")).unwrap();
    let mut chat = Command::new(env!("CARGO_BIN_EXE_bitttt"));
    chat.current_dir(bench.path("."))
        .args("chat --model m.bttt --max-tokens 8 --temp 0 --save-state s.state".split(' '));
    chat.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut chat = chat.spawn().unwrap();
    let (mut to, mut from) = (
        chat.stdin.take().unwrap(),
        BufReader::new(chat.stdout.take().unwrap()),
    );
    let mut answers = String::new();
    writeln!(to, "Ada Varga went to the market.").unwrap();
    from.read_line(&mut answers).unwrap();
    happens(&bench.path("m.bttt"));
    writeln!(to, "Where did she go?").unwrap();
    drop(to);
    from.read_to_string(&mut answers).unwrap();
    let mut output = chat.wait_with_output().unwrap();
    output.stdout = answers.into_bytes();
    (output, bench.path("s.state"))
}

/// A valid blob of the same size with other weights.
fn other_model() -> Vec<u8> {
    use bitttt_core::format::header::{HEADER_BYTES, SECTION_BYTES, field, section_field};
    let mut blob = std::fs::read(demo()).unwrap();
    let number =
        |blob: &[u8], at: usize| u32::from_le_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
    let entries =
        (0..number(&blob, field::SECTION_COUNT)).map(|i| HEADER_BYTES + i * SECTION_BYTES);
    let tensors = entries
        .clone()
        .find(|&at| number(&blob, at + section_field::KIND) == 3)
        .unwrap();
    let from = number(&blob, tensors + section_field::OFFSET);
    let to = from + number(&blob, tensors + section_field::BYTES);
    // the embedding's codes come first; in another order they are as valid
    blob[from..][..4096].rotate_left(64);
    let sum = bitttt_core::crc32(&blob[from..to]);
    blob[tensors + section_field::CRC..][..4].copy_from_slice(&sum.to_le_bytes());
    blob[field::CRC..][..4].fill(0);
    let end = HEADER_BYTES + entries.len() * SECTION_BYTES;
    let sum = bitttt_core::crc32(&blob[..end]);
    blob[field::CRC..][..4].copy_from_slice(&sum.to_le_bytes());
    bitttt_core::Model::from_bytes(bitttt_export::AlignedCopy::of(&blob).bytes())
        .unwrap()
        .verify()
        .unwrap();
    blob
}

#[test]
fn a_model_that_is_replaced_by_renaming_stays_the_one_that_was_opened() {
    let bench = Bench::new();
    let (undisturbed, state) = conversation(&bench, |_| ());
    let expected = std::fs::read(&state).unwrap();
    std::fs::remove_file(&state).unwrap();
    let other = other_model();
    let (replaced, state) = conversation(&bench, |path| {
        bitttt_export::save_atomically(path, &other).unwrap()
    });
    assert!(
        undisturbed.status.success() && replaced.status.success(),
        "{}",
        stderr(&replaced)
    );
    assert_eq!(replaced.stdout, undisturbed.stdout);
    assert_eq!(std::fs::read(&state).unwrap(), expected);
}

#[test]
fn what_was_learned_from_a_model_that_was_written_to_is_not_saved() {
    let bench = Bench::new();
    let other = other_model();
    // into the same file, which stays as long, so that the map stays whole
    let writes = |path: &Path| {
        use std::io::Write as _;
        let mut file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all(&other).unwrap();
    };
    let (written, state) = conversation(&bench, writes);
    let said = stderr(&written);
    assert_eq!(written.status.code(), Some(1), "{said}");
    assert!(
        said.contains("s.state") && said.contains("written to"),
        "{said}"
    );
    assert!(!said.contains("panicked") && !state.exists());
}
