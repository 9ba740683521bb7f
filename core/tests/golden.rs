//! Whole models against constants: every target that these tests run on, emulated ones included, comes to the same tokens,
//! logits and learned state, on every backend, by steps and by prefill.
//!
//! The constants are what scalar comes to on x86-64. After a wanted change of the numbers (a new demo, another order of
//! operations) a failing test prints the line to put here.

use bitttt_core::format::{Config, DType, LayerConfig, Mixer};
use bitttt_core::{Backend, Batch, Model, Sampler, Session, crc32};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use std::cell::Cell;

/// Tokens to generate: mini-batches of 8 and 16 close more than once.
const TOKENS: usize = 40;

/// What a run comes to, each as a CRC-32.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hashes {
    blob: u32,
    /// Generated ids as little-endian u32.
    tokens: u32,
    /// All logits, little-endian, those of the prompt included.
    logits: u32,
    state: u32,
}

impl std::fmt::Debug for Hashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            blob,
            tokens,
            logits,
            state,
        } = self;
        write!(
            f,
            "[{blob:#010x}, {tokens:#010x}, {logits:#010x}, {state:#010x}]"
        )
    }
}

/// Every backend of this machine, AMX where the system allows it.
fn backends() -> impl Iterator<Item = Backend> {
    Backend::request_amx();
    Backend::all()
}

/// Reads the document token and `prompt`, then generates.
fn run(bytes: &[u8], prompt: &str, backend: Backend, batch: usize) -> Hashes {
    let model = Model::from_bytes(bytes).unwrap();
    let mut ids = vec![model.config().document_token; prompt.len() + 1];
    let tokenizer = model.tokenizer().unwrap();
    let used = tokenizer.encode(prompt.as_bytes(), &mut ids[1..]).unwrap();
    let batch = Batch::new(batch);
    let mut memory = vec![f32::NAN; model.memory(batch).words()];
    let mut session = Session::with_backend(model, batch, &mut memory, backend).unwrap();
    let (mut tokens, mut logits) = (Vec::new(), Vec::new());
    let mut sampler = Sampler::greedy();
    let next = Cell::new(0);
    let mut note = |_: usize, row: &mut [f32]| {
        logits.extend(row.iter().flat_map(|l| l.to_le_bytes()));
        next.set(sampler.sample(row));
    };
    session.prefill_with(&ids[..=used], &mut note).unwrap();
    for _ in 0..TOKENS {
        let token: u32 = next.get();
        tokens.extend(token.to_le_bytes());
        session.prefill_with(&[token], &mut note).unwrap();
    }
    Hashes {
        blob: crc32(bytes),
        tokens: crc32(&tokens),
        logits: crc32(&logits),
        state: session.state_hash(),
    }
}

/// On every road the same, and as it always was.
fn check(bytes: &[u8], prompt: &str, [blob, tokens, logits, state]: [u32; 4]) {
    let expected = Hashes {
        blob,
        tokens,
        logits,
        state,
    };
    for backend in backends() {
        for batch in [1, 16] {
            let found = run(bytes, prompt, backend, batch);
            assert_eq!(found, expected, "{}, batch {batch}", backend.name());
        }
    }
}

/// Rows of whole blocks, parts of blocks and parts of registers.
fn wide_config() -> Config {
    Config {
        d_model: 192,
        d_ffn: 572,
        n_heads: 12,
        ..small_config()
    }
}

/// A random model of such rows; a small one where an emulator, which computes floats in software, would take a minute.
fn check_random(dtype: DType, expected: [u32; 4]) {
    let config = match dtype {
        DType::F16 | DType::F32 => small_config(),
        _ => wide_config(),
    };
    let attention = LayerConfig {
        conv: true,
        kv_heads: 1,
        window: 20,
        ..LayerConfig::of(Mixer::Attention)
    };
    let lite = LayerConfig {
        decay: true,
        ..LayerConfig::of(Mixer::TttLite)
    };
    let mlp = LayerConfig {
        mixer: Mixer::TttMlp,
        ..FULL_LAYER
    };
    let layers = [FULL_LAYER, attention, mlp, lite];
    let bytes = blueprint(&config, &layers, dtype, 1).to_bytes().unwrap();
    check(
        AlignedCopy::of(&bytes).bytes(),
        "The same bits everywhere.",
        expected,
    );
}

#[test]
fn the_demo_comes_to_the_same_everywhere() {
    let demo = AlignedCopy::of(include_bytes!("../../demo/demo.bttt"));
    check(
        demo.bytes(),
        "Ada",
        [0xb57a0471, 0x0a090355, 0x257b66f0, 0x8917f323],
    );
}

#[test]
fn a_model_in_t2_comes_to_the_same_everywhere() {
    check_random(DType::T2, [0x9f6920e3, 0xec191ae3, 0xad50ce46, 0x2619becb]);
}

#[test]
fn a_model_in_t5_comes_to_the_same_everywhere() {
    check_random(DType::T5, [0x5f1f2e04, 0xec191ae3, 0xad50ce46, 0x2619becb]);
}

#[test]
fn a_model_in_int8_comes_to_the_same_everywhere() {
    check_random(DType::I8, [0xb5422c86, 0x1f55f587, 0xc0d17011, 0x87a67467]);
}

#[test]
fn a_model_in_f16_comes_to_the_same_everywhere() {
    check_random(DType::F16, [0x20be256f, 0x35871c46, 0x75fad9fc, 0x928d5624]);
}

#[test]
fn a_model_in_f32_comes_to_the_same_everywhere() {
    check_random(DType::F32, [0x32427f65, 0x35871c46, 0xcd79f526, 0x6bf61816]);
}

/// Two tiles of keys; a ring that wraps; groups of one and two query heads.
#[test]
fn a_model_of_all_mixers_comes_to_the_same_everywhere() {
    let of = |mixer| LayerConfig {
        conv: true,
        ..LayerConfig::of(mixer)
    };
    let attention = LayerConfig {
        kv_heads: 12,
        gate: true,
        ..of(Mixer::Attention)
    };
    let ring = LayerConfig {
        kv_heads: 6,
        window: 20,
        kv_f32: true,
        plain: true,
        ..LayerConfig::of(Mixer::Attention)
    };
    let layers = [attention, of(Mixer::TttMlp), of(Mixer::TttLite), ring];
    let bytes = blueprint(&wide_config(), &layers, DType::T2, 1)
        .to_bytes()
        .unwrap();
    check(
        AlignedCopy::of(&bytes).bytes(),
        "The same bits everywhere.",
        [0x80c2e58a, 0x8a6d5727, 0x464cd844, 0x043bb20f],
    );
}

/// What only models of other projects have.
#[test]
fn a_model_of_another_project_comes_to_the_same_everywhere() {
    let config = Config {
        float_activations: true,
        ..small_config()
    };
    let base = LayerConfig {
        plain: true,
        layer_norm: true,
        ..LayerConfig::of(Mixer::TttLinear)
    };
    let convolved = LayerConfig {
        mixer: Mixer::TttMlp,
        gate: true,
        gelu_gate: true,
        pre_conv: true,
        shared_qk: true,
        ..base
    };
    let lite = LayerConfig {
        plain: true,
        ..LayerConfig::of(Mixer::TttLite)
    };
    let bytes = blueprint(&config, &[base, convolved, lite], DType::T5, 1)
        .to_bytes()
        .unwrap();
    check(
        AlignedCopy::of(&bytes).bytes(),
        "The same bits everywhere.",
        [0x50afac93, 0xbf263a28, 0x7aa14298, 0x42ddbe5c],
    );
}

/// `cargo xtask test` says in this variable which backends a machine must have, so that none is left out unseen.
#[test]
fn the_machine_has_the_backends_that_it_should_have() {
    let found: Vec<_> = backends().map(Backend::name).collect();
    assert_eq!(found[0], "scalar");
    if let Ok(expected) = std::env::var("BITTTT_EXPECTED_BACKENDS") {
        assert_eq!(found.join(","), expected);
    }
}
