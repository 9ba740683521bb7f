use super::*;
use proptest::prelude::*;
use std::vec::Vec;

#[test]
fn greedy_takes_the_first_of_equal_logits_and_skips_nan() {
    assert_eq!(Sampler::greedy().sample(&mut [f32::NAN, 1.0, 3.0, 3.0]), 2);
    assert_eq!(Sampler::greedy().sample(&mut [f32::NAN, f32::NAN]), 0);
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let draw = |seed| {
        let mut sampler = Sampler::new(1.0, seed);
        (0..50)
            .map(|_| sampler.sample(&mut [0.1, 0.2, 0.3, 0.4]))
            .collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn frequencies_follow_the_probabilities() {
    let mut sampler = Sampler::new(1.0, 3);
    let ones = (0..20_000)
        .filter(|_| sampler.sample(&mut [0.0, 3.0f32.ln()]) == 1)
        .count();
    assert!(
        (14_500..15_500).contains(&ones),
        "{ones} of 20000, expected three quarters"
    );
}

fn kept_by(sampler: Sampler, logits: &[f32]) -> Vec<u32> {
    let mut sampler = sampler;
    let mut seen: Vec<u32> = (0..2000)
        .map(|_| sampler.sample(&mut logits.to_vec()))
        .collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn top_k_and_top_p_keep_the_most_probable() {
    let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
    assert_eq!(kept_by(Sampler::new(1.0, 1).top_k(2), &logits), [0, 1]);
    assert_eq!(kept_by(Sampler::new(1.0, 1).top_p(0.75), &logits), [0, 1]);
    assert_eq!(kept_by(Sampler::new(1.0, 1).top_p(0.9), &logits), [0, 1, 2]);
    assert_eq!(kept_by(Sampler::new(1.0, 1), &logits), [0, 1, 2, 3]);
}

proptest! {
    #[test]
    fn any_logits_and_settings_give_a_token_of_the_vocabulary(
        bits in prop::collection::vec(any::<u32>(), 1..50), t in any::<f32>(), k in 0usize..60, p in any::<f32>(), seed in any::<u64>()
    ) {
        let mut logits: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let token = Sampler::new(t, seed).top_k(k).top_p(p).sample(&mut logits);
        prop_assert!((token as usize) < logits.len());
    }
}
