//! `bitttt.h` is what cbindgen makes of the source.

use std::path::Path;

/// Set this variable to write the header instead of comparing it.
const WRITE: &str = "BITTTT_WRITE_HEADER";

#[test]
fn the_header_is_what_cbindgen_makes_of_the_source() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(folder.join("src/lib.rs"))
        .generate()
        .unwrap()
        .write(&mut made);
    let (path, made) = (
        folder.join("include/bitttt.h"),
        String::from_utf8(made).unwrap(),
    );
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "include/bitttt.h is out of date: run `{WRITE}=1 cargo test -p bitttt-c --test header`"
    );
}
