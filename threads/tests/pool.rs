//! The pool keeps `Parallel`'s promise: each part once, all of them done at the end, whatever else goes on.

use bitttt_core::Parallel;
use bitttt_threads::{Pool, physical_cores};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How often each part ran.
fn counted(pool: &Pool, parts: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
    pool.run(parts, &|i| {
        counts[i].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_part_runs_once_for_every_size_and_width() {
    for threads in 0..6 {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.width(), threads.max(1));
        for parts in (0..20).chain([64, 1000]) {
            assert_eq!(counted(&pool, parts), vec![1; parts], "{threads} {parts}");
        }
    }
}

#[test]
fn many_small_jobs_and_pauses_that_let_workers_sleep() {
    let pool = Pool::new(4).unwrap();
    let total = AtomicUsize::new(0);
    let jobs = if cfg!(miri) { 30 } else { 30_000 };
    for job in 0..jobs {
        let parts = 1 + job % 7;
        let before = total.load(Ordering::Relaxed);
        pool.run(parts, &|i| {
            total.fetch_add(i + 1, Ordering::Relaxed);
        });
        let done = total.load(Ordering::Relaxed) - before;
        assert_eq!(
            done,
            parts * (parts + 1) / 2,
            "a part is missing at the end of its run"
        );
        if job % (jobs / 10) == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn parts_write_to_what_the_caller_lent_them() {
    let pool = Pool::new(3).unwrap();
    for round in 0..100 {
        let pieces: Vec<std::sync::Mutex<Vec<usize>>> =
            (0..9).map(|_| Default::default()).collect();
        pool.run(pieces.len(), &|i| pieces[i].lock().unwrap().push(i + round));
        for (i, piece) in pieces.into_iter().enumerate() {
            assert_eq!(piece.into_inner().unwrap(), [i + round]);
        }
    }
}

#[test]
fn a_part_that_panics_reaches_the_caller_and_the_pool_goes_on() {
    let pool = Pool::new(3).unwrap();
    for bad in 0..6 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(6, &|i| assert!(i != bad, "part {i} is bad"))
        }));
        let panic = outcome.unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains(&format!("part {bad} is bad")), "{text}");
        assert_eq!(counted(&pool, 6), [1; 6]);
    }
}

#[test]
fn when_all_parts_panic_the_caller_gets_one() {
    let pool = Pool::new(4).unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|_| panic!("all bad"))));
    assert_eq!(
        outcome.unwrap_err().downcast_ref::<&str>(),
        Some(&"all bad")
    );
    assert_eq!(counted(&pool, 8), [1; 8]);
}

#[test]
fn no_part_is_running_when_a_panic_arrives() {
    let pool = Pool::new(4).unwrap();
    let running = AtomicUsize::new(0);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        pool.run(4, &|i| {
            running.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(5));
            running.fetch_sub(1, Ordering::SeqCst);
            assert!(i > 0, "the caller's own part");
        })
    }));
    assert!(outcome.is_err());
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

#[test]
fn callers_at_the_same_time_all_get_their_parts() {
    let pool = Pool::new(3).unwrap();
    let rounds = if cfg!(miri) { 5 } else { 2000 };
    thread::scope(|scope| {
        for caller in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..rounds {
                    let parts = (caller + round) % 9;
                    assert_eq!(counted(pool, parts), vec![1; parts]);
                }
            });
        }
    });
}

#[test]
fn a_part_may_use_the_pool_itself() {
    let pool = Pool::new(3).unwrap();
    let total = AtomicUsize::new(0);
    pool.run(5, &|_| {
        pool.run(7, &|i| {
            total.fetch_add(i, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 5 * 21);
}

#[test]
fn parts_run_at_the_same_time() {
    // Each part waits for the other: alone, one after the other, this would not end.
    let pool = Pool::new(2).unwrap();
    let arrived = AtomicUsize::new(0);
    let met = AtomicUsize::new(0);
    while met.load(Ordering::SeqCst) < 2 {
        arrived.store(0, Ordering::SeqCst);
        met.store(0, Ordering::SeqCst);
        pool.run(2, &|_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            // A worker that wakes late finds its part taken back; then the round is tried again.
            for _ in 0..1_000_000 {
                if arrived.load(Ordering::SeqCst) == 2 {
                    met.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                thread::yield_now();
            }
        });
    }
}

#[test]
fn more_threads_than_cores_still_get_done() {
    let pool = Pool::new(4 * physical_cores() + 3).unwrap();
    for _ in 0..if cfg!(miri) { 3 } else { 500 } {
        assert_eq!(counted(&pool, 100), vec![1; 100]);
    }
}

#[test]
fn a_pool_says_how_wide_it_is() {
    assert_eq!(
        format!("{:?}", Pool::new(2).unwrap()),
        "Pool { threads: 2 }"
    );
    assert!(physical_cores() >= 1);
}
