//! What users get wrong: one line that names it and the way out, nothing half-written, never a panic.

mod support;

use support::{Bench, demo};

const TEXT: &str =
    "Ada Varga went to the market. Bo Kim stayed at home and read. Ada Varga came back.\n";

fn bench_with_text() -> Bench {
    let bench = Bench::new();
    bench.write("text.txt", TEXT.repeat(60));
    bench
}

#[test]
fn a_missing_or_empty_data_file_is_named() {
    let bench = Bench::new();
    bench.write("empty.txt", "");
    for command in [
        "train --out run --data",
        "tokenizer --vocab-size 300 --out t.json --data",
        "prepare --tokenizer bytes --out t.bin --data",
    ] {
        bench.refuses(&format!("{command} nowhere.txt"), 1, &["nowhere.txt"]);
        bench.refuses(&format!("{command} empty.txt"), 1, &["empty.txt", "empty"]);
    }
    bench.refuses_args(
        &["eval", "--model", &demo(), "--data", "empty.txt"],
        1,
        &["empty.txt"],
    );
    assert!(!bench.path("t.json").exists() && !bench.path("t.bin").exists());
}

#[test]
fn a_text_that_is_not_utf8_says_where_and_lossy_takes_it() {
    let bench = Bench::new();
    let mut text = TEXT.repeat(60).into_bytes();
    text[100] = 0xFF;
    bench.write("latin.txt", text);
    bench.refuses(
        "prepare --data latin.txt --tokenizer bytes --out t.bin",
        1,
        &["latin.txt", "byte 100", "--lossy"],
    );
    bench.refuses_args(
        &["eval", "--model", &demo(), "--data", "latin.txt"],
        1,
        &["byte 100", "--lossy"],
    );
    assert!(!bench.path("t.bin").exists());
    assert!(
        bench
            .run("prepare --data latin.txt --tokenizer bytes --out t.bin --lossy")
            .status
            .success()
    );
}

#[test]
fn a_corpus_shorter_than_one_context_is_refused() {
    let bench = Bench::new();
    bench.write("short.txt", "too short");
    bench.refuses(
        "train --data short.txt --out run --context 256 --steps 1",
        1,
        &["9 tokens", "one context of 256"],
    );
}

#[test]
fn files_without_a_weight_among_weighted_ones_and_no_files_at_all_are_refused() {
    let bench = bench_with_text();
    bench.write("more.txt", TEXT.repeat(30));
    for (data, words) in [
        ("", ["no data", "--data"]),
        ("--data text.txt=2 more.txt", ["more.txt", "weight"]),
        ("--data text.txt=0 more.txt=1", ["text.txt", "positive"]),
        ("--data text.txt=much", ["text.txt=much", "cannot read"]),
    ] {
        bench.refuses(&format!("train --out run --steps 1 {data}"), 1, &words);
    }
}

#[test]
fn an_unknown_or_impossible_config_field_is_named() {
    let bench = bench_with_text();
    for (config, word) in [
        ("[model]\nd_modle = 64\n", "d_modle"),
        ("[model]\nd_model = 65\nn_heads = 4\n", "n_heads"),
        ("[model]\nvocab_size = 100\n", "vocab_size"),
        ("[train]\nbatch = 0\n", "batch"),
        ("[train]\nlr = -1.0\n", "lr"),
    ] {
        bench.write("c.toml", config);
        bench.refuses(
            "train --config c.toml --data text.txt --out run --steps 1",
            1,
            &[word],
        );
    }
}

#[test]
fn resuming_a_checkpoint_of_another_config_is_refused() {
    let bench = bench_with_text();
    let small = "[model]\nd_model = 32\nn_heads = 2\nn_layers = 1\nd_ffn = 32\n[train]\ncontext = 32\nbatch = 2\n";
    bench.write("a.toml", small);
    bench.write("b.toml", small.replace("d_ffn = 32", "d_ffn = 64"));
    assert!(
        bench
            .run("train --config a.toml --data text.txt --out run --steps 2")
            .status
            .success()
    );
    bench.refuses(
        "train --config b.toml --data text.txt --out run --steps 4 --resume",
        1,
        &["d_ffn"],
    );
    bench.write("other.txt", TEXT.repeat(50));
    bench.refuses(
        "train --config a.toml --data other.txt --out run --steps 4 --resume",
        1,
        &["--new-data"],
    );
    bench.json("train --config a.toml --data other.txt --out run --steps 4 --resume --new-data");
    bench.refuses("export --checkpoint nowhere --out m.bttt", 1, &["nowhere"]);
    assert!(!bench.path("m.bttt").exists());
}

#[test]
fn a_truncated_or_foreign_blob_is_refused_by_every_command() {
    let bench = bench_with_text();
    let blob = std::fs::read(demo()).unwrap();
    let mut damaged = blob.clone();
    damaged[blob.len() / 2] ^= 1;
    for (name, bytes, word) in [
        ("cut.bttt", &blob[..blob.len() / 2], "again"),
        (
            "foreign.bttt",
            b"GGUF and something else, long enough to look like a file".as_slice(),
            "not a .bttt blob",
        ),
        ("damaged.bttt", &damaged, "damaged"),
        ("empty.bttt", &[], "empty"),
    ] {
        bench.write(name, bytes);
        bench.refuses(
            &format!("generate --model {name} --prompt hello"),
            1,
            &[name, word],
        );
        bench.refuses(
            &format!("eval --model {name} --data text.txt"),
            1,
            &[name, word],
        );
        bench.refuses(&format!("plan --model {name}"), 1, &[name, word]);
        bench.refuses(&format!("inspect {name}"), 1, &[name, word]);
    }
    bench.refuses(
        "generate --model nowhere.bttt --prompt hello",
        1,
        &["nowhere.bttt"],
    );
}

#[test]
fn an_empty_prompt_and_impossible_sampling_are_refused() {
    let bench = Bench::new();
    let demo = demo();
    bench.refuses_args(
        &["generate", "--model", &demo, "--prompt", ""],
        1,
        &["prompt is empty"],
    );
    bench.refuses_args(
        &[
            "generate", "--model", &demo, "--prompt", "a", "--temp", "nan",
        ],
        1,
        &["--temp"],
    );
    bench.refuses_args(
        &[
            "generate", "--model", &demo, "--prompt", "a", "--top-p", "0",
        ],
        1,
        &["--top-p"],
    );
    bench.refuses_args(
        &[
            "generate",
            "--model",
            &demo,
            "--prompt",
            "a",
            "--backend",
            "abacus",
        ],
        1,
        &["abacus", "scalar"],
    );
}

#[test]
fn a_state_that_is_damaged_or_of_another_kind_is_refused() {
    let bench = Bench::new();
    let demo = demo();
    let run = [
        "generate",
        "--model",
        &demo,
        "--prompt",
        "Ada",
        "--max-tokens",
        "4",
        "--save-state",
        "s.state",
    ];
    assert!(bench.run_args(&run).status.success());
    let mut state = std::fs::read(bench.path("s.state")).unwrap();
    state[40] ^= 1;
    bench.write("bad.state", &state);
    bench.write("other.state", b"not a state at all, but a text");
    for (name, word) in [
        ("bad.state", "checksum"),
        ("other.state", "not a snapshot"),
        ("none.state", "none.state"),
    ] {
        bench.refuses_args(
            &[
                "generate",
                "--model",
                &demo,
                "--prompt",
                "a",
                "--load-state",
                name,
            ],
            1,
            &[name, word],
        );
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let bench = Bench::new();
    bench.refuses("generate --model x.bttt", 2, &[]);
    bench.refuses("frobnicate", 2, &[]);
    bench.refuses("corpus --out c.txt --bytes many", 2, &[]);
    bench.refuses_args(&["plan", "--model", &demo(), "--ram", "lots"], 2, &[]);
}

#[test]
fn a_model_that_does_not_fit_the_device_is_exit_code_1() {
    let bench = Bench::new();
    bench.refuses_args(
        &["plan", "--model", &demo(), "--ram", "1K"],
        1,
        &["RAM", "1024"],
    );
    assert!(
        bench
            .run_args(&["plan", "--model", &demo(), "--ram", "64M", "--flash", "64M"])
            .status
            .success()
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_gives_one_line_and_leaves_nothing_half_written() {
    let bench = bench_with_text();
    let demo = demo();
    for (args, file) in [
        (
            &[
                "corpus", "--out", "c.txt", "--bytes", "100000", "--seed", "1",
            ][..],
            "c.txt",
        ),
        (
            &[
                "prepare",
                "--data",
                "text.txt",
                "--tokenizer",
                "bytes",
                "--out",
                "t.bin",
            ],
            "t.bin",
        ),
        (
            &[
                "generate",
                "--model",
                &demo,
                "--prompt",
                "Ada",
                "--max-tokens",
                "2",
                "--save-state",
                "s.state",
            ],
            "s.state",
        ),
    ] {
        bench.refuses_on_a_full_disk(args, file);
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_before_anything_is_written() {
    let bench = bench_with_text();
    for command in [
        "train --data text.txt --out run --device",
        "bench-train --shape 15m --device",
        "check-device --device",
        "eval --data text.txt --checkpoint run --device",
    ] {
        let asks = |name: &str| format!("{command} {name}");
        bench.refuses(&asks("gpu"), 1, &["--device gpu", "cpu", "cuda[:N]"]);
        bench.refuses(&asks("cuda:x"), 1, &["--device cuda:x"]);
        // No machine has a hundred: not one without CUDA, not one without a driver, not one with GPUs.
        bench.refuses(&asks("cuda:99"), 1, &["--device cpu"]);
    }
    assert!(!bench.path("run").exists());
}

#[test]
fn flags_that_a_checkpoint_has_no_use_for_are_refused() {
    let bench = bench_with_text();
    let trained = bench.run("train --data text.txt --out run --steps 1 --context 32 --batch 1");
    assert!(trained.status.success());
    let generate = "generate --checkpoint run --prompt Ada --max-tokens 1";
    bench.refuses(
        &format!("{generate} --save-state s"),
        1,
        &["--save-state", "export"],
    );
    assert_eq!(bench.run("generate --prompt Ada").status.code(), Some(2));
    let both = "eval --checkpoint run --model m.bttt --data text.txt";
    assert_eq!(bench.run(both).status.code(), Some(2));
    bench.refuses("bench-train --shape 16m", 1, &["16m", "15m, 125m, 350m"]);
}

/// `bitttt … | head` closes the pipe early.
#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let bench = Bench::new();
    for flags in ["", "--json"] {
        let line = format!(
            "\"$0\" inspect {} {flags} | head -c 1 > taken; exit ${{PIPESTATUS[0]}}",
            demo()
        );
        let output = std::process::Command::new("bash")
            .current_dir(bench.path(""))
            .args(["-c", &line, env!("CARGO_BIN_EXE_bitttt")])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert!(
            !told.contains("panicked") && !told.contains("error"),
            "{told}"
        );
    }
}

#[cfg(not(feature = "mpi"))]
#[test]
fn one_of_several_processes_does_not_train_by_itself() {
    let bench = Bench::new();
    bench.json("corpus --out corpus.txt --bytes 20000 --seed 3");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bitttt"))
        .current_dir(bench.path(""))
        .env("WORLD_SIZE", "2")
        .args("train --data corpus.txt --out run --steps 1".split(' '))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("WORLD_SIZE") && told.contains("--features mpi"),
        "{told}"
    );
    assert!(!bench.path("run").exists());
}
