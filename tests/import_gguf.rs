//! `bitttt import gguf`: from a file to text, and what is refused.

mod support;

use serde_json::Value;
use std::path::Path;
use support::Bench;

/// A bench with one of the files.
fn with(name: &str) -> Bench {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/import/gguf");
    let bench = Bench::new();
    bench.write("x.gguf", std::fs::read(folder.join(name)).unwrap());
    bench
}

#[test]
fn a_file_with_its_tokenizer_becomes_a_model_that_writes_text_and_chats() {
    let bench = with("bpe.gguf");
    let report = bench.json("import gguf x.gguf --out x.bttt");
    assert_eq!(report["source"], "gguf");
    assert_eq!(report["tokenizer"], true);
    assert_eq!(report["chat_template"], true);
    assert_eq!(report["ternary_weights"], 4 * 8 * 8 + 3 * 16 * 8);
    assert_eq!(
        report["peak_memory_bytes"].is_u64(),
        cfg!(target_os = "linux")
    );
    let line = "generate --model x.bttt --max-tokens 5 --temp 0 --prompt";
    let words: Vec<&str> = line.split(' ').chain(["the best naïve 猫"]).collect();
    let plain = bench.run_args(&words);
    assert!(plain.status.success());
    let text = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert!(text.starts_with("the best naïve 猫"), "{text}");
    let words: Vec<&str> = words.into_iter().chain(["--chat"]).collect();
    assert!(bench.run_args(&words).status.success());
}

#[test]
fn options_of_the_format_reach_it() {
    let bench = with("bitnet_i2s.gguf");
    let fingerprint = |flags: &str| -> Value {
        let line = format!("import gguf x.gguf --out x.bttt --no-tokenizer {flags}");
        bench.json(&line)["fingerprint"].clone()
    };
    let x86 = fingerprint("");
    assert_eq!(fingerprint("--i2s x86 --float"), x86);
    assert_ne!(fingerprint("--i2s arm"), x86);
    assert_ne!(fingerprint("--weights t5"), x86);
    assert_ne!(fingerprint("--activations f32"), x86);
}

#[test]
fn what_cannot_be_imported_is_refused_in_one_line_and_leaves_nothing() {
    let bench = with("bitnet_i2s.gguf");
    let line = "import gguf x.gguf --out x.bttt";
    bench.refuses(
        line,
        1,
        &["x.gguf", "tokenizer.ggml.model", "--no-tokenizer"],
    );
    bench.write("x.gguf", "GGML");
    bench.refuses(line, 1, &["x.gguf", "no GGUF file"]);
    bench.refuses("import gguf none.gguf --out x.bttt", 1, &["none.gguf"]);
    bench.refuses("import gguf . --out x.bttt", 1, &["is not a file"]);
    bench.refuses(&format!("{line} --i2s mips"), 2, &[]);
    assert!(!bench.path("x.bttt").exists());
}
