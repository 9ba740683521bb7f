//! Choosing the next token: greedy, or by temperature, top-k and top-p with a seeded generator.
//!
//! Needs no memory beyond the logits, which it turns into probabilities in place: thresholds are found by
//! bisection over the bits of the probabilities instead of sorting. The same seed gives the same tokens everywhere.
//!
//! Without the feature `sampling` there is [`Sampler::greedy`] alone.

#[cfg(feature = "sampling")]
use crate::kernel::Backend;
#[cfg(feature = "sampling")]
use rand_pcg::Pcg32;
#[cfg(feature = "sampling")]
use rand_pcg::rand_core::Rng;

/// A seeded sampler. Start from [`Sampler::greedy`] or `Sampler::new` and narrow it.
#[derive(Clone, Debug)]
pub struct Sampler {
    #[cfg(feature = "sampling")]
    temperature: f32,
    #[cfg(feature = "sampling")]
    top_k: usize,
    #[cfg(feature = "sampling")]
    top_p: f32,
    #[cfg(feature = "sampling")]
    random: Pcg32,
}

#[cfg(not(feature = "sampling"))]
impl Sampler {
    /// Always the most probable token; among equals the lowest.
    pub fn greedy() -> Self {
        Self {}
    }

    /// Chooses a token by its logits `[V]`. NaN counts as impossible; where nothing is possible the answer is token 0.
    pub fn sample(&mut self, logits: &mut [f32]) -> u32 {
        argmax(logits)
    }
}

#[cfg(feature = "sampling")]
impl Sampler {
    /// Always the most probable token; among equals the lowest.
    pub fn greedy() -> Self {
        Self::new(0.0, 0)
    }

    /// Samples at `temperature` (0 or less: greedy) with the generator PCG32 (O'Neill 2014) seeded by `seed`.
    pub fn new(temperature: f32, seed: u64) -> Self {
        Self {
            temperature,
            top_k: 0,
            top_p: 1.0,
            random: Pcg32::new(seed, 0xB177_7700),
        }
    }

    /// Keeps the `k` most probable tokens, and those that tie with the last of them; 0 keeps all.
    pub fn top_k(self, k: usize) -> Self {
        Self { top_k: k, ..self }
    }

    /// Keeps the fewest most probable tokens whose probabilities sum to `p` (Holtzman et al. 2020); 1 keeps all.
    pub fn top_p(self, p: f32) -> Self {
        Self { top_p: p, ..self }
    }

    /// Chooses a token by its logits `[V]`, which are overwritten. NaN counts as impossible; where nothing is
    /// possible the answer is token 0.
    pub fn sample(&mut self, logits: &mut [f32]) -> u32 {
        let best = argmax(logits);
        let max = logits.get(best as usize).copied().unwrap_or(0.0);
        let warm = self.temperature > 0.0; // NaN is not
        if !warm || !max.is_finite() {
            return best;
        }
        Backend::detect().softmax_terms(logits, max, self.temperature);
        let mut floor = self.top_k_floor(logits);
        if self.top_p < 1.0 {
            floor = self.top_p_floor(logits, floor);
        }
        self.draw(logits, floor)
    }

    /// Largest bits `t` such that at least `k` probabilities reach `t`.
    fn top_k_floor(&self, p: &[f32]) -> u32 {
        if self.top_k == 0 || self.top_k >= p.len() {
            return 0;
        }
        bisect(0, |floor| kept(p, floor).count() >= self.top_k)
    }

    /// Largest bits `t >= floor` such that the probabilities that reach `t` carry the share `top_p`.
    fn top_p_floor(&self, p: &[f32], floor: u32) -> u32 {
        let wanted = kept(p, floor).sum::<f32>() * self.top_p;
        bisect(floor, |t| kept(p, t).sum::<f32>() >= wanted)
    }

    fn draw(&mut self, p: &[f32], floor: u32) -> u32 {
        let total: f32 = kept(p, floor).sum();
        let uniform = (self.random.next_u32() >> 8) as f32 / 16_777_216.0; // 24 bits: exact, below 1
        let target = uniform * total;
        let mut cumulated = 0.0;
        let mut last = 0;
        for (token, &p) in p.iter().enumerate().filter(|(_, p)| p.to_bits() >= floor) {
            cumulated += p;
            last = token as u32;
            if cumulated > target {
                break;
            }
        }
        last
    }
}

/// Probabilities that reach `floor`; for numbers that are not negative the order of the bits is the order.
#[cfg(feature = "sampling")]
fn kept(p: &[f32], floor: u32) -> impl Iterator<Item = f32> + '_ {
    p.iter().copied().filter(move |p| p.to_bits() >= floor)
}

/// Largest `t` in `[low, bits of 1]` for which `enough` holds; it holds at `low` and is monotone.
#[cfg(feature = "sampling")]
fn bisect(low: u32, enough: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (low, 1.0f32.to_bits());
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if enough(middle) {
            low = middle
        } else {
            high = middle - 1
        }
    }
    low
}

/// The largest logit's token, the lowest among equals; NaN never wins.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token as u32, logit);
        }
    }
    best.0
}

#[cfg(all(test, feature = "sampling"))]
mod tests;
