//! Files of the command that somebody has mangled: each is read or refused in one line, and what is read can be used. Never a
//! panic. What the core reads is fuzzed (`fuzz/`). `PROPTEST_CASES=20000 cargo test -p bitttt --test hostile` tries more.

use bitttt::config::Config;
use bitttt::data::batch::Dataset;
use bitttt::data::source::Source;
use bitttt::data::store::Builder;
use bitttt::engine::export::{Storage, Trained, core_config, write};
use bitttt::model::init;
use bitttt::shape::Shape;
use bitttt::tokenizer::Tokenizer;
use bitttt::train::adamw::Moments;
use bitttt::train::checkpoint::{self, Checkpoint, Progress};
use bitttt_core::format::DType;
use bitttt_export::random::blueprint;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Numbers and words that readers trip over.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "1",
    "2",
    "3",
    "65536",
    "4294967296",
    "18446744073709551615",
    "9223372036854775807",
    "-9223372036854775808",
    "1e400",
    "-0.0",
    "nan",
    "inf",
    "1e-320",
    "0.5",
    "true",
    "null",
    "\"\"",
    "[]",
    "{}",
    "\"\u{E9}\\n\u{1F600}\"",
    "\n",
    "\0",
    "\u{1B}[2J",
    "=",
    "[",
    "]",
    "{",
    "}",
    "\"",
    ",",
    ":",
    "#",
    "'''",
    "attention",
    "ttt-mlp",
    "ttt-lite",
    "identity",
];

/// One change of a file.
#[derive(Clone, Debug)]
enum Edit {
    Byte(Index, u8),
    /// A number, or a run of letters, becomes another.
    Word(Index, &'static str),
    Insert(Index, &'static str),
    Delete(Index, usize),
    /// A piece stands somewhere else too.
    Copy(Index, Index, usize),
    Cut(Index),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        match *self {
            Self::Byte(at, value) => bytes[at.index(len)] = value,
            Self::Word(at, word) => {
                let part = |b: &u8| b.is_ascii_alphanumeric() || b".-+_".contains(b);
                let words: Vec<usize> = (0..len)
                    .filter(|&i| part(&bytes[i]) && (i == 0 || !part(&bytes[i - 1])))
                    .collect();
                if !words.is_empty() {
                    let start = words[at.index(words.len())];
                    let end = start + bytes[start..].iter().take_while(|b| part(b)).count();
                    bytes.splice(start..end, word.bytes());
                }
            }
            Self::Insert(at, word) => {
                let at = at.index(len);
                bytes.splice(at..at, word.bytes());
            }
            Self::Delete(at, count) => {
                let at = at.index(len);
                bytes.drain(at..len.min(at + count));
            }
            Self::Copy(from, to, count) => {
                let from = from.index(len);
                let piece = bytes[from..len.min(from + count)].to_vec();
                let to = to.index(len);
                bytes.splice(to..to, piece);
            }
            Self::Cut(at) => bytes.truncate(at.index(len)),
        }
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, value)| Edit::Byte(at, value)),
        6 => (any::<Index>(), select(WORDS)).prop_map(|(at, word)| Edit::Word(at, word)),
        3 => (any::<Index>(), select(WORDS)).prop_map(|(at, word)| Edit::Insert(at, word)),
        2 => (any::<Index>(), 1usize..60).prop_map(|(at, count)| Edit::Delete(at, count)),
        2 => (any::<Index>(), any::<Index>(), 1usize..60).prop_map(|(a, b, count)| Edit::Copy(a, b, count)),
        1 => any::<Index>().prop_map(Edit::Cut),
    ];
    vec(edit, 1..4)
}

fn mangled(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    edits.iter().for_each(|edit| edit.apply(&mut bytes));
    bytes
}

/// A folder with one mangled file.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// What was read, unless it was refused as it should be.
fn read<T>(result: anyhow::Result<T>) -> Option<T> {
    result.map_err(|error| one_line(&format!("{error:#}"))).ok()
}

fn one_line(error: &str) {
    assert!(!error.trim().is_empty() && !error.contains('\n'), "{error}");
}

const CONFIG: &str = r#"
[model]
vocab_size = 300
d_model = 32
n_layers = 4
mixers = ["ttt-linear", "attention"]
n_heads = 4
kv_heads = 2
context = 64
d_ffn = 48
mini_batch = 8
conv = true
gate = true
anchor_decay = false
tie_embeddings = false
rope_theta = 10000.0
norm_eps = 1e-5
ttt_base_lr = 1.0

[train]
steps = 20
seconds = 3.5
batch = 2
context = 32
segment = 0
lr = 4e-3
min_lr = 0.1
warmup = 0.04
weight_decay = 0.05
beta1 = 0.9
beta2 = 0.98
grad_clip = 1.0
latent_clip = 2.0
seed = 1
val_fraction = 0.1
eval_every = 5
checkpoint_every = 10
log_every = 1

[[data]]
path = "a.txt"
weight = 1.0
[[data]]
path = "b.bin"
weight = 2.5
"#;

/// What a model of these dimensions may at most cost here.
fn is_small(config: &bitttt_core::format::Config) -> bool {
    let [v, d, f, l] = [
        config.vocab_size,
        config.d_model,
        config.d_ffn,
        config.n_layers,
    ]
    .map(u64::from);
    v.max(d).max(f) < 4096 && l < 9 && d * f < 1 << 16 && d * v < 1 << 18
}

#[test]
fn the_files_that_are_mangled_are_good() {
    let config = Config::parse(CONFIG).unwrap();
    assert_eq!(config.data.len(), 2);
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in TOKENIZERS.iter() {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Tokenizer::load(&path).unwrap();
    }
    CHECKPOINT.unpack(folder.path(), &CHECKPOINT.weights);
    export(folder.path()).unwrap();
    resume(folder.path()).unwrap();
    std::fs::write(folder.path().join("tokens"), &*TOKENS).unwrap();
    use_tokens(&folder.path().join("tokens")).unwrap();
}

/// Three kinds of `tokenizer.json`.
static TOKENIZERS: LazyLock<[(&str, Vec<u8>); 3]> = LazyLock::new(|| {
    let text = "Ada met Ben. Ada met 12 men. \u{E9}t\u{E9}".repeat(4);
    let saved = |tokenizer: Tokenizer| {
        let (folder, path) = file("t.json", b"");
        tokenizer.save(&path).unwrap();
        drop(std::fs::metadata(folder.path()));
        std::fs::read(path).unwrap()
    };
    [
        ("bytes", saved(Tokenizer::bytes())),
        (
            "merges",
            saved(Tokenizer::train([text.as_str()].into_iter(), 270).unwrap()),
        ),
        (
            "alphabet",
            saved(Tokenizer::alphabet(&text.bytes().collect()).unwrap()),
        ),
    ]
});

/// A token file of a few documents.
static TOKENS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let (_folder, path) = file("tokens", b"");
    let mut builder = Builder::to_file(&path, 257).unwrap();
    for document in [&[5, 6, 7, 8, 9][..], &[10; 40], &[11, 12, 13], &[14; 9]] {
        builder.push(document).unwrap();
        builder.end_document().unwrap();
    }
    builder.finish_file(&Tokenizer::bytes()).unwrap();
    std::fs::read(path).unwrap()
});

fn use_tokens(path: &Path) -> anyhow::Result<()> {
    let tokens = bitttt::data::open(path, &Tokenizer::bytes(), false)?;
    tokens.sample();
    let all = tokens.get(0..tokens.len() + 1);
    assert_eq!(all.len() as u64, tokens.len() + 1);
    let source = Source {
        name: "tokens".to_owned(),
        tokens,
        weight: None,
    };
    let data = Dataset::new(vec![source], 0.3, 8)?;
    data.held_out_rows(4);
    Ok(())
}

/// The folder that training leaves.
struct Run {
    weights: Vec<u8>,
    held_out: Vec<u8>,
}

impl Run {
    fn unpack(&self, folder: &Path, weights: &[u8]) {
        std::fs::write(folder.join(checkpoint::FILE), weights).unwrap();
        std::fs::write(folder.join(checkpoint::HELD_OUT), &self.held_out).unwrap();
    }
}

static CHECKPOINT: LazyLock<Run> = LazyLock::new(|| {
    let text = "[model]\nvocab_size = 20\nd_model = 8\nn_layers = 1\nn_heads = 2\nd_ffn = 8\nmini_batch = 4\n[train]\ncontext = 16\n";
    let config = Config::parse(text).unwrap();
    let vars = init(&config.model, 3).unwrap();
    let zeros = |n| Moments {
        first: vec![0.0; n],
        second: vec![0.0; n],
    };
    let moments: Vec<_> = vars
        .iter()
        .map(|(_, var)| zeros(var.elem_count()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let progress = Progress {
        config: &config,
        step: 7,
        seconds: 1.5,
        data: &[],
        tokenizer: false,
    };
    checkpoint::save(folder.path(), &progress, &vars, &moments).unwrap();
    let rows: Vec<Vec<u32>> = vec![(0..17).collect(), vec![0, 4, 4, 5, 19]];
    checkpoint::save_held_out(folder.path(), &rows).unwrap();
    let bytes = |name| std::fs::read(folder.path().join(name)).unwrap();
    Run {
        weights: bytes(checkpoint::FILE),
        held_out: bytes(checkpoint::HELD_OUT),
    }
});

/// What `bitttt export` does with the folder.
fn export(folder: &Path) -> anyhow::Result<()> {
    let saved = Checkpoint::load(folder)?;
    let rows = checkpoint::held_out(folder)?;
    let trained = Trained {
        config: &saved.config,
        weights: &saved.weights,
        tokenizer: saved.tokenizer.as_ref(),
        steps: saved.step,
    };
    let storage = Storage {
        packed: DType::T2,
        halves: false,
    };
    write(&trained, &rows, storage, &folder.join("out.bttt")).map(drop)
}

/// What `bitttt train --resume` does before its first step.
fn resume(folder: &Path) -> anyhow::Result<()> {
    let saved = Checkpoint::load(folder)?;
    if is_small(&core_config(&saved.config.model, 16)) {
        saved.restore(&init(&saved.config.model, 1)?)?;
    }
    Ok(())
}

fn cases<T: Debug>(strategy: impl Strategy<Value = T>, test: impl Fn(T)) {
    let config = ProptestConfig {
        failure_persistence: None, // what was found becomes a test of its own
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let run = runner.run(&strategy, |input| {
        test(input);
        Ok(())
    });
    run.unwrap_or_else(|found| panic!("{found}"));
}

#[test]
fn a_mangled_configuration_is_refused_or_makes_a_valid_model() {
    cases(edits(), |edits| {
        let (_folder, path) = file("c.toml", &mangled(CONFIG.as_bytes(), &edits));
        let Some(config) = read(Config::load(&path)) else {
            read(Shape::load(&path));
            return;
        };
        config.kv_context();
        if let Some(shape) = read(Shape::load(&path)).filter(|shape| is_small(&shape.config)) {
            let made = blueprint(&shape.config, &shape.layers, DType::T2, 1).to_bytes();
            made.expect("what is valid can be written");
        }
        if is_small(&core_config(&config.model, 16)) {
            init(&config.model, 1).expect("what is valid can be made");
        }
    });
}

#[test]
fn a_mangled_tokenizer_is_refused_or_gives_texts_back() {
    cases((select(&[0, 1, 2][..]), edits()), |(which, edits)| {
        let (_folder, path) = file("t.json", &mangled(&TOKENIZERS[which].1, &edits));
        if let Some(tokenizer) = read(Tokenizer::load(&path)) {
            let ids = tokenizer.encode("Ada met \u{E9}t\u{E9}").unwrap();
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            tokenizer.decode(&ids);
            tokenizer.fingerprint();
        }
    });
}

#[test]
fn a_mangled_token_file_is_refused_or_read() {
    cases(edits(), |edits| {
        let (_folder, path) = file("tokens", &mangled(&TOKENS, &edits));
        read(use_tokens(&path));
    });
}

#[test]
fn a_mangled_checkpoint_is_refused_or_exported() {
    cases((any::<bool>(), edits()), |(weights, edits)| {
        let folder = tempfile::tempdir().unwrap();
        CHECKPOINT.unpack(folder.path(), &CHECKPOINT.weights);
        let (name, bytes) = match weights {
            true => (checkpoint::FILE, &CHECKPOINT.weights),
            false => (checkpoint::HELD_OUT, &CHECKPOINT.held_out),
        };
        std::fs::write(folder.path().join(name), mangled(bytes, &edits)).unwrap();
        if read(export(folder.path())).is_none() {
            assert!(!folder.path().join("out.bttt").exists());
        }
        read(resume(folder.path()));
    });
}

/// What `bitttt export` said of the good folder with `from` in one of its files replaced by `to`.
fn refused(name: &str, from: &str, to: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    CHECKPOINT.unpack(folder.path(), &CHECKPOINT.weights);
    let path = folder.path().join(name);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|piece| piece == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("no {from} in {name}"));
    let changed = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
    std::fs::write(&path, changed).unwrap();
    format!("{:#}", export(folder.path()).unwrap_err())
}

/// Both once were panics.
#[test]
fn an_impossible_model_and_tokens_beyond_the_vocabulary_are_named() {
    let found = refused(checkpoint::FILE, r#"n_heads\":2"#, r#"n_heads\":0"#);
    assert!(found.contains("n_heads"), "{found}");
    let found = refused(checkpoint::HELD_OUT, "5,19]", "5,20]");
    assert!(found.contains("token 20 is out of range"), "{found}");
}
