//! Writes the models of this folder. To be run where they were made, at an older commit: README.md says how.
//!
//! `minor` is the format's minor version at that commit: what `bitttt-export` could write differs.

use bitttt_core::format::{Config, DType, LayerConfig};
use bitttt_core::{Batch, Model, Session};
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use bitttt_export::{AlignedCopy, Blueprint, TensorData, Vocabulary};
use std::path::Path;

/// What each model reads, behind its document token.
const TEXT: &str = "Ada met Ben. Ada met 12 men.";
/// Tokens before the snapshot; mini-batches of 4 leave one open.
const SAVED: usize = 14;

fn config() -> Config {
    Config {
        d_model: 12,
        d_ffn: 330, // a whole block and a part of one, of `t2` and of `t5`
        n_heads: 3,
        mini_batch: 4,
        ..small_config()
    }
}

fn main() {
    let folder = std::env::args().nth(1).expect("a folder to write to");
    for (name, blueprint) in models() {
        write(Path::new(&folder), name, &blueprint);
    }
}

/// The blob, the state after half of the text, and the tokens with the logits of the other half.
fn write(folder: &Path, name: &str, blueprint: &Blueprint) {
    let bytes = blueprint.to_bytes().expect("a valid model");
    let copy = AlignedCopy::of(&bytes);
    let model = Model::from_bytes(copy.bytes()).expect("what was written loads");
    let mut ids = vec![model.config().document_token; TEXT.len() + 1];
    let tokenizer = model.tokenizer().expect("it has one");
    let used = tokenizer.encode(TEXT.as_bytes(), &mut ids[1..]);
    ids.truncate(used.expect("a place a byte") + 1);

    let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
    let mut session = Session::new(model, Batch::ONE, &mut memory).expect("enough memory");
    let mut expected: Vec<u8> = Vec::new();
    expected.extend((ids.len() as u32).to_le_bytes());
    expected.extend((SAVED as u32).to_le_bytes());
    expected.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    for (at, &id) in ids.iter().enumerate() {
        if at == SAVED {
            let mut state = vec![0; model.memory(Batch::ONE).snapshot_bytes()];
            session.snapshot(&mut state).expect("room for it");
            std::fs::write(folder.join(format!("{name}.state")), state).unwrap();
        }
        let logits = session.step(id).expect("a token of the vocabulary");
        if at >= SAVED {
            expected.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        }
    }
    std::fs::write(folder.join(format!("{name}.bttt")), bytes).unwrap();
    std::fs::write(folder.join(format!("{name}.expected")), expected).unwrap();
}

/// Bytes and a few merges, in a vocabulary of that many tokens.
#[allow(dead_code)]
fn with_merges(config: Config, make: impl Fn(&Config) -> Blueprint) -> Blueprint {
    let mut words = Vocabulary::bytes();
    for pair in [*b"Ad", *b"et", *b" m"] {
        let [left, right] = pair.map(|byte| u32::from(byte) + 1);
        words.tokens.push(pair.to_vec());
        words.merges.push((left, right));
    }
    let mut blueprint = make(&Config {
        vocab_size: words.tokens.len() as u32,
        ..config
    });
    blueprint.tokenizer = Some(words);
    blueprint
}

#[cfg(minor = "0")]
fn models() -> Vec<(&'static str, Blueprint)> {
    let config = Config {
        n_layers: 1,
        ..config()
    };
    let tied = Config {
        tied: true,
        activation: bitttt_core::format::Activation::Relu2,
        ..config
    };
    let few = LayerConfig {
        conv: false,
        gate: false,
        decay: false,
        ..FULL_LAYER
    };
    vec![
        ("1.0-t2", blueprint(&config, FULL_LAYER, DType::T2, 10)),
        ("1.0-t5-merges", with_merges(tied, |c| blueprint(c, few, DType::T5, 11))),
    ]
}

#[cfg(any(minor = "1", minor = "2", minor = "3"))]
use bitttt_core::format::Mixer;

#[cfg(minor = "1")]
fn models() -> Vec<(&'static str, Blueprint)> {
    let context = Config {
        context: 40,
        ..config()
    };
    let small = Config {
        d_ffn: 20,
        ..context
    };
    let mlp = LayerConfig {
        mixer: Mixer::TttMlp,
        ..FULL_LAYER
    };
    let lite = LayerConfig {
        decay: true,
        ..LayerConfig::of(Mixer::TttLite)
    };
    let attention = LayerConfig {
        conv: true,
        gate: true,
        kv_heads: 1,
        ..LayerConfig::of(Mixer::Attention)
    };
    let ring = LayerConfig {
        kv_heads: 3,
        window: 9,
        kv_f32: true,
        plain: true,
        ..LayerConfig::of(Mixer::Attention)
    };
    vec![
        ("1.1-ttt", blueprint(&config(), &[mlp, lite], DType::T5, 12)),
        ("1.1-attention", blueprint(&context, &[attention], DType::T2, 13)),
        ("1.1-window-f16", blueprint(&small, &[ring, FULL_LAYER], DType::F16, 14)),
    ]
}

#[cfg(minor = "2")]
fn models() -> Vec<(&'static str, Blueprint)> {
    let letters = |with_unknown: bool| {
        let bytes = TEXT.bytes().filter(|&byte| !with_unknown || byte != b'B');
        let bytes: std::collections::BTreeSet<u8> = bytes.collect();
        let unknown = Some("\u{FFFD}".as_bytes().to_vec());
        let tokens = std::iter::once(Vec::new()).chain(bytes.into_iter().map(|byte| vec![byte]));
        Vocabulary {
            tokens: tokens.chain(unknown).collect(),
            merges: Vec::new(),
        }
    };
    let small = LayerConfig {
        identity: true,
        head_rates: true,
        ffn_conv: true,
        ..LayerConfig::of(Mixer::TttLinear)
    };
    let full = LayerConfig {
        ffn_conv: true,
        ..FULL_LAYER
    };
    [
        (concat!("1.2-alphabet-t5-", env!("MADE_AT")), small, DType::T5, true),
        (concat!("1.2-compact-i8-", env!("MADE_AT")), full, DType::I8, false),
    ]
    .into_iter()
    .map(|(name, layer, dtype, unknown)| {
        let words = letters(unknown);
        let config = Config {
            vocab_size: words.tokens.len() as u32,
            d_ffn: if dtype == DType::I8 { 70 } else { 330 },
            ..config()
        };
        let mut made = blueprint(&config, &[layer], dtype, 15);
        made.tokenizer = Some(words);
        if dtype == DType::I8 {
            made.tensors.iter_mut().for_each(|((_, role), data)| {
                if let (true, TensorData::F32(values)) = (role.allows(DType::F16), &*data) {
                    *data = TensorData::F16(values.clone());
                }
            });
        }
        (name, made)
    })
    .collect()
}

#[cfg(minor = "3")]
fn models() -> Vec<(&'static str, Blueprint)> {
    let float = Config {
        float_activations: true,
        d_ffn: 20,
        ..config()
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
    let mut rows = blueprint(&config(), &[base], DType::T2, 17);
    for (&(layer, role), data) in &mut rows.tensors {
        let record = layer.map(|_| &base);
        let [count, _] = role.shape(&config(), record);
        if let TensorData::Ternary { trits, scale, dtype } = data {
            *data = TensorData::TernaryRows {
                scales: (0..count).map(|row| *scale * (1.0 + row as f32 / 64.0)).collect(),
                trits: std::mem::take(trits),
                dtype: *dtype,
            };
        }
    }
    vec![
        ("1.3-imported", blueprint(&float, &[base, convolved, lite], DType::F16, 16)),
        ("1.3-t2-row-scales", rows),
    ]
}
