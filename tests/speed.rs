//! Random models and the measurement of speed: what they print has the promised shape. How fast anything is, is no test.

mod support;

use bitttt_core::Backend;
use bitttt_core::format::Mixer;
use serde_json::Value;
use support::{Bench, demo};

/// Keys of every figure.
const KEYS: [&str; 7] = [
    "backend",
    "threads",
    "test",
    "tokens_per_s",
    "weight_bytes_per_token",
    "read_gb_s",
    "bandwidth_share",
];

/// A folder with a random model in it.
fn with_model(mixer: &str) -> Bench {
    let bench = Bench::new();
    bench.json(&format!("synth --shape tiny --mixer {mixer} --out m.bttt"));
    bench
}

/// `[backend, threads, test]` of every figure; the numbers of each are checked.
fn figures(report: &Value) -> Vec<(String, u64, String)> {
    let figures = report.as_array().unwrap().iter().map(|figure| {
        for key in &KEYS[3..] {
            let number = figure[key].as_f64().unwrap();
            assert!(number.is_finite() && number > 0.0, "{key} in {figure}");
        }
        let text = |key: &str| figure[key].as_str().unwrap().to_owned();
        (
            text("backend"),
            figure["threads"].as_u64().unwrap(),
            text("test"),
        )
    });
    figures.collect()
}

#[test]
fn bench_reports_every_backend_thread_count_and_test() {
    let bench = with_model("ttt-linear");
    let line =
        "bench --model m.bttt --seconds 0.02 --prompt 40 --threads 1 --threads 3 --backend all";
    let report = bench.json(line);
    let mut expected = Vec::new();
    for backend in Backend::all() {
        for threads in [1, 3] {
            for test in ["decode", "prefill"] {
                expected.push((backend.name().to_owned(), threads, test.to_owned()));
            }
        }
    }
    assert_eq!(figures(&report), expected);
    for figure in report.as_array().unwrap() {
        let mut keys: Vec<_> = figure
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut expected = KEYS;
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
}

#[test]
fn bench_takes_the_fastest_backend_unless_told_and_only_the_tests_wanted() {
    let bench = with_model("ttt-linear");
    let report = bench.json("bench --model m.bttt --seconds 0.02 --threads 2 --test decode");
    let fastest = Backend::detect().name().to_owned();
    assert_eq!(figures(&report), [(fastest, 2, "decode".to_owned())]);
    let report = bench.json("bench --model m.bttt --seconds 0.02 --threads 1 --test prefill --backend scalar --prompt 8");
    assert_eq!(
        figures(&report),
        [("scalar".to_owned(), 1, "prefill".to_owned())]
    );
}

#[test]
fn a_state_that_learns_is_as_large_after_a_million_tokens() {
    let bench = with_model("ttt-linear");
    let report = bench
        .json("bench --model m.bttt --seconds 0.02 --threads 1 --test decode --context 20,3k,1M");
    assert_eq!(figures(&report).len(), 3);
    let column = |key: &str| -> Vec<u64> {
        let figures = report.as_array().unwrap().iter();
        figures
            .map(|figure| figure[key].as_u64().unwrap())
            .collect()
    };
    assert_eq!(column("context"), [20, 3072, 1 << 20]);
    // Each head: W [64, 64], u [64], and a mini-batch of keys, gradients and rates.
    let head = 64 * 64 + 64 + 16 * (64 + 64 + 1);
    assert_eq!(column("state_bytes"), [4 * 4 * head * 4; 3]);
}

#[test]
fn random_models_have_the_size_of_their_shape_and_repeat() {
    let bench = Bench::new();
    let t2 = bench.json("synth --shape tiny --out a.bttt");
    assert_eq!(t2["ternary_weights"], 4 * (4 * 256 * 256 + 3 * 256 * 1024));
    assert_eq!(
        t2["parameters"],
        4 * (4 * 256 * 256 + 3 * 256 * 1024 + 2 * 256) + 2 * 4096 * 256 + 256
    );
    let again = bench.json("synth --shape tiny --out b.bttt --seed 0");
    assert_eq!(t2["fingerprint"], again["fingerprint"]);
    let other = bench.json("synth --shape tiny --out b.bttt --seed 1");
    assert_ne!(t2["fingerprint"], other["fingerprint"]);
    let t5 = bench.json("synth --shape tiny --out b.bttt --weights t5");
    assert!(t5["bytes"].as_u64() < t2["bytes"].as_u64());
    let bits = &bench.json("inspect b.bttt")["bits_per_ternary_weight"];
    assert!((1.6..1.7).contains(&bits.as_f64().unwrap()), "{bits}");
}

#[test]
fn random_models_of_every_mixer_run_and_are_measured() {
    for mixer in Mixer::ALL.map(Mixer::name) {
        let bench = with_model(mixer);
        let report = bench.json("generate --model m.bttt --prompt Ada --max-tokens 5 --ignore-end");
        assert_eq!(
            report["tokens"].as_array().map(Vec::len),
            Some(5),
            "{mixer}"
        );
        let line = "bench --model m.bttt --seconds 0.02 --threads 2 --prompt 20";
        assert_eq!(figures(&bench.json(line)).len(), 2, "{mixer}");
    }
}

#[test]
fn a_cache_grows_with_the_context_and_is_that_long() {
    let bench = with_model("attention");
    let line = "bench --model m.bttt --seconds 0.02 --threads 1 --test decode --context 256,16k";
    let report = bench.json(line);
    assert_eq!(figures(&report).len(), 2);
    for (figure, context) in report.as_array().unwrap().iter().zip([256, 16_384]) {
        let keys_and_values = 4 * context * 2 * 256 * 2; // four layers, f16
        assert_eq!(figure["state_bytes"], keys_and_values, "{context}");
    }
}

#[test]
fn a_shape_can_be_the_config_of_a_training() {
    let bench = Bench::new();
    bench.write(
        "c.toml",
        "[model]\nvocab_size = 300\nd_model = 64\nn_heads = 2\n[train]\nsteps = 3\n",
    );
    bench.json("synth --shape c.toml --out m.bttt");
    let config = &bench.json("inspect m.bttt")["config"];
    assert_eq!(
        (&config["d_model"], &config["vocab_size"]),
        (&64.into(), &300.into())
    );
}

#[test]
fn threads_change_no_bit() {
    let bench = Bench::new();
    let demo = demo();
    bench.write(
        "text.txt",
        "Ada Varga came home. Ada Varga went.<|endoftext|>\nBo Kim slept.".repeat(3),
    );
    let run = |threads: usize| {
        let line = format!(
            "generate --model {demo} --prompt Ada --max-tokens 40 --seed 5 --ignore-end --threads {threads}"
        );
        let report = bench.json(&line);
        assert_eq!(report["threads"], threads);
        let scores = bench.json(&format!(
            "eval --model {demo} --data text.txt --threads {threads}"
        ));
        (
            report["tokens_hash"].clone(),
            report["state_hash"].clone(),
            scores,
        )
    };
    let alone = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), alone, "{threads} threads");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_way_out() {
    let bench = with_model("ttt-linear");
    let names: Vec<_> = Backend::all().map(Backend::name).collect();
    let mut words = vec!["abacus"];
    words.extend(names);
    bench.refuses("bench --model m.bttt --backend abacus", 1, &words);
    bench.write("x.txt", "some text");
    bench.refuses(
        "eval --model m.bttt --data x.txt --backend abacus",
        1,
        &words,
    );
    bench.refuses("bench --model m.bttt --seconds 0", 1, &["--seconds"]);
    bench.refuses("bench --model m.bttt --prompt 0", 1, &["--prompt"]);
    bench.refuses("bench --model nowhere.bttt", 1, &["nowhere.bttt"]);
    bench.write(
        "cut.bttt",
        &std::fs::read(bench.path("m.bttt")).unwrap()[..5000],
    );
    bench.refuses("bench --model cut.bttt", 1, &["cut.bttt", "again"]);
    for command in [
        "bench --model m.bttt",
        "generate --model m.bttt --prompt a",
        "eval --model m.bttt --data x.txt",
    ] {
        for threads in ["0", "1025", "many"] {
            bench.refuses(&format!("{command} --threads {threads}"), 2, &[]);
        }
    }
    bench.refuses("bench --model m.bttt --context 0", 2, &[]);
    bench.refuses("bench --model m.bttt --test sing", 2, &[]);
}

#[test]
fn shapes_that_are_none_are_refused_by_name_and_leave_no_file() {
    let bench = Bench::new();
    bench.write("bad.toml", "d_modle = 64\n");
    bench.write("odd.toml", "vocab_size = 300\nd_model = 65\n");
    bench.write(
        "large.toml",
        "vocab_size = 300\nd_model = 4000000\nn_heads = 1\n",
    );
    for (shape, words) in [
        ("3b", ["tiny, small, 1b, 2b4t", "3b"]),
        ("bad.toml", ["bad.toml", "d_modle"]),
        ("odd.toml", ["odd.toml", "n_heads"]),
        ("large.toml", ["large.toml", "d_model = 4000000"]),
    ] {
        bench.refuses(&format!("synth --shape {shape} --out m.bttt"), 1, &words);
        assert!(!bench.path("m.bttt").exists());
    }
    bench.refuses("synth --shape tiny --out m.bttt --mixer mamba", 2, &[]);
    bench.refuses(
        "synth --shape tiny --out nowhere/m.bttt",
        1,
        &["nowhere/m.bttt"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_random_model_that_finds_no_room_leaves_nothing_half_written() {
    let bench = Bench::new();
    bench.refuses_on_a_full_disk(&["synth", "--shape", "tiny", "--out", "m.bttt"], "m.bttt");
}
