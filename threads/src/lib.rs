//! Threads for `bitttt-core`, which has none: a [`Pool`] lends them through the core's `Parallel` trait.
//!
//! A token of a small model is a few dozen pieces of work of some microseconds each, so what counts is the hand-off.
//! Workers spin for a short while before they sleep, and each has a cache line of its own through which it is given
//! work; `cargo run --release --package bitttt-threads --example handoff` measures what that costs.
//!
//! ```
//! use bitttt_core::Parallel;
//! use bitttt_threads::{Pool, physical_cores};
//! use std::sync::atomic::{AtomicUsize, Ordering};
//!
//! let pool = Pool::new(physical_cores())?;
//! let sum = AtomicUsize::new(0);
//! pool.run(10, &|i| {
//!     sum.fetch_add(i, Ordering::Relaxed);
//! });
//! assert_eq!(sum.into_inner(), 45);
//! # Ok::<(), std::io::Error>(())
//! ```

#![deny(unsafe_code)]

mod cores;
#[allow(unsafe_code)]
mod pool;
#[allow(unsafe_code)]
mod prefetch;

pub use cores::physical_cores;
pub use pool::Pool;
pub use prefetch::prefetch;
