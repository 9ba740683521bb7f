//! The pool: one mailbox a worker, and who owns what is in it.
//!
//! Invariant: a job is in a mailbox's hands (offered or taken) only while the [`Pool::run`] that put it there has not
//! returned, so the closure that it points to is alive. The mailbox's state says who may touch it:
//!
//! | state | owner of job and panic | next |
//! |---|---|---|
//! | `IDLE` | the caller that has the turn | the caller offers or stops |
//! | `OFFERED` | nobody | the worker takes it, or the caller takes it back; a compare-exchange decides |
//! | `TAKEN` | the worker | the worker finishes: `IDLE` |
//! | `STOP` | nobody | the worker ends |
//!
//! Because a caller that is done with its own share takes back what nobody has begun, a worker that sleeps or that has no
//! core to run on costs nothing but its help.

use bitttt_core::Parallel;
use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::hint::spin_loop;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

const IDLE: u32 = 0;
const OFFERED: u32 = 1;
const TAKEN: u32 = 2;
const STOP: u32 = 3;

/// How long a caller waits for workers before it lets others have its core.
const ALERT: Duration = Duration::from_micros(10);

/// How long a worker waits for work before it sleeps: about what waking it would cost. It does not yield meanwhile:
/// where another program wants the core too, that would lose a whole time slice for each pause between two jobs.
const PATIENCE: Duration = Duration::from_micros(50);

/// Looks at the mailbox between two looks at the clock.
const LOOKS: usize = 32;

type Panic = Box<dyn Any + Send>;

/// Threads that wait for parts of work. The thread that calls [`Parallel::run`] is one of them.
///
/// The same thread gets the same parts every time, so that what it read stays in its cache. When several threads use
/// one pool at the same time, or a part uses it again, one has the pool and the others do their work alone.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    busy: AtomicBool,
}

struct Shared {
    mailboxes: Vec<Mailbox>,
    sleepers: AtomicUsize,
}

/// What a worker is given. Two cache lines, because processors fetch lines in pairs.
#[repr(align(128))]
struct Mailbox {
    state: AtomicU32,
    job: UnsafeCell<Option<Job>>,
    panic: UnsafeCell<Option<Panic>>,
}

/// Parts to run, and the closure that runs them, its lifetime erased.
#[derive(Clone)]
struct Job {
    part: *const (dyn Fn(usize) + Sync),
    parts: Range<usize>,
}

// SAFETY: the cells are touched only by their owner as told by `state`, which passes them on by release and acquire;
// the closure behind `Job::part` is Sync, and a panic is Send.
unsafe impl Sync for Mailbox {}
// SAFETY: as above; a mailbox is moved only before its worker exists.
unsafe impl Send for Mailbox {}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Parallel::run`] included; zero counts as one.
    ///
    /// # Errors
    /// Where the system gives no more threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let mailboxes = (1..threads).map(|_| Mailbox::default()).collect();
        let mut pool = Self {
            shared: Arc::new(Shared {
                mailboxes,
                sleepers: AtomicUsize::new(0),
            }),
            workers: Vec::new(),
            busy: AtomicBool::new(false),
        };
        for own in 0..pool.shared.mailboxes.len() {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("bitttt-{}", own + 1));
            pool.workers.push(worker.spawn(move || shared.work(own))?);
        }
        Ok(pool)
    }

    /// The right to use the workers, if nobody has it.
    fn turn(&self) -> Option<Turn<'_>> {
        let taken = self.busy.swap(true, Ordering::Acquire);
        (!taken).then(|| Turn(&self.busy))
    }

    /// Wakes the workers that sleep on an offer.
    fn wake(&self, workers: &[JoinHandle<()>]) {
        // With the fence in `Mailbox::sleep`: either the sleeper sees its offer, or we see the sleeper.
        fence(Ordering::SeqCst);
        if self.shared.sleepers.load(Ordering::Relaxed) > 0 {
            workers
                .iter()
                .map(JoinHandle::thread)
                .for_each(Thread::unpark);
        }
    }
}

// SAFETY: shares are disjoint and cover 0..parts; each is run by its worker or, where the caller could take it back, by the
// caller, never by both; `run` returns, or unwinds, only when no worker has a share any more.
unsafe impl Parallel for Pool {
    fn width(&self) -> usize {
        self.workers.len() + 1
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let threads = self.width().min(parts);
        let Some(turn) = (threads > 1).then(|| self.turn()).flatten() else {
            return (0..parts).for_each(part);
        };
        let share = |thread: usize| thread * parts / threads..(thread + 1) * parts / threads;
        let mailboxes = self.shared.mailboxes.iter().take(threads - 1);
        for (mailbox, thread) in mailboxes.clone().zip(1..) {
            // SAFETY: this thread has the turn, and the loops below return the job before `part` ends.
            unsafe { mailbox.offer(part, share(thread)) };
        }
        self.wake(&self.workers[..threads - 1]);
        let mut panics = Vec::from_iter(catch(part, share(0)).err());
        for (mailbox, thread) in mailboxes.clone().zip(1..) {
            if mailbox.take_back() && panics.is_empty() {
                panics.extend(catch(part, share(thread)).err());
            }
        }
        for mailbox in mailboxes {
            panics.extend(mailbox.join());
        }
        drop(turn);
        panics.truncate(1); // dropping them may itself panic, which now does no harm
        if let Some(panic) = panics.pop() {
            resume_unwind(panic);
        }
    }
}

/// Gives the workers free when it goes.
struct Turn<'p>(&'p AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(IDLE),
            job: UnsafeCell::new(None),
            panic: UnsafeCell::new(None),
        }
    }
}

impl Mailbox {
    /// Caller: puts a job in.
    ///
    /// # Safety
    /// The caller has the turn and the mailbox is idle; `part` lives until `take_back` or `join` has returned the job.
    unsafe fn offer(&self, part: &(dyn Fn(usize) + Sync), parts: Range<usize>) {
        // SAFETY: only the lifetime changes; the caller promises that it is long enough.
        let part = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(part)
        };
        // SAFETY: an idle mailbox belongs to the caller.
        unsafe { *self.job.get() = Some(Job { part, parts }) };
        self.state.store(OFFERED, Ordering::Release);
    }

    /// Caller: whether the job was still there, in which case the worker will not have it.
    fn take_back(&self) -> bool {
        let was = self
            .state
            .compare_exchange(OFFERED, IDLE, Ordering::Relaxed, Ordering::Relaxed);
        was.is_ok()
    }

    /// Caller: waits until the worker is done, and returns its panic.
    fn join(&self) -> Option<Panic> {
        // The worker may be waiting for this very core.
        while !spin(ALERT, || self.state.load(Ordering::Acquire) == IDLE) {
            thread::yield_now();
        }
        // SAFETY: idle again, so the mailbox belongs to the caller.
        unsafe { (*self.panic.get()).take() }
    }

    /// Worker: runs the job if it is still there.
    fn serve(&self) {
        let taken =
            self.state
                .compare_exchange(OFFERED, TAKEN, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_err() {
            return;
        }
        // SAFETY: a taken mailbox belongs to the worker.
        if let Some(job) = unsafe { (*self.job.get()).take() } {
            // SAFETY: the caller waits in `join` as long as the mailbox is taken, so the closure lives.
            let part = unsafe { &*job.part };
            // SAFETY: as above.
            unsafe { *self.panic.get() = catch(part, job.parts).err() };
        }
        self.state.store(IDLE, Ordering::Release);
    }

    /// Worker: sleeps until there is something to do, or for no reason.
    fn sleep(&self, sleepers: &AtomicUsize) {
        sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst); // with the one in `Pool::wake`
        if self.state.load(Ordering::Relaxed) == IDLE {
            thread::park();
        }
        sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// The life of a worker.
    fn work(&self, own: usize) {
        let Some(mailbox) = self.mailboxes.get(own) else {
            return;
        };
        loop {
            match mailbox.state.load(Ordering::Relaxed) {
                STOP => return,
                OFFERED => mailbox.serve(),
                _ => {
                    let called = || mailbox.state.load(Ordering::Relaxed) != IDLE;
                    if !spin(PATIENCE, called) {
                        mailbox.sleep(&self.sleepers);
                    }
                }
            }
        }
    }
}

/// Spins until `done`, at most as long as `limit`; returns whether it came.
fn spin(limit: Duration, done: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..LOOKS {
            if done() {
                return true;
            }
            spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > limit {
            return false;
        }
    }
}

/// Runs parts up to the first that panics.
fn catch(part: &(dyn Fn(usize) + Sync), parts: Range<usize>) -> Result<(), Panic> {
    catch_unwind(AssertUnwindSafe(|| parts.for_each(part)))
}

impl Drop for Pool {
    fn drop(&mut self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.state.store(STOP, Ordering::Relaxed);
        }
        self.wake(&self.workers);
        for worker in self.workers.drain(..) {
            // A worker catches what its parts throw, so it ends well.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.width())
            .finish()
    }
}
