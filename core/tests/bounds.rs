//! What holds of any tokens on any valid model, absurd ones included: logits are finite, whatever the state keeps is finite
//! and can be restored, fast weights are bounded. The tokens are searched for: a hill climb after the largest number.
//!
//! `BITTTT_CASES=N` tries N times as many models.

mod common;

use bitttt_core::format::{Activation, Config, LayerConfig, Mixer};
use bitttt_core::{Backend, Batch, Model, Session};
use bitttt_export::random::{blueprint, small_config};
use bitttt_export::{AlignedCopy, Blueprint, TensorData};
use common::{cases, dtypes, layout, memory, stack};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

/// What fast weights are held within (docs/NUMERICS.md).
const BOUND: f32 = 65_536.0;
/// Sequences that a search tries on one model.
const TRIES: usize = 24;

/// How many times the usual number of models and tries: `BITTTT_CASES`.
fn scale() -> u32 {
    let times = std::env::var("BITTTT_CASES").ok();
    times.map_or(1, |times| times.parse().expect("BITTTT_CASES is a number"))
}

/// By how much a tensor's numbers are multiplied, and what they are held within so that the format takes them.
const FACTORS: [f32; 12] = [
    0.0,
    -1.0,
    f32::from_bits(1),
    1e-30,
    1e-6,
    1e3,
    1e9,
    1e19,
    1e30,
    -1e30,
    f32::MAX,
    -f32::MAX,
];

fn times(data: &mut TensorData, factor: f32) {
    let held = |x: &mut f32, most: f32| *x = (*x * factor).clamp(-most, most);
    match data {
        TensorData::Ternary { scale, .. } => held(scale, f32::MAX),
        TensorData::TernaryRows { scales, .. } | TensorData::Int8 { scales, .. } => {
            scales.iter_mut().for_each(|x| held(x, f32::MAX));
        }
        TensorData::F16(values) => values.iter_mut().for_each(|x| held(x, 65_504.0)),
        TensorData::F32(values) => values.iter_mut().for_each(|x| held(x, f32::MAX)),
    }
}

/// Dimensions of a small model with everything about numbers and kinds drawn, to the ends of what the format takes.
fn configs() -> impl Strategy<Value = Config> {
    let tiny = f32::from_bits(1);
    let below_one = 1.0f32.next_down();
    let epsilons = || select(vec![1e-5, tiny, below_one]);
    let thetas = select(vec![10_000.0, 1.0f32.next_up(), f32::MAX]);
    let rates = select(vec![1.0, 0.0, tiny, 1e4, 1e20, f32::MAX]);
    let mini_batches = select(vec![1u16, 2, 5, 16]);
    let kinds = any::<[bool; 3]>();
    (epsilons(), epsilons(), thetas, rates, mini_batches, kinds).prop_map(
        |(norm_eps, ln_eps, rope_theta, ttt_base_lr, mini_batch, [relu2, tied, wide])| Config {
            d_model: 24,
            d_ffn: 40,
            n_heads: 6,
            context: 64,
            norm_eps,
            ln_eps,
            rope_theta,
            ttt_base_lr,
            mini_batch,
            activation: if relu2 {
                Activation::Relu2
            } else {
                Activation::Silu
            },
            tied,
            float_activations: wide,
            ..small_config()
        },
    )
}

/// A valid model of which some tensors are anything that the format takes.
fn models() -> impl Strategy<Value = Blueprint> {
    let changes = prop::collection::vec((any::<Index>(), select(FACTORS.to_vec())), 0..12);
    (configs(), stack(), dtypes(), any::<u64>(), changes).prop_map(
        |(config, layers, dtype, seed, changes)| {
            let mut made = blueprint(&config, &layers, dtype, seed);
            let places: Vec<_> = made.tensors.keys().copied().collect();
            for (index, factor) in changes {
                if let Some(data) = made.tensors.get_mut(index.get(&places)) {
                    times(data, factor);
                }
            }
            made
        },
    )
}

/// What a search makes large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Logits,
    /// How far any number of it is from where it starts; where no layer keeps halves, which do not read as f32.
    State,
}

/// Tries token sequences on a model, keeps the one that makes the largest number and changes that further.
struct Search<'m, 's> {
    session: Session<'m, 's>,
    /// Where fast weights are, and the most that each may be.
    bounds: Vec<(usize, f32)>,
    goal: Goal,
    /// The state of a fresh session.
    start: Vec<f32>,
    random: Pcg32,
    snapshot: Vec<u8>,
}

impl Search<'_, '_> {
    fn below(&mut self, n: usize) -> usize {
        self.random.next_u32() as usize % n
    }

    /// The largest number that these tokens make of what the search is after; all that is promised holds.
    fn largest(&mut self, tokens: &[u32]) -> f32 {
        let mut largest = 0.0f32;
        self.session.reset();
        let each = &mut |i: usize, logits: &mut [f32]| {
            for logit in logits {
                assert!(logit.is_finite(), "logit {logit} after {i} of {tokens:?}");
                largest = largest.max(logit.abs());
            }
        };
        self.session.prefill_with(tokens, each).unwrap();
        self.session.snapshot(&mut self.snapshot).unwrap();
        let restored = self.session.restore(&self.snapshot);
        assert_eq!(restored, Ok(()), "its own snapshot after {tokens:?}");
        let state = self.session.state();
        for &(at, most) in &self.bounds {
            assert!(
                state[at].abs() <= most,
                "{} at {at} after {tokens:?}",
                state[at]
            );
        }
        match self.goal {
            Goal::Logits => largest,
            Goal::State => {
                let far = state
                    .iter()
                    .zip(&self.start)
                    .map(|(x, start)| (x - start).abs());
                far.fold(0.0, f32::max)
            }
        }
    }

    /// Climbs from `count` random tokens for so many tries; the largest number before and after.
    fn climb(&mut self, [count, tries]: [usize; 2]) -> [f32; 2] {
        let mut best: Vec<u32> = (0..count).map(|_| self.below(257) as u32).collect();
        let first = self.largest(&best);
        let mut most = first;
        for _ in 0..tries {
            let mut tokens = best.clone();
            let (from, length) = (self.below(count), 1 + self.below(count / 3));
            let (token, alike) = (self.below(257) as u32, self.below(2) == 0);
            for to in tokens.iter_mut().skip(from).take(length) {
                *to = if alike { token } else { self.below(257) as u32 };
            }
            let made = self.largest(&tokens);
            if made > most {
                (most, best) = (made, tokens);
            }
        }
        [first, most]
    }
}

/// Searches on a model of these layers.
fn search(
    blob: &[u8],
    layers: &[LayerConfig],
    goal: Goal,
    seed: u64,
    size: [usize; 2],
) -> [f32; 2] {
    let model = Model::from_bytes(blob).unwrap();
    model.verify().unwrap();
    let batch = Batch::new(7);
    let mut memory = memory(&model, batch);
    let session = Session::with_backend(model, batch, &mut memory, Backend::detect()).unwrap();
    let start = session.state().to_vec();
    let fast = layout::fast(model.config(), layers, start.len());
    let bounds = fast.into_iter().flatten();
    let halves = |layer: &LayerConfig| layer.mixer == Mixer::Attention && !layer.kv_f32;
    let mut search = Search {
        bounds: bounds.map(|at| (at, BOUND.max(start[at].abs()))).collect(),
        goal: if layers.iter().any(halves) {
            Goal::Logits
        } else {
            goal
        },
        start,
        random: Pcg32::new(seed, 7),
        snapshot: vec![0; model.memory(batch).snapshot_bytes()],
        session,
    };
    search.climb(size)
}

proptest! {
    #![proptest_config(cases(400 * scale()))]

    #[test]
    fn no_tokens_make_a_valid_model_leave_finite_numbers_or_its_bounds(
        blueprint in models(), seed in any::<u64>(), more in 1usize..9
    ) {
        let blob = AlignedCopy::of(&blueprint.to_bytes().unwrap());
        let count = (2 * usize::from(blueprint.config.mini_batch) + more).min(64);
        let goal = if seed % 2 == 0 { Goal::State } else { Goal::Logits };
        search(blob.bytes(), &blueprint.layers, goal, seed, [count, TRIES]);
    }
}

/// On a model that was trained the worst tokens that a search finds are no worse than others.
#[test]
fn a_search_finds_nothing_that_runs_away_in_the_demo() {
    let bytes = include_bytes!("../../demo/demo.bttt");
    let blob = AlignedCopy::of(bytes);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let layers: Vec<_> = (0..model.config().n_layers)
        .map(|layer| model.layer_config(layer).unwrap())
        .collect();
    for goal in [Goal::Logits, Goal::State] {
        let size = [256, cases(80 * scale()).cases as usize];
        let [first, most] = search(blob.bytes(), &layers, goal, 1, size);
        println!("{goal:?}: at most {first} after random tokens, {most} after those found");
        assert!(first < most, "a search that finds nothing searches nothing");
        assert!(most < 100.0, "{most}");
    }
}
