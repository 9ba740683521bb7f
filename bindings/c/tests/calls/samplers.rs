//! Choosing tokens.

use crate::support::*;
use bitttt_c::sampler::*;
use bitttt_c::status::Status;
use std::ptr::{null, null_mut};

/// A sampler in memory that was full of something else.
fn sampler(settings: *const Sampling) -> Result<Sampler, Status> {
    let mut sampler = std::mem::MaybeUninit::<Sampler>::zeroed();
    // SAFETY: as C must; zeros are a value.
    match unsafe { bitttt_sampler_init(sampler.as_mut_ptr(), settings) } {
        // SAFETY: initialised.
        Status::Ok => Ok(unsafe { sampler.assume_init() }),
        refused => Err(refused),
    }
}

fn sample(sampler: &mut Sampler, logits: &mut [f32]) -> Result<u32, Status> {
    let (at, len) = (logits.as_mut_ptr(), logits.len());
    // SAFETY: as C must.
    result(|to| unsafe { bitttt_sample(sampler, at, len, to) })
}

#[test]
fn samplers_choose_as_those_of_the_engine() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
    let engine = bitttt_core::Sampler::new;
    let of = |temperature, top_p, top_k, seed| Sampling {
        temperature,
        top_p,
        top_k,
        seed,
    };
    for (settings, mut expected) in [
        (of(0.0, 0.0, 0, 0), bitttt_core::Sampler::greedy()),
        (of(0.8, 0.0, 0, 1), engine(0.8, 1)),
        (of(0.8, 1.0, 0, 2), engine(0.8, 2)),
        (of(1.5, 0.7, 9, 3), engine(1.5, 3).top_k(9).top_p(0.7)),
    ] {
        let mut ours = sampler(&settings).unwrap();
        for _ in 0..20 {
            let chosen = sample(&mut ours, &mut logits.clone());
            assert_eq!(
                chosen,
                Ok(expected.sample(&mut logits.clone())),
                "{settings:?}"
            );
        }
    }
    let mut greedy = sampler(null()).unwrap();
    assert_eq!(sample(&mut greedy, &mut [0.0, 3.0, 1.0]), Ok(1));
}

#[test]
fn settings_out_of_range_make_no_sampler() {
    let good = Sampling {
        temperature: 1.0,
        ..Sampling::default()
    };
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let [temperature, top_p] = [
            Sampling {
                temperature: bad,
                ..good
            },
            Sampling { top_p: bad, ..good },
        ];
        assert_eq!(sampler(&temperature).err(), Some(Status::Setting));
        assert_eq!(sampler(&top_p).err(), Some(Status::Setting));
    }
    let above = Sampling { top_p: 1.5, ..good };
    assert_eq!(sampler(&above).err(), Some(Status::Setting));
    // SAFETY: as C must.
    let nowhere = unsafe { bitttt_sampler_init(null_mut(), &good) };
    assert_eq!(nowhere, Status::Null);
}

#[test]
fn what_is_no_sampler_and_no_logits_choose_nothing() {
    // SAFETY: zeros are a value.
    let mut none: Sampler = unsafe { std::mem::zeroed() };
    assert_eq!(sample(&mut none, &mut [1.0]), Err(Status::Sampler));
    let mut greedy = sampler(null()).unwrap();
    assert_eq!(sample(&mut greedy, &mut []), Err(Status::Empty));
    let mut token = 7;
    // SAFETY: null is refused.
    unsafe {
        assert_eq!(
            bitttt_sample(null_mut(), null_mut(), 1, &raw mut token),
            Status::Null
        );
        assert_eq!(
            bitttt_sample(&mut greedy, null_mut(), 1, &raw mut token),
            Status::Null
        );
    }
    assert_eq!(token, 7);
}
