//! Seeded random numbers: the same on every machine and in every version.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng as _;

/// PCG with 128 bits of state; `(seed, stream)` fixes the whole sequence.
pub struct Rng(Pcg64Mcg);

impl Rng {
    /// A generator of its own for every `(seed, stream)`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Pcg64Mcg::new(u128::from(mix(seed)) << 64 | u128::from(mix(stream ^ !seed)));
        rng.next_u64();
        Self(rng)
    }

    /// Uniform in `0..n`, `n > 0` (multiply-shift: the bias is below `n / 2^64`).
    pub fn below(&mut self, n: u64) -> u64 {
        below(self.0.next_u64(), n)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }

    /// One of `items`, which are not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// A random word for each sequence of numbers: what need not be drawn in order needs no generator.
pub fn hash(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0, |hash, n| mix(hash ^ n))
}

/// Spreads a random word evenly over `0..n`, `n > 0`.
pub fn below(word: u64, n: u64) -> u64 {
    ((u128::from(word) * u128::from(n)) >> 64) as u64
}

/// SplitMix64's finaliser: neighbouring seeds give unrelated states.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
