//! Whole random models: the same bits whatever the road.

use bitttt_core::format::{Activation, DType, LayerConfig};
use bitttt_core::{Backend, Batch, Learning, Model, Session, SessionError, SnapshotError};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use proptest::prelude::*;

fn blob(layer: LayerConfig, dtype: DType, seed: u64) -> AlignedCopy {
    let config = small_config();
    AlignedCopy::of(&blueprint(&config, layer, dtype, seed).to_bytes().unwrap())
}

fn memory(model: &Model<'_>, batch: Batch) -> Vec<f32> {
    vec![f32::NAN; model.memory(batch).words()] // what was there before must not matter
}

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    (0..count as u64)
        .map(|i| ((i + 1).wrapping_mul(seed | 1) >> 7) as u32 % 257)
        .collect()
}

/// Logits after every token and the state's hash.
fn run(model: &Model<'_>, batch: usize, backend: Backend, tokens: &[u32]) -> (Vec<u32>, u32) {
    let mut memory = memory(model, Batch::new(batch));
    let mut session =
        Session::with_backend(*model, Batch::new(batch), &mut memory, backend).unwrap();
    let mut bits = Vec::new();
    session
        .prefill_with(tokens, &mut |_, logits| {
            bits.extend(logits.iter().map(|l| l.to_bits()))
        })
        .unwrap();
    (bits, session.state_hash())
}

fn layers() -> impl Strategy<Value = LayerConfig> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(conv, gate, decay)| LayerConfig {
        conv,
        gate,
        decay,
        ..FULL_LAYER
    })
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![
        DType::T2,
        DType::T5,
        DType::I8,
        DType::F16,
        DType::F32,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_backend_batch_and_split_gives_the_same_bits(
        layer in layers(), dtype in dtypes(), seed in any::<u64>(), batch in 2usize..40, count in 1usize..60, cut in 0usize..60
    ) {
        let blob = blob(layer, dtype, seed);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let tokens = tokens(count, seed);
        let expected = run(&model, 1, Backend::SCALAR, &tokens);
        for backend in Backend::all() {
            prop_assert_eq!(&run(&model, batch, backend, &tokens), &expected, "{}", backend.name());
        }
        let mut memory = memory(&model, Batch::new(batch));
        let mut session = Session::new(model, Batch::new(batch), &mut memory).unwrap();
        let (head, tail) = tokens.split_at(cut.min(count - 1));
        if !head.is_empty() {
            session.prefill(head).unwrap();
        }
        let last = tail.iter().map(|&t| session.step(t).unwrap().iter().map(|l| l.to_bits()).collect::<Vec<_>>()).last();
        prop_assert_eq!(&last.unwrap()[..], &expected.0[expected.0.len() - 257..]);
        prop_assert_eq!(session.state_hash(), expected.1);
    }

    #[test]
    fn t2_and_t5_store_the_same_model(seed in any::<u64>()) {
        let (a, b) = (blob(FULL_LAYER, DType::T2, seed), blob(FULL_LAYER, DType::T5, seed));
        let (a, b) = (Model::from_bytes(a.bytes()).unwrap(), Model::from_bytes(b.bytes()).unwrap());
        let tokens = tokens(20, seed);
        prop_assert_eq!(run(&a, 4, Backend::detect(), &tokens), run(&b, 4, Backend::detect(), &tokens));
    }

    #[test]
    fn restoring_a_snapshot_continues_as_if_never_stopped(seed in any::<u64>(), before in 1usize..40, after in 1usize..20) {
        let blob = blob(FULL_LAYER, DType::T2, seed);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let all = tokens(before + after, seed);
        let (mut m1, mut m2) = (memory(&model, Batch::ONE), memory(&model, Batch::new(8)));
        let mut straight = Session::new(model, Batch::ONE, &mut m1).unwrap();
        straight.prefill(&all[..before]).unwrap();
        let mut snapshot = vec![0; model.memory(Batch::ONE).snapshot_bytes()];
        prop_assert_eq!(straight.snapshot(&mut snapshot), Ok(snapshot.len()));
        let mut restored = Session::new(model, Batch::new(8), &mut m2).unwrap();
        restored.restore(&snapshot).unwrap();
        prop_assert_eq!(straight.prefill(&all[before..]).unwrap(), restored.prefill(&all[before..]).unwrap());
        prop_assert_eq!(straight.state_hash(), restored.state_hash());
    }

    #[test]
    fn a_damaged_snapshot_is_refused_and_changes_nothing(seed in any::<u64>(), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
        let blob = blob(FULL_LAYER, DType::T2, 5);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let mut memory = memory(&model, Batch::ONE);
        let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
        session.prefill(&tokens(30, seed)).unwrap();
        let mut snapshot = vec![0; model.memory(Batch::ONE).snapshot_bytes()];
        session.snapshot(&mut snapshot).unwrap();
        session.prefill(&tokens(7, seed)).unwrap();
        let before = session.state_hash();
        let i = at.index(snapshot.len());
        if cut { snapshot.truncate(i) } else { snapshot[i] ^= 1 << bit }
        prop_assert!(session.restore(&snapshot).is_err());
        prop_assert_eq!(session.state_hash(), before);
    }
}

#[test]
fn learning_changes_the_fast_weights_and_frozen_does_not() {
    let blob = blob(FULL_LAYER, DType::T2, 9);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = memory(&model, Batch::ONE);
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let d = 16;
    let fast = |session: &Session<'_, '_>| session.state()[..d * d + d].to_vec();
    let initial = fast(&session);
    session.set_learning(Learning::Frozen);
    session.prefill(&tokens(64, 3)).unwrap();
    assert_eq!(fast(&session), initial);
    session.set_learning(Learning::On);
    session.prefill(&tokens(8, 3)).unwrap();
    assert_ne!(fast(&session), initial);
    session.reset();
    assert_eq!(fast(&session), initial);
}

#[test]
fn a_token_out_of_range_is_refused_before_anything_is_read() {
    let blob = blob(FULL_LAYER, DType::T2, 9);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = memory(&model, Batch::ONE);
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let before = session.state_hash();
    assert_eq!(
        session.prefill(&[1, 2, 257]).unwrap_err(),
        SessionError::Token {
            token: 257,
            vocab_size: 257
        }
    );
    assert_eq!(session.prefill(&[]).unwrap_err(), SessionError::EmptyPrompt);
    assert_eq!(session.state_hash(), before);
}

#[test]
fn memory_one_word_short_is_refused() {
    let blob = blob(FULL_LAYER, DType::T2, 9);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let needed = model.memory(Batch::ONE).words();
    let mut memory = vec![0.0; needed - 1];
    let refused = Session::new(model, Batch::ONE, &mut memory).unwrap_err();
    assert_eq!(
        refused,
        SessionError::Memory {
            needed,
            given: needed - 1
        }
    );
}

#[test]
fn restoring_a_snapshot_of_another_model_is_refused() {
    let (a, b) = (
        blob(FULL_LAYER, DType::T2, 1),
        blob(FULL_LAYER, DType::T2, 2),
    );
    let (a, b) = (
        Model::from_bytes(a.bytes()).unwrap(),
        Model::from_bytes(b.bytes()).unwrap(),
    );
    let (mut m1, mut m2) = (memory(&a, Batch::ONE), memory(&b, Batch::ONE));
    let first = Session::new(a, Batch::ONE, &mut m1).unwrap();
    let mut snapshot = vec![0; a.memory(Batch::ONE).snapshot_bytes()];
    first.snapshot(&mut snapshot).unwrap();
    let mut second = Session::new(b, Batch::ONE, &mut m2).unwrap();
    let expected = SnapshotError::Model {
        snapshot: a.fingerprint(),
        model: b.fingerprint(),
    };
    assert_eq!(second.restore(&snapshot), Err(expected));
    let short = snapshot.len() - 1;
    assert!(matches!(
        first.snapshot(&mut snapshot[..short]),
        Err(SnapshotError::Buffer { .. })
    ));
}

#[test]
fn the_plan_of_the_bytes_is_the_plan_of_the_model() {
    let mut config = small_config();
    config.activation = Activation::Relu2;
    let blob = AlignedCopy::of(
        &blueprint(&config, FULL_LAYER, DType::T5, 1)
            .to_bytes()
            .unwrap(),
    );
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let batch = Batch::new(7);
    assert_eq!(
        bitttt_core::MemoryPlan::of_blob(blob.bytes(), batch),
        Ok(model.memory(batch))
    );
}
