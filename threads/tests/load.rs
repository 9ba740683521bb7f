//! A server's day in short: 256 sessions on one model, dealt to threads that serve them in turn. Memory is what it was after
//! the first round, and every session has the bits of one that ran alone.
//!
//! `BITTTT_LOAD_SECONDS=600 cargo test --release -p bitttt-threads --test load -- --nocapture` is the day in long.

use bitttt_core::{Batch, Model, Session};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SESSIONS: usize = 256;
const THREADS: usize = 2;

#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

static DEMO: &Aligned<[u8]> = &Aligned(*include_bytes!("../../demo/demo.bttt"));

/// How long sessions are served.
fn time() -> Duration {
    let seconds = std::env::var("BITTTT_LOAD_SECONDS").ok();
    let seconds = seconds.map(|s| s.parse().expect("BITTTT_LOAD_SECONDS is a number"));
    Duration::from_secs_f64(seconds.unwrap_or(0.5))
}

/// What a client wants at a visit; the same for the same session and visit.
struct Visit {
    /// A new document begins.
    resets: bool,
    /// The session is put away and taken up again first, as when its memory is wanted for another one.
    parked: bool,
    tokens: Vec<u32>,
}

impl Visit {
    fn of(session: usize, visit: usize, vocab: u32) -> Self {
        let mut seed = (session as u64) << 32 | visit as u64;
        let mut next = move || {
            // splitmix64 (Steele et al. 2014)
            seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (seed ^ seed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            (z ^ z >> 31) as u32
        };
        Self {
            resets: next() % 32 == 0,
            parked: next() % 16 == 0,
            tokens: (0..1 + next() % 24).map(|_| next() % vocab).collect(),
        }
    }
}

/// What is left of a session: a digest of all logits that it showed, its state's hash and its updates dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trace {
    shown: u64,
    state: u32,
    dropped: u32,
}

fn digest(before: u64, logits: &[f32]) -> u64 {
    let mix = |hash: u64, x: &f32| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01B3);
    logits.iter().fold(before, mix)
}

/// Serves sessions `first, first + THREADS, …` round by round until `time` is over. Returns visits and trace of each.
fn serve(model: Model<'_>, first: usize, time: Duration, rounds: &Rounds) -> Vec<(usize, Trace)> {
    let (batch, vocab) = (Batch::new(8), model.config().vocab_size);
    let plan = model.memory(batch);
    let own: Vec<usize> = (first..SESSIONS).step_by(THREADS).collect();
    let mut memories = vec![vec![0.0; plan.words()]; own.len()];
    let sessions = memories
        .iter_mut()
        .map(|m| Session::new(model, batch, m).unwrap());
    let mut sessions: Vec<_> = sessions.collect();
    let mut shelf = vec![0; plan.snapshot_bytes()];
    let mut traces = vec![Trace::default(); own.len()];
    let (start, mut visits) = (Instant::now(), 0);
    while visits < 2 || start.elapsed() < time {
        for ((session, trace), &who) in sessions.iter_mut().zip(&mut traces).zip(&own) {
            let visit = Visit::of(who, visits, vocab);
            if visit.resets {
                session.reset();
            }
            if visit.parked {
                session.snapshot(&mut shelf).unwrap();
                session.step(visit.tokens[0]).unwrap();
                session.restore(&shelf).unwrap();
            }
            let (prompt, rest) = visit.tokens.split_at(visit.tokens.len() / 2);
            if !prompt.is_empty() {
                session.prefill(prompt).unwrap();
            }
            for &token in rest {
                let logits = session.step(token).unwrap();
                trace.shown = digest(trace.shown, logits);
            }
            rounds
                .tokens
                .fetch_add(visit.tokens.len(), Ordering::Relaxed);
        }
        visits += 1;
        rounds.ended(visits);
    }
    let ends = traces.iter().zip(&sessions).map(|(trace, session)| Trace {
        state: session.state_hash(),
        dropped: session.dropped_updates(),
        ..*trace
    });
    ends.map(|trace| (visits, trace)).collect()
}

/// The same visits to one session, alone and by larger pieces.
fn alone(model: Model<'_>, who: usize, visits: usize) -> Trace {
    let batch = Batch::new(24);
    let mut memory = vec![0.0; model.memory(batch).words()];
    let mut session = Session::new(model, batch, &mut memory).unwrap();
    let mut shown = 0;
    for visit in (0..visits).map(|visit| Visit::of(who, visit, model.config().vocab_size)) {
        if visit.resets {
            session.reset();
        }
        let prompt = visit.tokens.len() / 2;
        let each = &mut |i: usize, logits: &mut [f32]| {
            if i >= prompt {
                shown = digest(shown, logits);
            }
        };
        session.prefill_with(&visit.tokens, each).unwrap();
    }
    Trace {
        shown,
        state: session.state_hash(),
        dropped: session.dropped_updates(),
    }
}

/// What the process had of the machine's memory after the first round, and most of it since.
struct Rounds {
    tokens: AtomicUsize,
    first: Barrier,
    start: AtomicUsize,
    most: AtomicUsize,
}

impl Rounds {
    fn ended(&self, visits: usize) {
        if visits == 1 {
            self.first.wait();
            self.start.fetch_max(resident(), Ordering::Relaxed);
        }
        self.most.fetch_max(resident(), Ordering::Relaxed);
    }
}

/// Kilobytes in memory; 0 where the system does not tell.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or(0, |line| {
        line.trim().trim_end_matches(" kB").parse().unwrap()
    })
}

#[test]
#[cfg_attr(miri, ignore = "hours of it")]
fn many_sessions_on_one_model_take_constant_memory_and_have_the_bits_of_each_alone() {
    let model = Model::from_bytes(&DEMO.0).unwrap();
    let rounds = Rounds {
        tokens: AtomicUsize::new(0),
        first: Barrier::new(THREADS),
        start: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    };
    let (time, rounds) = (time(), &rounds);
    let served: Vec<_> = thread::scope(|scope| {
        let serve = |first| scope.spawn(move || serve(model, first, time, rounds));
        let threads: Vec<_> = (0..THREADS).map(serve).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let tokens = rounds.tokens.load(Ordering::Relaxed);
    let [start, most] = [&rounds.start, &rounds.most].map(|kb| kb.load(Ordering::Relaxed));
    println!(
        "{SESSIONS} sessions for {} s: {tokens} tokens, visits {:?}; memory after the first round {start} kB, at most {most} kB",
        time.as_secs_f64(),
        served.iter().map(|own| own[0].0).collect::<Vec<_>>(),
    );
    assert!(most <= start + 256, "memory grew from {start} to {most} kB");

    let equal = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (first, own) in served.iter().enumerate() {
            let equal = &equal;
            scope.spawn(move || {
                for (i, &(visits, trace)) in own.iter().enumerate() {
                    let who = first + i * THREADS;
                    assert_eq!(alone(model, who, visits), trace, "session {who}");
                    equal.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    println!(
        "{} sessions equal to those that ran alone",
        equal.into_inner()
    );
}
