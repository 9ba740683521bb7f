//! Whole random models: the same bits whatever the road.

mod common;

use bitttt_core::format::{Activation, Config, DType, LayerConfig};
use bitttt_core::{
    Backend, Batch, Learning, Model, RestoreError, Session, SessionError, SnapshotError,
    snapshot as format,
};
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use bitttt_export::{AlignedCopy, TensorData};
use common::{ATTENTION, Threads, config, dtypes, memory, stack, tokens};
use proptest::prelude::*;

/// Two layers alike.
fn blob(layer: LayerConfig, dtype: DType, seed: u64) -> AlignedCopy {
    common::blob(&small_config(), &[layer; 2], dtype, seed)
}

/// Logits after every token and the state's hash.
fn run(
    model: &Model<'_>,
    batch: usize,
    backend: Backend,
    threads: usize,
    tokens: &[u32],
) -> (Vec<u32>, u32) {
    let (mut memory, threads) = (memory(model, Batch::new(batch)), Threads(threads));
    let mut session =
        Session::with_backend(*model, Batch::new(batch), &mut memory, backend).unwrap();
    if threads.0 > 1 {
        session.set_parallel(&threads);
    }
    let mut bits = Vec::new();
    session
        .prefill_with(tokens, &mut |_, logits| {
            bits.extend(logits.iter().map(|l| l.to_bits()))
        })
        .unwrap();
    (bits, session.state_hash())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_backend_batch_split_and_thread_count_gives_the_same_bits(
        layers in stack(), dtype in dtypes(), seed in any::<u64>(), batch in 2usize..90, count in 1usize..100, cut in 0usize..100,
        threads in 1usize..5, frozen in any::<bool>()
    ) {
        let blob = common::blob(&config(), &layers, dtype, seed);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let tokens = tokens(count, seed);
        let expected = run(&model, 1, Backend::SCALAR, 1, &tokens);
        Backend::request_amx();
        for backend in Backend::all() {
            prop_assert_eq!(&run(&model, batch, backend, threads, &tokens), &expected, "{}", backend.name());
        }
        let mut memory = memory(&model, Batch::new(batch));
        let mut session = Session::new(model, Batch::new(batch), &mut memory).unwrap();
        if frozen {
            // what was read before a reset, learned or not, leaves no trace
            session.set_learning(Learning::Frozen);
            session.prefill(&tokens).unwrap();
            session.set_learning(Learning::On);
            session.reset();
        }
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
        prop_assert_eq!(run(&a, 4, Backend::detect(), 1, &tokens), run(&b, 4, Backend::detect(), 1, &tokens));
    }

    #[test]
    fn gains_and_taps_stored_as_halves_give_the_bits_of_the_same_values_as_floats(layers in stack(), seed in any::<u64>()) {
        let mut halves = blueprint(&config(), &layers, DType::T2, seed);
        let mut floats = halves.clone();
        for (place, data) in &mut halves.tensors {
            if let TensorData::F32(values) = data && place.1.allows(DType::F16) {
                let rounded = values.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect();
                floats.tensors.insert(*place, TensorData::F32(rounded));
                *data = TensorData::F16(std::mem::take(values));
            }
        }
        let [halves, floats] = [halves, floats].map(|b| AlignedCopy::of(&b.to_bytes().unwrap()));
        prop_assert!(halves.bytes().len() < floats.bytes().len());
        let [halves, floats] = [&halves, &floats].map(|b| Model::from_bytes(b.bytes()).unwrap());
        let tokens = tokens(20, seed);
        for backend in Backend::all() {
            prop_assert_eq!(run(&halves, 4, backend, 1, &tokens), run(&floats, 4, backend, 1, &tokens));
        }
    }

    #[test]
    fn restoring_a_snapshot_continues_as_if_never_stopped(layers in stack(), seed in any::<u64>(), before in 1usize..90, after in 1usize..20) {
        let blob = common::blob(&config(), &layers, DType::T2, seed);
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
    let config = Config {
        activation: Activation::Relu2,
        ..small_config()
    };
    let blob = common::blob(&config, &[FULL_LAYER, ATTENTION], DType::T5, 1);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let batch = Batch::new(7).with_context(1000);
    assert_eq!(
        bitttt_core::MemoryPlan::of_blob(blob.bytes(), batch),
        Ok(model.memory(batch))
    );
}

/// A blob of one attention layer between two that learn.
fn hybrid(window: u32) -> AlignedCopy {
    let attention = LayerConfig {
        window,
        ..ATTENTION
    };
    let config = Config {
        context: 20,
        ..small_config()
    };
    common::blob(&config, &[FULL_LAYER, attention, FULL_LAYER], DType::T2, 3)
}

#[test]
fn a_full_context_is_refused_before_anything_is_read() {
    let blob = hybrid(0);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = memory(&model, Batch::new(8));
    let mut session = Session::new(model, Batch::new(8), &mut memory).unwrap();
    session.prefill(&tokens(12, 1)).unwrap();
    let before = session.state_hash();
    let refused = session.prefill(&tokens(9, 2)).unwrap_err();
    let expected = SessionError::Context {
        capacity: 20,
        position: 12,
        tokens: 9,
    };
    assert_eq!(refused, expected);
    assert!(refused.to_string().contains("with_context"));
    assert_eq!(session.state_hash(), before);
    session.prefill(&tokens(8, 2)).unwrap();
    let full = session.state_hash();
    assert!(session.step(1).is_err());
    assert!(session.prefill_with(&[1], &mut |_, _| ()).is_err());
    assert_eq!(session.state_hash(), full);
    session.reset();
    session.step(1).unwrap();
}

#[test]
fn the_room_for_context_is_the_callers_choice_and_a_window_needs_none() {
    for (window, room, count) in [(0, 300, 300), (6, 1, 90)] {
        let blob = hybrid(window);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let batch = Batch::new(4).with_context(room);
        let mut memory = memory(&model, batch);
        let mut session = Session::new(model, batch, &mut memory).unwrap();
        session.prefill(&tokens(count, 5)).unwrap();
        assert_eq!(session.position(), count as u64);
        assert_eq!(session.step(1).is_err(), window == 0);
    }
}

#[test]
fn the_plan_grows_by_exactly_what_a_token_takes() {
    let blob = hybrid(0);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let state = |tokens| model.memory(Batch::ONE.with_context(tokens)).state;
    let (d, bytes) = (16, 2); // one head of keys and values, in halves
    assert_eq!(state(64) - state(63), d * bytes / 4);
    assert_eq!(state(65) - state(64), d * bytes / 4 + 64 * d * bytes / 4); // and a new tile of keys
    assert_eq!(state(1 << 20) - state(0), (d * bytes / 4 * 2) << 20);
    assert_eq!(state(usize::MAX), usize::MAX); // saturates
}

#[test]
fn frozen_attention_still_sees_what_it_reads() {
    let blob = common::blob(&small_config(), &[ATTENTION], DType::T2, 3);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let run = |learning| {
        let mut memory = memory(&model, Batch::ONE);
        let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
        session.set_learning(learning);
        let logits = session.prefill(&tokens(30, 5)).unwrap().to_vec();
        (logits, session.state_hash())
    };
    assert_eq!(run(Learning::On), run(Learning::Frozen));
}

#[test]
fn a_snapshot_of_other_room_or_with_a_number_that_is_not_finite_is_refused() {
    let blob = hybrid(0);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let (mut m1, mut m2) = (memory(&model, Batch::ONE), memory(&model, Batch::ONE));
    let mut session = Session::new(model, Batch::ONE, &mut m1).unwrap();
    session.prefill(&tokens(10, 5)).unwrap();
    let mut snapshot = vec![0; model.memory(Batch::ONE).snapshot_bytes()];
    session.snapshot(&mut snapshot).unwrap();

    let narrow = Batch::ONE.with_context(19);
    let mut other = Session::new(model, narrow, &mut m2).unwrap();
    assert_eq!(other.restore(&snapshot), Err(SnapshotError::Length));

    // states of the outer layers are alike; between them lies the cache, whose first value becomes a half that is NaN
    let layer = (snapshot.len() - 32 - (20 + 64) * 16 * 2) / 2;
    snapshot[32 + layer..][..2].copy_from_slice(&0x7E01u16.to_le_bytes());
    let sum = bitttt_core::crc32(&[&snapshot[..28], &snapshot[32..]].concat());
    snapshot[28..32].copy_from_slice(&sum.to_le_bytes());
    let before = session.state_hash();
    assert_eq!(session.restore(&snapshot), Err(SnapshotError::NotFinite));
    assert_eq!(session.state_hash(), before);
}

/// Found by fuzzing: counting on from the last position overflowed.
#[test]
fn a_snapshot_that_claims_more_tokens_than_can_be_read_is_refused() {
    let blob = hybrid(0);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = memory(&model, Batch::ONE);
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let mut snapshot = vec![0; model.memory(Batch::ONE).snapshot_bytes()];
    session.snapshot(&mut snapshot).unwrap();
    let mut at = |position: u64| {
        snapshot[format::field::POSITION..][..8].copy_from_slice(&position.to_le_bytes());
        let sum = bitttt_core::crc32(&[&snapshot[..28], &snapshot[32..]].concat());
        snapshot[28..32].copy_from_slice(&sum.to_le_bytes());
        session.restore(&snapshot)
    };
    for position in [1 << 63, u64::MAX] {
        assert_eq!(at(position), Err(SnapshotError::Position(position)));
    }
    assert_eq!(at((1 << 63) - 1), Ok(()));
    let more = session.prefill(&[1, 2, 3]).map(|_| ());
    assert!(matches!(more, Err(SessionError::Context { .. })));
}

/// What a device that keeps snapshots in flash does.
fn parts(session: &Session<'_, '_>) -> Vec<u8> {
    let (header, state) = session.snapshot_parts();
    [&header, state].concat()
}

#[test]
fn a_snapshot_in_pieces_is_the_snapshot() {
    let blob = hybrid(7);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let (mut m1, mut m2) = (memory(&model, Batch::ONE), memory(&model, Batch::new(8)));
    let mut session = Session::new(model, Batch::ONE, &mut m1).unwrap();
    session.prefill(&tokens(30, 5)).unwrap();
    let mut snapshot = vec![0; model.memory(Batch::ONE).snapshot_bytes()];
    session.snapshot(&mut snapshot).unwrap();
    assert_eq!(parts(&session), snapshot);

    let mut restored = Session::new(model, Batch::new(8), &mut m2).unwrap();
    let read = |at: usize, piece: &mut [u8]| {
        piece.copy_from_slice(&snapshot[at..at + piece.len()]);
        Ok::<_, ()>(())
    };
    restored.restore_with(snapshot.len(), read).unwrap();
    let next = tokens(9, 6);
    assert_eq!(session.prefill(&next), restored.prefill(&next));
    assert_eq!(session.state_hash(), restored.state_hash());
}

#[test]
fn pieces_are_refused_as_the_whole_snapshot_is() {
    let blob = hybrid(0);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = memory(&model, Batch::ONE);
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    session.prefill(&tokens(10, 5)).unwrap();
    let whole = parts(&session);
    let layer = (whole.len() - 32 - (20 + 64) * 16 * 2) / 2;
    let places = [0, 4, 8, 12, 16, 28, 32, 32 + layer, whole.len() - 1];
    let lengths = [0, 31, 32, whole.len() - 1].map(|length| (None, length));
    let places = places.map(|at| (Some(at), whole.len()));
    for (at, length) in places.into_iter().chain(lengths) {
        let mut snapshot = whole[..length].to_vec();
        if let Some(at) = at {
            // a number that is not finite where numbers are, and then a checksum that matches
            snapshot[at..][..2.min(length - at)].fill(0xFF);
            if at >= 32 {
                snapshot[at / 4 * 4..][..4].fill(0xFF);
                let sum = bitttt_core::crc32(&[&snapshot[..28], &snapshot[32..]].concat());
                snapshot[28..32].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let before = session.state_hash();
        let read = |at: usize, piece: &mut [u8]| {
            piece.copy_from_slice(&snapshot[at..at + piece.len()]);
            Ok::<_, ()>(())
        };
        let pieces = session.restore_with(length, read);
        let expected = session.restore(&snapshot).unwrap_err();
        let short = length < 32; // of which not even the first bytes are read
        let expected = if short {
            SnapshotError::Length
        } else {
            expected
        };
        assert_eq!(pieces, Err(RestoreError::Snapshot(expected)), "{at:?}");
        assert_eq!(session.state_hash(), before);
    }
}

#[test]
fn a_snapshot_that_cannot_be_read_twice_resets_the_session() {
    let blob = hybrid(7);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = memory(&model, Batch::ONE);
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let fresh = session.state_hash();
    session.prefill(&tokens(30, 5)).unwrap();
    let (whole, before) = (parts(&session), session.state_hash());
    let checks = 1 + (whole.len() - 32).div_ceil(256);
    for (fails, changes) in [
        (0, false),
        (checks - 1, false),
        (checks, false),
        (checks, true),
    ] {
        let mut reads = 0;
        let read = |at: usize, piece: &mut [u8]| {
            piece.copy_from_slice(&whole[at..at + piece.len()]);
            reads += 1;
            match reads > fails {
                true if changes => piece[3] ^= 1,
                true => return Err("no contact"),
                false => {}
            }
            Ok(())
        };
        let result = session.restore_with(whole.len(), read);
        if fails < checks {
            assert_eq!(result, Err(RestoreError::Read("no contact")));
            assert_eq!(session.state_hash(), before);
        } else {
            let error = (!changes).then_some("no contact");
            assert_eq!(result, Err(RestoreError::SecondRead(error)));
            assert_eq!(session.state_hash(), fresh);
            session.restore(&whole).unwrap();
        }
    }
}
