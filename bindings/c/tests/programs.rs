//! Programs in C against the static library: what a C developer does, by the same commands.

use bitttt_core::{Batch, Model, Sampler, Session};
use bitttt_export::AlignedCopy;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// As in examples/host.c.
const TOKENS: usize = 40;

/// What the standard library needs of the system, for those that do not link it by themselves.
const SYSTEM: &[&str] = &["-lpthread", "-ldl", "-lm"];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn demo() -> PathBuf {
    here().join("../../demo/demo.bttt")
}

fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown} failed:\n{errors}");
    output
}

/// Builds the static library, where the crates that it consists of are built already.
fn library() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--quiet", "--package", "bitttt-c", "--lib"])
        .arg("--target-dir")
        .arg(folder)
        .env_remove("CARGO_BUILD_TARGET")
        .current_dir(here());
    run(&mut build);
    folder.join("debug/libbitttt_c.a")
}

/// A compiler with the flags that the header must be fit for.
fn compiler(program: &str, standard: &str) -> Command {
    let mut compiler = Command::new(program);
    compiler
        .args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(here().join("include"));
    compiler
}

fn compile(source: &str, folder: &Path) -> PathBuf {
    let program = folder.join("program");
    let mut cc = compiler("cc", "-std=c99");
    cc.arg(here().join(source)).arg(library()).args(SYSTEM);
    run(cc.arg("-o").arg(&program));
    program
}

/// What examples/host.c prints, by the Rust session: the texts of prompts that one session reads one after the other,
/// and its state after each.
fn expected(prompts: &[&str]) -> Vec<(Vec<u8>, u32)> {
    let bytes = AlignedCopy::of(&std::fs::read(demo()).unwrap());
    let model = Model::from_bytes(bytes.bytes()).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let mut read = |prompt: &&str| {
        let mut tokens = vec![model.config().document_token; prompt.len() + 1];
        let count = tokenizer.encode(prompt.as_bytes(), &mut tokens[1..]);
        let mut sampler = Sampler::greedy();
        let tokens = &tokens[..count.unwrap() + 1];
        let mut token = sampler.sample(session.prefill(tokens).unwrap());
        let mut text = Vec::new();
        for _ in 0..TOKENS {
            text.extend(tokenizer.decode(token));
            token = sampler.sample(session.step(token).unwrap());
        }
        (text, session.state_hash())
    };
    prompts.iter().map(&mut read).collect()
}

#[test]
fn the_host_example_writes_what_rust_writes_and_continues_from_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let (program, state) = (
        compile("examples/host.c", folder.path()),
        folder.path().join("state"),
    );
    let prompts = ["Ada Varga opened the door.", "Bell asked Ada"];
    for (prompt, (text, hash)) in prompts.iter().zip(expected(&prompts)) {
        let output = run(Command::new(&program).arg(demo()).arg(prompt).arg(&state));
        assert_eq!(output.stdout, text, "{prompt}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(errors, format!("state_hash={hash:08x}\n"), "{prompt}");
    }
}

#[test]
fn the_host_example_says_what_is_wrong_with_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("examples/host.c", folder.path());
    let output = Command::new(&program)
        .arg(&program)
        .arg("Ada")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("not a .bttt blob"), "{errors}");
}

#[test]
fn misuse_from_c_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("tests/misuse.c", folder.path());
    let output = run(Command::new(program).arg(demo()));
    assert_eq!(output.stdout, b"ok\n");
}

#[test]
fn the_lines_in_the_readme_come_to_the_same_state() {
    let readme = std::fs::read_to_string(here().join("../../README.md")).unwrap();
    let (_, lines) = readme.split_once("```c\n").unwrap();
    let (lines, _) = lines.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("lines.c");
    std::fs::write(&source, format!("{BEFORE}{lines}{AFTER}")).unwrap();
    let program = compile(source.to_str().unwrap(), folder.path());
    let output = run(Command::new(program).arg(demo()));
    let (_, hash) = expected(&["Ada Varga opened the door."])[0];
    assert_eq!(output.stdout, format!("{hash:08x}").into_bytes());
}

/// What the README leaves out around its lines.
const BEFORE: &str = "
#include \"bitttt.h\"
#include <stdio.h>
int main(int argc, char **argv)
{
    static uint64_t file[1 << 16];
    const uint8_t *blob = (const uint8_t *)file;
    FILE *open = fopen(argv[argc - 1], \"rb\");
    size_t blob_len = fread(file, 1, sizeof file, open);
    uint32_t hash;
";
const AFTER: &str = "
    fclose(open);
    bitttt_state_hash(session, &hash);
    printf(\"%08lx\", (unsigned long)hash);
    return 0;
}
";

#[test]
fn the_header_is_c_plus_plus_too() {
    let mut cpp = compiler("c++", "-std=c++11");
    cpp.args(["-fsyntax-only", "-x", "c++"]);
    run(cpp
        .arg(here().join("include/bitttt.h"))
        .arg("-Wno-pragma-once-outside-header"));
}
