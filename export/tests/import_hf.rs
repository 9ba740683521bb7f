//! BitNet and ternary Llama checkpoints of Hugging Face: the core answers what `transformers` does.
//!
//! The fixtures are random tiny models (`tests/fixtures/import/make_hf.py`). Their tokens keep every rounding of an
//! activation at least 8e-4 of a code away from a tie. The noise of f32 sums in another order is a tenth of that (1e-6
//! relative, of codes up to 127), so that both round alike and logits, which reach 70, differ by that noise alone.

mod import_support;

use bitttt_core::format::DType;
use bitttt_export::import::{Options, hf_bitnet, hf_llama};
use import_support::{Reference, agreement, blob, fixture, largest_difference, logits, options};

const TOLERANCE: f32 = 1e-4;

fn check(name: &str) {
    let folder = fixture(name);
    let open = match name.starts_with("bitnet") {
        true => hf_bitnet::open,
        false => hf_llama::open,
    };
    let reference = Reference::of(&folder);
    let vocabulary = reference.logits.len() / reference.tokens.len();
    for weights in [DType::T2, DType::T5] {
        let options = Options {
            weights,
            ..options()
        };
        let model = open(&folder, &options).unwrap();
        let (blob, _) = blob(&model, &options).unwrap();
        let all = logits(&blob, &reference.tokens, 32);
        let difference = largest_difference(&all, &reference.logits);
        println!("{name} {weights:?}: {difference:e}");
        assert!(difference < TOLERANCE, "{name}: {difference}");
        assert_eq!(agreement(&all, &reference.logits, vocabulary), 1.0);
        let steps = logits(&blob, &reference.tokens, 1);
        assert!(steps == all, "{name}: token by token is not prefill");
    }
}

#[test]
fn bitnet_master_weights_are_rounded_as_the_reference_rounds_them() {
    check("bitnet_online");
}

#[test]
fn bitnet_packed_weights_are_multiplied_by_their_scale_with_autobitlinear() {
    check("bitnet_packed");
}

#[test]
fn bitnet_packed_weights_are_divided_by_their_scale_with_bitlinear() {
    check("bitnet_divides");
}

#[test]
fn llama_with_bitnet_layers_has_no_norms_between() {
    check("llama_online");
    check("llama_packed");
}

#[test]
fn llama_whose_plain_weights_are_ternary_keeps_float_activations() {
    check("llama_ternary");
}

#[test]
fn weights_with_a_scale_a_row_keep_them_also_where_rows_move() {
    check("llama_rows");
}
