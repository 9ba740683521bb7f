//! Files, and a clock, that change under those who read them: what was opened is what is used, or the change is said.

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};
use support::runs::{
    CONFIG, STEPS, TRAIN, appears, bench, cannot_trace, checkpoint, command, is_finished, names,
    said, stderr, whole,
};
use support::trace::{self, Fault};
use support::{Bench, demo};

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

/// Trains while something happens to the token file, which ends the run; with the file as it was it goes on.
fn trains_until(change: impl FnOnce(&Path, &[u8])) {
    let bench = bench();
    // steps that are long beside the reading of a row, during which nothing but the system could tell
    let longer = CONFIG.replace("d_model = 16", "d_model = 256");
    bench.write("c.toml", longer.replace("batch = 1\n", "batch = 16\n"));
    let (file, folder) = (bench.path("corpus.bin"), bench.path("run"));
    let bytes = std::fs::read(&file).unwrap();
    let train = format!("{TRAIN} --steps 100000 --out run");
    let mut run = command(&bench, &train).spawn().unwrap();
    appears(&folder.join("checkpoint.safetensors"));
    std::thread::sleep(Duration::from_millis(20)); // a tick of the file system's clock
    change(&file, &bytes);
    let status = run.wait().unwrap();
    let said = said(&bench);
    assert_eq!(status.code(), Some(1), "{status}: {said}");
    assert!(
        said.contains("corpus.bin") && said.contains("--resume"),
        "{said}"
    );
    let next = whole(&folder).unwrap() + 1;
    std::fs::write(&file, &bytes).unwrap();
    bench.json(&format!("{train} --stop-after {next} --resume"));
}

#[cfg(unix)]
#[test]
fn a_token_file_that_is_cut_short_ends_the_run_with_one_line() {
    trains_until(|file, _| {
        let open = std::fs::File::options().write(true).open(file);
        open.unwrap().set_len(100).unwrap();
    });
}

#[cfg(unix)]
#[test]
fn a_token_file_that_is_written_to_ends_the_run_with_one_line() {
    trains_until(|file, bytes| {
        use std::io::Write as _;
        let open = std::fs::File::options().write(true).open(file);
        open.unwrap().write_all(bytes).unwrap();
    });
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
