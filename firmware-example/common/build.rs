//! Brings in what the firmware is built around: blob, prompt, number of tokens.
//!
//! `BITTTT_BLOB` (a file; default: the demo), `BITTTT_PROMPT` and `BITTTT_TOKENS` choose them; `cargo xtask firmware`
//! sets all three.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let blob = setting("BITTTT_BLOB", "../../demo/demo.bttt");
    println!("cargo:rerun-if-changed={blob}");
    let bytes = fs::read(&blob).unwrap_or_else(|error| {
        panic!("cannot read the model {blob}: {error}; name one with BITTTT_BLOB=FILE")
    });
    write(&out.join("model.bttt"), &bytes);

    write(
        &out.join("prompt"),
        setting("BITTTT_PROMPT", "Ada").as_bytes(),
    );
    let tokens = setting("BITTTT_TOKENS", "32");
    let count: usize = tokens
        .parse()
        .unwrap_or_else(|_| panic!("BITTTT_TOKENS={tokens} is not a number of tokens"));
    write(&out.join("tokens"), format!("{count}usize").as_bytes());
}

fn setting(name: &str, default: &str) -> String {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
