//! Threads that sessions share: one pool for each number of threads, kept to the end of the process.
//!
//! Where several sessions compute at once, one has the pool's threads and the others do their work alone, so that many
//! Python threads with a session each do not get into each other's way. A pool that is never taken down also survives in a
//! forked process, which has none of its threads: it finds that nobody takes its work, and does it.

use bitttt_threads::Pool;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

static POOLS: Mutex<BTreeMap<usize, Arc<Pool>>> = Mutex::new(BTreeMap::new());

/// The pool of so many threads, the caller's included.
///
/// # Errors
/// Where the system gives no more threads.
pub fn of(threads: usize) -> io::Result<Arc<Pool>> {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pools.get(&threads) {
        return Ok(Arc::clone(pool));
    }
    let pool = Arc::new(Pool::new(threads)?);
    pools.insert(threads, Arc::clone(&pool));
    Ok(pool)
}
