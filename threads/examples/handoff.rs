//! What handing work to threads costs, and from which size it pays.
//!
//! ```sh
//! cargo run --release --package bitttt-threads --example handoff
//! ```

use bitttt_core::Parallel;
use bitttt_threads::{Pool, physical_cores};
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() {
    let widest = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let widest = widest.unwrap_or_else(physical_cores);
    println!("threads  work a thread  alone      pool       speed-up");
    for threads in (1..=widest).filter(|n| n.is_power_of_two() || *n == widest) {
        let pool = Pool::new(threads).expect("threads");
        for work in [0, 500, 1000, 2000, 5000, 20_000] {
            let rounds = rounds_of(Duration::from_nanos(work));
            let part = |_: usize| spend(rounds);
            let alone = median(|| (0..threads).for_each(part));
            let pooled = median(|| pool.run(threads, &part));
            println!(
                "{threads:>7}  {work:>10} ns  {alone:>6} ns  {pooled:>6} ns  {:>8.2}",
                alone as f64 / pooled as f64
            );
        }
    }
}

/// Nanoseconds of `job`, the median of many runs back to back.
fn median(mut job: impl FnMut()) -> u128 {
    let mut times: Vec<u128> = (0..20_001)
        .map(|_| {
            let start = Instant::now();
            job();
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A chain of multiplications, which neither memory nor the other threads can slow down.
fn spend(rounds: u64) {
    let mut x = 1u64;
    for _ in 0..rounds {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005));
    }
}

/// How many rounds last that long, by the fastest of some tries.
fn rounds_of(time: Duration) -> u64 {
    const MANY: u64 = 100_000;
    let tries = (0..200).map(|_| {
        let start = Instant::now();
        spend(MANY);
        start.elapsed()
    });
    let fastest = tries.min().unwrap_or_default().as_secs_f64();
    (time.as_secs_f64() / fastest * MANY as f64) as u64
}
