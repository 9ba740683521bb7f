//! What is kept of fuzzing, run again: every file of `corpus/TARGET/`, and the empty input.

use bitttt_fuzz::TARGETS;
use std::path::Path;

#[test]
fn every_kept_input_returns() {
    for &(name, run) in TARGETS {
        run(&[]);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let files =
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut count = 0;
        for file in files {
            run(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}
