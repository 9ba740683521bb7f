//! What a session's memory depends on, and what it does not: a stop at any place of a mini-batch, other sessions on the same
//! model, what is read while frozen.

mod common;

use bitttt_core::format::{DType, LayerConfig, Mixer};
use bitttt_core::{Backend, Batch, Learning, Model, Session};
use bitttt_export::random::{FULL_LAYER, small_config};
use common::{ATTENTION, blob, cases, config, dtypes, layout, memory, stack, tokens};
use proptest::prelude::*;

/// Everything that tells two sessions apart: state, position, updates dropped.
type Memory = (Vec<u32>, u64, u32);

fn memory_of(session: &Session<'_, '_>) -> Memory {
    let state = session.state().iter().map(|x| x.to_bits()).collect();
    (state, session.position(), session.dropped_updates())
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// One layer of each kind, with and without what it may have, and a ring of attention that goes round.
fn kinds() -> Vec<LayerConfig> {
    let ring = LayerConfig {
        window: 7,
        kv_f32: true,
        ..ATTENTION
    };
    let shared = LayerConfig {
        shared_qk: true,
        pre_conv: true,
        ..LayerConfig::of(Mixer::TttLinear)
    };
    let learns = [Mixer::TttLinear, Mixer::TttMlp, Mixer::TttLite].into_iter();
    let bare = learns.clone().map(LayerConfig::of);
    let full = learns.map(|mixer| LayerConfig {
        conv: true,
        ffn_conv: true,
        decay: true,
        gate: mixer != Mixer::TttLite,
        ..LayerConfig::of(mixer)
    });
    bare.chain(full).chain([ATTENTION, ring, shared]).collect()
}

#[test]
fn a_stop_at_any_place_of_a_mini_batch_is_none() {
    let config = small_config();
    let all = tokens(3 * usize::from(config.mini_batch) + 1, 77);
    let (mut stops, kinds) = (0, kinds());
    for (seed, layer) in kinds.iter().enumerate() {
        let blob = blob(
            &config,
            &[*layer, kinds[(seed + 1) % kinds.len()]],
            DType::T2,
            seed as u64,
        );
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let [mut m1, mut m2, mut m3] = [1, 1, 5].map(|n| memory(&model, Batch::new(n)));
        let mut straight = Session::new(model, Batch::ONE, &mut m1).unwrap();
        let mut first = Session::new(model, Batch::ONE, &mut m2).unwrap();
        let mut second =
            Session::with_backend(model, Batch::new(5), &mut m3, Backend::SCALAR).unwrap();
        let expected = bits(straight.prefill(&all).unwrap());
        let mut snapshot = vec![0; model.memory(Batch::ONE).snapshot_bytes()];
        for stop in 0..all.len() {
            if stop > 0 {
                first.step(all[stop - 1]).unwrap();
            }
            first.snapshot(&mut snapshot).unwrap();
            second.restore(&snapshot).unwrap();
            assert_eq!(memory_of(&second), memory_of(&first));
            let logits = bits(second.prefill(&all[stop..]).unwrap());
            assert_eq!(logits, expected, "{layer:?} stopped after {stop}");
            assert_eq!(
                memory_of(&second),
                memory_of(&straight),
                "{layer:?} stopped after {stop}"
            );
            stops += 1;
        }
    }
    println!("{stops} stops");
}

/// What may be done to a session.
#[derive(Clone, Debug)]
enum Call {
    Read(Vec<u32>),
    Learn(bool),
    Reset,
    /// Reads more and goes back to before it.
    Undo(u32),
}

fn call() -> impl Strategy<Value = Call> {
    let token = 0..257u32;
    prop_oneof![
        6 => prop::collection::vec(token.clone(), 1..12).prop_map(Call::Read),
        2 => any::<bool>().prop_map(Call::Learn),
        1 => Just(Call::Reset),
        2 => token.prop_map(Call::Undo),
    ]
}

/// Makes a call; what it shows.
fn make(session: &mut Session<'_, '_>, call: &Call) -> Vec<u32> {
    match call {
        Call::Read(tokens) => session
            .prefill(tokens)
            .map_or(vec![], |logits| bits(logits)),
        Call::Learn(on) => {
            session.set_learning(if *on { Learning::On } else { Learning::Frozen });
            vec![]
        }
        Call::Reset => {
            session.reset();
            vec![]
        }
        Call::Undo(token) => {
            let mut snapshot = vec![0; 32 + 4 * session.state().len()];
            session.snapshot(&mut snapshot).unwrap();
            let _ = session.step(*token);
            session.restore(&snapshot).unwrap();
            vec![]
        }
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn sessions_on_one_model_do_not_touch_each_other(
        layers in stack(), dtype in dtypes(), seed in any::<u64>(), batches in [1usize..6, 1usize..6],
        calls in prop::collection::vec((0usize..2, call()), 2..30)
    ) {
        let blob = blob(&config(), &layers, dtype, seed);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let batches = batches.map(Batch::new);
        let [mut m1, mut m2] = batches.map(|batch| memory(&model, batch));
        let memories = [&mut m1, &mut m2];
        let mut both: Vec<_> = batches.into_iter().zip(memories).map(|(b, m)| Session::new(model, b, m).unwrap()).collect();
        let shown: Vec<_> = calls.iter().map(|(who, call)| make(&mut both[*who], call)).collect();
        for (who, batch) in batches.into_iter().enumerate() {
            let mut memory = memory(&model, batch);
            let mut alone = Session::new(model, batch, &mut memory).unwrap();
            for ((_, call), shown) in calls.iter().zip(&shown).filter(|((of, _), _)| *of == who) {
                prop_assert_eq!(&make(&mut alone, call), shown);
            }
            prop_assert_eq!(memory_of(&alone), memory_of(&both[who]));
        }
    }

    /// From the start of a mini-batch on fast weights stay as they are, byte for byte, after every single token. From within
    /// one they take what was learned in it before, and nothing of what is read now.
    #[test]
    fn what_is_read_while_frozen_is_not_written_to_fast_weights(
        layers in stack(), dtype in dtypes(), seed in any::<u64>(), whole in 0usize..4, open in 0usize..8, count in 1usize..30
    ) {
        let blob = blob(&config(), &layers, dtype, seed);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let learned = tokens(whole * 8 + open, seed);
        let fast = |session: &Session<'_, '_>| {
            let places = layout::fast(&config(), &layers, session.state().len()).into_iter().flatten();
            places.map(|at| session.state()[at].to_bits()).collect::<Vec<_>>()
        };
        let ends = [1, 2].map(|other| {
            let mut memory = memory(&model, Batch::new(4));
            let mut session = Session::new(model, Batch::new(4), &mut memory).unwrap();
            if !learned.is_empty() {
                session.prefill(&learned).unwrap();
            }
            session.set_learning(Learning::Frozen);
            let mut before = fast(&session);
            for (i, token) in tokens(count, seed ^ other).into_iter().enumerate() {
                session.step(token).unwrap();
                if open > 0 && open + i + 1 == 8 && !learned.is_empty() {
                    before = fast(&session);
                }
                assert_eq!(fast(&session), before, "after {i}");
            }
            before
        });
        prop_assert_eq!(&ends[0], &ends[1]);
    }

    /// Where there is nothing but learning to write, as in layers without convolutions and attention, a frozen session's
    /// snapshot holds the state that it began with, all of it.
    #[test]
    fn a_frozen_session_without_histories_has_the_snapshot_that_it_began_with(
        mixers in prop::collection::vec(prop::sample::select(vec![Mixer::TttLinear, Mixer::TttMlp, Mixer::TttLite]), 1..4),
        dtype in dtypes(), seed in any::<u64>(), count in 1usize..40
    ) {
        let layers: Vec<_> = mixers.into_iter().map(|mixer| LayerConfig { conv: false, ..LayerConfig::of(mixer) }).collect();
        let blob = blob(&config(), &layers, dtype, seed);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let mut memory = memory(&model, Batch::new(3));
        let mut session = Session::new(model, Batch::new(3), &mut memory).unwrap();
        let before = session.snapshot_parts().1.to_vec();
        session.set_learning(Learning::Frozen);
        session.prefill(&tokens(count, seed)).unwrap();
        let (header, after) = session.snapshot_parts();
        prop_assert_eq!(after, &before[..]);
        prop_assert_eq!(u64::from_le_bytes(header[16..24].try_into().unwrap()), count as u64);
    }
}

/// So that the property above is about something.
#[test]
fn the_same_session_that_learns_has_another_snapshot() {
    let blob = blob(&small_config(), &[FULL_LAYER], DType::T2, 1);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut memory = memory(&model, Batch::ONE);
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let before = session.snapshot_parts().1.to_vec();
    session.step(1).unwrap();
    assert_ne!(session.snapshot_parts().1, before);
}
