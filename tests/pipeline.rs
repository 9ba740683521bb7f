//! The whole road, small: text, tokenizer, training, export, evaluation, generation, and the same bits on every one
//! of its branches.

mod support;

use serde_json::Value;
use std::hash::BuildHasher as _;
use std::time::Duration;
use support::{Bench, demo};

const CONFIG: &str = "[model]\nd_model = 32\nn_heads = 2\nn_layers = 1\nd_ffn = 48\n[train]\ncontext = 64\nbatch = 4\nlog_every = 1\n";

fn trained() -> Bench {
    let bench = Bench::new();
    bench.write("c.toml", CONFIG);
    bench.json("corpus --out corpus.txt --bytes 40000 --seed 3");
    bench.json("tokenizer --data corpus.txt --vocab-size 300 --out t.json");
    bench.json("prepare --data corpus.txt --tokenizer t.json --out corpus.bin");
    bench.json("train --config c.toml --data corpus.bin --tokenizer t.json --out run --steps 12");
    bench
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number at {path} in {value}"))
}

#[test]
fn what_was_trained_is_what_runs() {
    let bench = trained();
    for weights in ["t2", "t5"] {
        let exported = bench.json(&format!(
            "export --checkpoint run --out {weights}.bttt --weights {weights}"
        ));
        assert!(number(&exported, "/parity/top1_agreement") > 0.98);
        let inspected = bench.json(&format!("inspect {weights}.bttt"));
        let bits = number(&inspected, "/bits_per_ternary_weight");
        assert!(
            if weights == "t2" {
                (2.0..2.2).contains(&bits)
            } else {
                (1.6..1.9).contains(&bits)
            },
            "{bits}"
        );
    }
    let scores = ["t2", "t5"].map(|w| {
        bench.json(&format!(
            "eval --model {w}.bttt --data corpus.txt --plot {w}.svg"
        ))
    });
    assert_eq!(scores[0], scores[1], "both packings are the same model");
    assert!(number(&scores[0], "/learning/recall_values") > 100.0);
    assert!(
        std::fs::read_to_string(bench.path("t2.svg"))
            .unwrap()
            .contains("<svg")
    );
    assert!(bench.path("run/loss.svg").exists() && bench.path("run/metrics.jsonl").exists());
    bench.json("plan --model t2.bttt");
}

/// The graph reads documents whole, the core token by token: the same losses but for units in the last place.
#[test]
fn a_checkpoint_is_evaluated_and_continued_as_its_blob_is() {
    let bench = trained();
    bench.json("export --checkpoint run --out model.bttt");
    let of = |what: &str| bench.json(&format!("eval {what} --data corpus.txt --context 60"));
    let (blob, checkpoint) = (
        of("--model model.bttt"),
        of("--checkpoint run --device cpu"),
    );
    for field in ["/learning/loss", "/frozen/loss"] {
        let (a, b) = (number(&blob, field), number(&checkpoint, field));
        assert!((a - b).abs() < 0.002, "{field}: {a} and {b}");
    }
    assert_eq!(
        blob["learning"]["recall_values"],
        checkpoint["learning"]["recall_values"]
    );
    let make = |what: &str| {
        bench.json(&format!(
            "generate {what} --prompt Ada --max-tokens 12 --temp 0"
        ))
    };
    let (blob, checkpoint) = (make("--model model.bttt"), make("--checkpoint run"));
    assert_eq!(blob["tokens"], checkpoint["tokens"]);
    assert_eq!(blob["text"], checkpoint["text"]);
}

const HYBRID: &str = "[model]\nd_model = 32\nn_heads = 4\nn_layers = 4\nd_ffn = 48\nmini_batch = 8\ngate = true\n\
mixers = [\"ttt-linear\", \"attention\", \"ttt-mlp\", \"ttt-lite\"]\nkv_heads = 2\n";

/// Norms, functions and sums over tokens differ by units in the last place, which the 8-bit codes of the activations
/// behind them turn into single codes at rounding ties. Keys and values are rounded to binary16 on both sides; a key
/// at a tie differs by 2^-11 of itself, less than one code.
#[test]
fn a_hybrid_of_all_mixers_is_the_same_model_in_core_and_trainer() {
    let bench = trained();
    for (name, more, context) in [
        ("whole", "", 64),
        ("window", "window = 20\nkv_cache = \"f32\"\n", 0),
        ("longer", "context = 100\n", 100),
    ] {
        let train = "[train]\ncontext = 64\nbatch = 4\n";
        bench.write("hybrid.toml", format!("{HYBRID}{more}{train}"));
        bench.json(&format!(
            "train --config hybrid.toml --data corpus.bin --tokenizer t.json --out {name} --steps 12"
        ));
        let exported = bench.json(&format!(
            "export --checkpoint {name} --out {name}.bttt --weights t5"
        ));
        let parity = |field: &str| number(&exported, &format!("/parity/{field}"));
        assert!(parity("top1_agreement") > 0.99, "{exported}");
        let mean = parity("mean_logit_difference") / parity("logit_deviation");
        assert!(mean < 0.005, "{exported}");
        assert!((parity("loss_core") - parity("loss_trainer")).abs() < 0.002);

        let inspected = bench.json(&format!("inspect {name}.bttt"));
        let layers = inspected["config"]["layers"].as_array().unwrap();
        let kinds: Vec<_> = layers
            .iter()
            .map(|l| l["mixer"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["ttt-linear", "attention", "ttt-mlp", "ttt-lite"]);
        assert_eq!(layers[1]["kv_heads"], 2);
        assert_eq!(inspected["config"]["context"], context);
        let plan = bench.json(&format!("plan --model {name}.bttt"));
        assert_eq!(plan["mixers"]["ttt-lite"], 1);
        assert_eq!(plan["context"].as_u64().unwrap_or(0), context);
        // Some documents are longer than the training's context: the host makes room for them.
        bench.json(&format!("eval --model {name}.bttt --data corpus.txt"));
    }
    let generate = "generate --model whole.bttt --prompt Ada --max-tokens 80 --ignore-end --temp 0";
    bench.refuses(generate, 1, &["room for 64 tokens", "--context"]);
    bench.json(&format!("{generate} --context 100"));
    bench.json("generate --model window.bttt --prompt Ada --max-tokens 80 --ignore-end");
}

/// Every saving for the smallest devices, and matrices of every type.
#[test]
fn a_compact_model_is_the_same_in_core_and_trainer_whatever_its_weights() {
    let bench = trained();
    bench.json("tokenizer --data corpus.txt --alphabet --out letters.json");
    let light = "[model]\nd_model = 40\nn_layers = 2\nn_heads = 4\nd_ffn = 30\nmini_batch = 8\nactivation = \"relu2\"\n\
        ffn_conv = true\nfast_start = \"identity\"\ninner_rate = \"head\"\n";
    let train = "[train]\ncontext = 64\nbatch = 4\nlatent_clip = 2.0\n";
    let mut bytes = Vec::new();
    for weights in ["ternary", "int4", "int8", "float"] {
        bench.write(
            "light.toml",
            format!("{light}weights = \"{weights}\"\n{train}"),
        );
        bench.json(&format!(
            "train --config light.toml --data corpus.txt --tokenizer letters.json --out {weights} --steps 12"
        ));
        let exported = bench.json(&format!(
            "export --checkpoint {weights} --out {weights}.bttt --weights t5 --compact"
        ));
        assert!(
            number(&exported, "/parity/top1_agreement") > 0.99,
            "{exported}"
        );
        let losses = ["core", "trainer"].map(|of| number(&exported, &format!("/parity/loss_{of}")));
        assert!((losses[0] - losses[1]).abs() < 0.002, "{exported}");
        bytes.push(number(&exported, "/bytes"));
    }
    assert!(bytes.is_sorted() && bytes[0] < 16_000.0, "{bytes:?}");
    let layer = &bench.json("inspect ternary.bttt")["config"]["layers"][0];
    assert_eq!(layer["fast_start"], "identity");
    assert_eq!(layer["inner_rate"], "head");
    assert_eq!(layer["ffn_conv"], true);
    let whole = bench.json("eval --model ternary.bttt --data corpus.txt --split-bytes 64");
    let late = bench.json("eval --model ternary.bttt --data corpus.txt --split-bytes 64 --skip 1");
    let counted = |report: &Value| number(report, "/learning/tokens");
    assert_eq!(
        counted(&whole) - counted(&late),
        (counted(&whole) / 64.0).ceil()
    );
}

/// Tensors of a checkpoint: weights and moments, without the metadata (which has the seconds).
fn tensors(bench: &Bench, run: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(bench.path(&format!("{run}/checkpoint.safetensors"))).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = tensors
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, t.data().to_vec()))
        .collect();
    all.sort();
    all
}

#[test]
fn a_run_that_was_stopped_resumes_to_the_same_bytes() {
    let bench = trained();
    let train = "train --config c.toml --data corpus.bin --tokenizer t.json --steps 12 --out";
    bench.json(&format!("{train} halves --stop-after 5"));
    bench.json(&format!("{train} halves --resume"));
    assert!(
        tensors(&bench, "run") == tensors(&bench, "halves"),
        "resumed weights differ"
    );
}

#[test]
fn weighted_files_resume_without_being_named_again_and_a_run_can_be_looked_at() {
    let bench = trained();
    bench.json("corpus --out other.txt --bytes 20000 --seed 9");
    let flags = "--data corpus.bin=1 --data other.txt=3 --config c.toml --steps 12";
    bench.json(&format!("train {flags} --tokenizer t.json --out whole"));
    let files = [("corpus.bin", 1), ("other.txt", 3)]
        .map(|(path, weight)| format!("[[data]]\npath = \"{path}\"\nweight = {weight}\n"));
    bench.write(
        "files.toml",
        format!("{CONFIG}steps = 12\n{}", files.concat()),
    );
    bench.json("train --config files.toml --tokenizer t.json --out halves --stop-after 5");
    bench.json("train --out halves --resume");
    assert!(
        tensors(&bench, "whole") == tensors(&bench, "halves"),
        "resumed weights differ"
    );
    let metrics = std::fs::read_to_string(bench.path("halves/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    for path in [
        "/probe/by_source/1/loss",
        "/probe/by_position/0/loss",
        "/probe/inner_loss/0/before",
        "/probe/inner_loss/0/after",
        "/probe/zero_weights/0/share",
    ] {
        number(&last, path);
    }
    let page = std::fs::read_to_string(bench.path("halves/report.html")).unwrap();
    assert!(page.contains("other.txt") && page.contains("75.0%") && page.contains("<svg"));
    let files = std::fs::read_dir(bench.path("halves")).unwrap();
    let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    let events = names.filter(|name| name.starts_with("events.out.tfevents."));
    assert_eq!(
        events.count(),
        1,
        "the event file of the first call is replaced"
    );
}

/// Kills the run ten times, each time at another moment of its work: between steps, within one, while a checkpoint or a
/// line of metrics is being written.
#[test]
fn a_run_that_is_killed_ten_times_comes_to_the_bytes_of_one_that_was_not() {
    let bench = trained();
    bench.write(
        "every.toml",
        format!("{CONFIG}checkpoint_every = 1\ndropout = 0.1\n"),
    );
    let train = "train --config every.toml --data corpus.bin --tokenizer t.json --steps 400";
    bench.json(&format!("{train} --out whole"));
    let checkpoint = bench.path("killed/checkpoint.safetensors");
    let written = || {
        std::fs::metadata(&checkpoint)
            .and_then(|m| m.modified())
            .ok()
    };
    let mut random = std::hash::RandomState::new().hash_one(0);
    for _ in 0..10 {
        let resume = if checkpoint.exists() { "--resume" } else { "" };
        let before = written();
        let mut child = bench.start(&format!("{train} --out killed {resume}"));
        while written() == before {
            assert_eq!(child.try_wait().unwrap(), None, "killed before its end");
            std::thread::yield_now();
        }
        random = random.rotate_left(17) ^ 0x9E37_79B9_7F4A_7C15;
        std::thread::sleep(Duration::from_micros(random % 30_000));
        assert_eq!(child.try_wait().unwrap(), None, "killed before its end");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    bench.json(&format!("{train} --out killed --resume"));
    assert!(
        tensors(&bench, "whole") == tensors(&bench, "killed"),
        "resumed weights differ"
    );
    let metrics = std::fs::read_to_string(bench.path("killed/metrics.jsonl")).unwrap();
    let step = |line: &str| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64();
    let steps: Vec<u64> = metrics.lines().map(|line| step(line).unwrap()).collect();
    assert_eq!(
        steps,
        (1..=400).collect::<Vec<_>>(),
        "every step is in the metrics once"
    );
    let files = std::fs::read_dir(bench.path("killed")).unwrap();
    let mut names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    assert!(
        names.all(|name| !name.ends_with(".tmp")),
        "nothing unfinished is left"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_during_training_leaves_the_last_checkpoint_whole() {
    let bench = trained();
    let before = tensors(&bench, "run");
    let more = [
        "train",
        "--config",
        "c.toml",
        "--data",
        "corpus.bin",
        "--tokenizer",
        "t.json",
        "--steps",
        "15",
        "--out",
        "run",
        "--resume",
    ];
    let output = bench.run_on_a_full_disk(&more);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(tensors(&bench, "run") == before);
    let mut left = std::fs::read_dir(bench.path("run"))
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap());
    assert!(
        !left.any(|name| name.contains("tmp")),
        "a temporary file is left"
    );
    bench.json("export --checkpoint run --out m.bttt");
}

#[test]
fn every_backend_gives_the_same_tokens_and_state() {
    let bench = Bench::new();
    let demo = demo();
    let run = |extra: &str| {
        let line = format!(
            "generate --model {demo} --prompt Ada --max-tokens 40 --temp 0.9 --seed 5 --ignore-end {extra}"
        );
        let report = bench.json(&line);
        (
            report["tokens_hash"].clone(),
            report["state_hash"].clone(),
            report["text"].clone(),
        )
    };
    let first = run("--backend scalar");
    for backend in bitttt_core::Backend::all() {
        assert_eq!(run(&format!("--backend {}", backend.name())), first);
    }
    assert_ne!(run("--freeze").1, first.1);
}

#[test]
fn a_saved_state_goes_on_as_if_never_stopped() {
    let bench = Bench::new();
    let demo = demo();
    let run = |prompt: &str, extra: &[&str]| {
        let mut args = vec![
            "generate",
            "--model",
            &demo,
            "--prompt",
            prompt,
            "--max-tokens",
            "0",
            "--json",
        ];
        args.extend(extra);
        let output = bench.run_args(&args);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["state_hash"].clone()
    };
    let straight = run("Ada Varga came home. The road was long.", &[]);
    run("Ada Varga came home.", &["--save-state", "s.state"]);
    assert_eq!(
        run(" The road was long.", &["--load-state", "s.state"]),
        straight
    );
    let state = bench.json("inspect s.state");
    assert_eq!(state["kind"], "state");
}

#[test]
fn chat_reads_lines_and_keeps_its_state() {
    let bench = Bench::new();
    let demo = demo();
    let output = bench.run_with_input(
        &[
            "chat",
            "--model",
            &demo,
            "--max-tokens",
            "8",
            "--json",
            "--save-state",
            "c.state",
        ],
        "Ada Varga\n/nonsense\n/freeze\nBo Kim\n/quit\n",
    );
    assert!(output.status.success());
    let turns: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(turns.as_array().map(Vec::len), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonsense is no command"));
    assert!(bench.path("c.state").exists());
}

#[test]
fn quickstart_reports_every_figure() {
    let bench = Bench::new();
    let report = bench.json("quickstart --out out --seconds 3");
    for path in [
        "/seconds",
        "/recall/learning",
        "/recall/frozen",
        "/loss/learning",
        "/loss/frozen",
        "/blob/bytes",
        "/blob/bits_per_ternary_weight",
        "/parity/max_logit_difference",
        "/parity/top1_agreement",
        "/memory/ram",
    ] {
        number(&report, path);
    }
    for key in ["token_hash", "state_hash"] {
        assert_eq!(report[key].as_str().map(str::len), Some(8), "{key}");
    }
    let written: Value =
        serde_json::from_slice(&std::fs::read(bench.path("out/report.json")).unwrap()).unwrap();
    assert_eq!(written, report);
    for file in [
        "model.bttt",
        "position.svg",
        "run/loss.svg",
        "tokenizer.json",
    ] {
        assert!(bench.path(&format!("out/{file}")).exists(), "{file}");
    }
}
