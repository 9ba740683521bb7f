//! What is kept of fuzzing, run again: every file of `corpus/TARGET/`, and the empty input.

use bitttt_fuzz::TARGETS;
use std::path::Path;

/// Miri, which takes seconds for what takes a millisecond, gets so many of each.
const UNDER_MIRI: usize = 8;

fn replay(target: &str) {
    let &(_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    run(&[]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    if cfg!(miri) {
        let step = files.len().div_ceil(UNDER_MIRI).max(1);
        files = files.into_iter().step_by(step).collect();
    }
    assert!(!files.is_empty(), "{target} has no corpus");
    for file in files {
        println!("{}", file.display()); // shown where it fails
        run(&std::fs::read(file).unwrap());
    }
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let here: &[&str] = &[$(stringify!($target)),*];
            assert!(TARGETS.iter().map(|(name, _)| *name).eq(here.iter().copied()));
        }
    };
}

replays!(blob snapshot session tokenizer c_api gguf safetensors);
