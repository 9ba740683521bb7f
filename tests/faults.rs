//! Disks that fill up, folders that cannot be written to, processes that are killed: what was saved is never lost, and what cannot
//! be done is one line.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use support::runs::{
    STEPS, TRAIN, appears, bench, cannot_trace, command, is_finished, names, said, stderr, whole,
};
use support::trace::{self, Fault};
use support::{Bench, demo};

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
