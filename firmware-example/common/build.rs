//! Brings in what the firmware is built around: blob, prompt, number of tokens.
//!
//! `BITTTT_BLOB` (a file; default: the demo), `BITTTT_PROMPT` and `BITTTT_TOKENS` choose them; `cargo xtask firmware`
//! sets all three. The feature `signed` takes the signature from `BITTTT_SIGNATURE` (default: the blob's name with `.sig`
//! behind it) and the key from `BITTTT_PUBLIC_KEY`.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let blob = setting("BITTTT_BLOB", "../../demo/demo.bttt");
    let bytes = read("model", &blob, "BITTTT_BLOB");
    write(&out.join("model.bttt"), &bytes);
    if env::var_os("CARGO_FEATURE_SIGNED").is_some() {
        let name = setting("BITTTT_SIGNATURE", &format!("{blob}.sig"));
        let signature = read("signature", &name, "BITTTT_SIGNATURE");
        write(&out.join("model.signed"), &[bytes, signature].concat());
        let name = setting("BITTTT_PUBLIC_KEY", "release.pub");
        let key = read("public key", &name, "BITTTT_PUBLIC_KEY");
        write(&out.join("release.pub"), &key);
    }
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

fn read(what: &str, path: &str, name: &str) -> Vec<u8> {
    println!("cargo:rerun-if-changed={path}");
    fs::read(path).unwrap_or_else(|error| {
        panic!("cannot read the {what} {path}: {error}; name one with {name}=FILE")
    })
}

fn setting(name: &str, default: &str) -> String {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
