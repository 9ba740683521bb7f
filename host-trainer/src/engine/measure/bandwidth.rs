//! How fast this machine reads: a plain sum over the bytes, each thread over its own share.

use crate::ops::simd;
use bitttt_core::Parallel;
use bitttt_threads::{Pool, prefetch};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Words that are added at the same time: eight registers of the widest kind.
const LANES: usize = 64;
/// Bytes of a cache line.
const LINE: usize = 64;
/// How far ahead memory is asked for, where that is faster: out of the second cache and beyond it is, by up to a half.
const AHEAD: usize = 4096;

/// A way to read some bytes for long enough to be timed.
#[derive(Debug)]
pub struct Reader<'a> {
    pool: &'a Pool,
    bytes: &'a [u8],
    passes: usize,
    ahead: bool,
}

impl<'a> Reader<'a> {
    /// The faster way of reading these bytes, as often as lasts at least `time`.
    pub fn new(pool: &'a Pool, bytes: &'a [u8], time: Duration) -> Self {
        let [plain, ahead] = [false, true].map(|ahead| Self {
            pool,
            bytes,
            passes: 1,
            ahead,
        });
        plain.time(); // brings in what is not in memory yet
        let long_enough = |mut reader: Self| {
            reader.passes = 1 + (time.as_secs_f64() / reader.time().as_secs_f64()) as usize;
            reader
        };
        let [plain, ahead] = [plain, ahead].map(long_enough);
        if ahead.speed() > plain.speed() {
            ahead
        } else {
            plain
        }
    }

    /// Reads, 10^9 bytes a second.
    pub fn speed(&self) -> f64 {
        (self.bytes.len() * self.passes) as f64 / 1e9 / self.time().as_secs_f64()
    }

    fn time(&self) -> Duration {
        let start = Instant::now();
        let (threads, bytes) = (self.pool.width(), self.bytes);
        self.pool.run(threads, &|i| {
            let share = &bytes[i * bytes.len() / threads..(i + 1) * bytes.len() / threads];
            for _ in 0..self.passes {
                black_box(sum(black_box(share), self.ahead));
            }
        });
        start.elapsed()
    }
}

/// Sum of the little-endian words of `bytes`, what is left over at the end aside.
fn sum(bytes: &[u8], ahead: bool) -> u64 {
    if ahead {
        simd(
            #[inline(always)]
            || sum_blocks::<true>(bytes),
        )
    } else {
        simd(
            #[inline(always)]
            || sum_blocks::<false>(bytes),
        )
    }
}

#[inline(always)]
fn sum_blocks<const AHEAD_TOO: bool>(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    let mut sums = [0u64; LANES];
    for (i, block) in words.chunks_exact(LANES).enumerate() {
        if AHEAD_TOO {
            let at = i * LANES * 8 + AHEAD;
            (0..LANES * 8)
                .step_by(LINE)
                .for_each(|line| prefetch(bytes, at + line));
        }
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0u64, |all, &sum| all.wrapping_add(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_whole_block_is_summed() {
        let bytes: Vec<u8> = (0..8 * LANES * 30 + 7).map(|i| (i * 31) as u8).collect();
        let words = bytes.as_chunks::<8>().0.iter();
        let expected = words
            .map(|w| u64::from_le_bytes(*w))
            .fold(0u64, u64::wrapping_add);
        assert_eq!([sum(&bytes, false), sum(&bytes, true)], [expected; 2]);
    }

    #[test]
    fn a_read_has_a_speed_on_any_number_of_threads() {
        let bytes = vec![1; 100_000];
        for threads in 1..4 {
            let pool = Pool::new(threads).unwrap();
            let reader = Reader::new(&pool, &bytes, Duration::from_micros(200));
            assert!(reader.passes >= 1 && reader.speed() > 0.0);
        }
    }
}
