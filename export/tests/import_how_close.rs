//! The table "How close" of docs/IMPORT.md, made anew:
//!
//! `IMPORT_REFERENCES=FOLDER cargo test -p bitttt-export --test import_how_close -- --ignored --nocapture`, with folders
//! as `tests/fixtures/import/make_hf.py FOLDER --free 1000` writes them.

mod import_support;

use bitttt_export::import::{bit_llama, hf_bitnet, hf_llama, ttt_lm};
use import_support::{Reference, agreement, blob, largest_difference, logits, options};
use std::path::Path;

/// Tokens of a prompt in the references: 200, or `IMPORT_PROMPT`.
fn prompt() -> usize {
    let chosen = std::env::var("IMPORT_PROMPT").ok();
    chosen.map_or(200, |tokens| tokens.parse().unwrap())
}

#[test]
#[ignore = "needs references, which are too large for the repository"]
fn how_close() {
    let root = std::env::var("IMPORT_REFERENCES").expect("IMPORT_REFERENCES names a folder");
    let mut folders: Vec<_> = std::fs::read_dir(root).unwrap().collect();
    folders.sort_by_key(|folder| folder.as_ref().unwrap().path());
    println!(
        "| checkpoint | width, ffn, layers, vocabulary | positions | largest logit | largest difference | median | top-1 agreement |"
    );
    for folder in folders {
        line(&folder.unwrap().path());
    }
}

fn line(folder: &Path) {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let open = match name.split('_').next().unwrap() {
        "bitnet" => hf_bitnet::open,
        "llama" => hf_llama::open,
        "ttt" => ttt_lm::open,
        _ => bit_llama::open,
    };
    let reference = Reference::of(folder);
    let vocabulary = reference.logits.len() / reference.tokens.len();
    let model = open(folder, &options()).unwrap();
    let (blob, _) = blob(&model, &options()).unwrap();
    let prompts = reference.tokens.chunks(prompt());
    let all: Vec<f32> = prompts
        .flat_map(|prompt| logits(&blob, prompt, 64))
        .collect();
    let rows = all
        .chunks(vocabulary)
        .zip(reference.logits.chunks(vocabulary));
    let mut differences: Vec<f32> = rows.map(|(a, b)| largest_difference(a, b)).collect();
    differences.sort_by(f32::total_cmp);
    let c = &model.config;
    println!(
        "| {name} | {}, {}, {}, {} | {} | {:.1} | {:.1e} | {:.1e} | {:.1}% |",
        c.d_model,
        c.d_ffn,
        c.n_layers,
        c.vocab_size,
        reference.tokens.len(),
        reference.logits.iter().fold(0f32, |l, x| l.max(x.abs())),
        differences.last().unwrap(),
        differences[differences.len() / 2],
        agreement(&all, &reference.logits, vocabulary) * 100.0
    );
}
