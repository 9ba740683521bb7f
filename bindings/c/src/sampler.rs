//! Choosing the next token, thin over [`bitttt_core::Sampler`].

use crate::pointer::given;
use crate::status::{Status, status};
use bitttt_core::Sampler as CoreSampler;

/// How tokens are chosen. All zeros, or a null pointer instead, always takes the most probable one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Sampling {
    /// 0: greedy. 1: as the model says. Larger: more even.
    pub temperature: f32,
    /// Keeps the fewest most probable tokens whose probabilities sum to this, from 0 to 1; 0 and 1 keep all.
    pub top_p: f32,
    /// Keeps as many of the most probable tokens, and those that tie with the last of them; 0 keeps all.
    pub top_k: u32,
    /// Seed of the generator: the same seed gives the same tokens everywhere.
    pub seed: u64,
}

/// A seeded sampler, made by `bitttt_sampler_init`; wherever the caller has room for it. It may be copied.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Sampler {
    /// Not for use.
    opaque: [u64; 6],
}

impl Sampling {
    fn sampler(self) -> Result<CoreSampler, Status> {
        let known = self.temperature.is_finite() && self.top_p.is_finite();
        if !known || self.temperature < 0.0 || !(0.0..=1.0).contains(&self.top_p) {
            return Err(Status::Setting);
        }
        let top_p = if self.top_p == 0.0 { 1.0 } else { self.top_p };
        Ok(CoreSampler::new(self.temperature, self.seed)
            .top_k(self.top_k as usize)
            .top_p(top_p))
    }
}

/// Makes a sampler. `settings` may be null: greedy.
///
/// Errors: `BITTTT_STATUS_SETTING`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_sampler_init(
    sampler: *mut Sampler,
    settings: *const Sampling,
) -> Status {
    given!(sampler, settings);
    status(|| {
        let settings = settings.optional()?.copied().unwrap_or_default();
        sampler.start(settings.sampler()?)
    })
}

/// Chooses a token.
///
/// `logits`: `count` of them, as `bitttt_step` returns them; overwritten unless the sampler is greedy.
/// `token`: set to the choice; to 0 where no logit is a number.
///
/// Errors: `BITTTT_STATUS_SAMPLER`, `BITTTT_STATUS_EMPTY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_sample(
    sampler: *mut Sampler,
    logits: *mut f32,
    count: usize,
    token: *mut u32,
) -> Status {
    given!(sampler, logits, token);
    status(|| {
        let token = token.place()?;
        let sampler = sampler.sampler()?;
        let logits = logits.items(count, &[])?;
        if logits.is_empty() {
            return Err(Status::Empty);
        }
        token.write(sampler.sample(logits));
        Ok(())
    })
}
