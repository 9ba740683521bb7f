//! Models that learn while they run: the core answers what the reference TTT-LM and Bit-TTT Engine do.
//!
//! Matrices and activations are floats there, so that nothing is rounded and answers differ by the noise of f32 sums
//! alone. Learning passes it on from token to token: the reference's own ways of computing the same (cached or not, primal
//! or dual) are up to 3e-5 apart on logits of 20. Prompts span several mini-batches and end inside of one.

mod import_support;

use bitttt_core::format::DType;
use bitttt_export::import::{Foreign, ImportError, Matrices, Options, bit_llama, ttt_lm};
use import_support::{Reference, agreement, blob, fixture, largest_difference, logits, options};
use std::path::Path;

const TOLERANCE: f32 = 1e-4;

type Open = fn(&Path, &Options) -> Result<Foreign<'static>, ImportError>;

fn check(name: &str, open: Open) {
    let folder = fixture(name);
    let reference = Reference::of(&folder);
    let vocabulary = reference.logits.len() / reference.tokens.len();
    let model = open(&folder, &options()).unwrap();
    let (blob, summary) = blob(&model, &options()).unwrap();
    assert!(summary.losses.is_empty());
    let all = logits(&blob, &reference.tokens, 32);
    let difference = largest_difference(&all, &reference.logits);
    println!("{name}: {difference:e}");
    assert!(difference < TOLERANCE, "{name}: {difference}");
    assert_eq!(agreement(&all, &reference.logits, vocabulary), 1.0);
    let steps = logits(&blob, &reference.tokens, 1);
    assert!(steps == all, "{name}: token by token is not prefill");
}

#[test]
fn ttt_linear_answers_as_the_reference() {
    check("ttt_linear", ttt_lm::open);
}

#[test]
fn ttt_mlp_answers_as_the_reference() {
    check("ttt_mlp", ttt_lm::open);
}

#[test]
fn convolutions_shared_projections_and_gates_answer_as_the_reference() {
    check("ttt_linear_mamba", ttt_lm::open);
    check("ttt_mlp_mamba", ttt_lm::open);
}

#[test]
fn bit_llama_answers_as_the_engine_that_it_came_from() {
    check("bit_llama", bit_llama::open);
    check("bit_llama_wide", bit_llama::open);
}

#[test]
fn one_bitt_file_is_the_same_model_as_its_directory() {
    let folder = fixture("bit_llama_wide");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let config = String::from_utf8(read("config.json")).unwrap();
    let tensors = read("model.safetensors");
    let file = |tokenizer: &str| {
        let header = format!(r#"{{"config": {config}, "tokenizer": {tokenizer}}}"#);
        let length = (header.len() as u64).to_le_bytes();
        [b"BITT", &length[..], header.as_bytes(), &tensors].concat()
    };
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.bitt");
    std::fs::write(&path, file("null")).unwrap();
    let of = |path: &Path| {
        let model = bit_llama::open(path, &options()).unwrap();
        blob(&model, &options()).unwrap().0.bytes().to_vec()
    };
    assert!(of(&path) == of(&folder));
    let of = |tokenizer: &str| {
        std::fs::write(&path, file(tokenizer)).unwrap();
        bit_llama::open(&path, &Options::default())
    };
    let object = of(r#"{"model": {}}"#).unwrap().metadata.tokenizer;
    let text = of(r#""{\"model\": {}}""#).unwrap().metadata.tokenizer;
    assert!(object.is_some() && object == text);
    let missing = of("null").err().unwrap().to_string();
    assert!(missing.contains("--no-tokenizer"), "{missing}");
}

#[test]
fn the_inner_learning_rate_of_the_config_can_be_overridden() {
    let folder = fixture("bit_llama");
    let chosen = Options {
        inner_lr: Some(0.01),
        ..options()
    };
    let rate = |options: &Options| {
        bit_llama::open(&folder, options)
            .unwrap()
            .config
            .ttt_base_lr
    };
    assert_eq!((rate(&options()), rate(&chosen)), (0.1, 0.01));
}

#[test]
fn ternarised_matrices_take_a_sixteenth_and_the_loss_is_told_by_role() {
    let folder = fixture("ttt_linear");
    let chosen = Options {
        matrices: Matrices::Ternarise,
        weights: DType::T5,
        ..options()
    };
    let model = ttt_lm::open(&folder, &chosen).unwrap();
    let (blob, summary) = blob(&model, &chosen).unwrap();
    // of normal weights 0.513 is lost: with s = E|x|, the root of 1 - 2 s E(|x|; |x| > s/2) + s^2 P(|x| > s/2)
    assert_eq!(summary.losses.len(), 7);
    for (role, loss) in &summary.losses {
        assert!((0.47..0.55).contains(loss), "{role}: {loss}");
    }
    assert_eq!(summary.ternary_weights, 2 * (4 * 24 * 24 + 3 * 24 * 36));
    let tokens = Reference::of(&folder).tokens;
    assert!(logits(&blob, &tokens, 16).iter().all(|x| x.is_finite()));
}
