//! Exceptions: one line each, the core's own wherever it has one.

use bitttt_core::SessionError;
use pyo3::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, TryLockError};

pyo3::import_exception!(bitttt._errors, BitttError);
pyo3::import_exception!(bitttt._errors, FileError);
pyo3::import_exception!(bitttt._errors, InputError);

/// An argument that makes no sense.
pub fn input(why: impl std::fmt::Display) -> PyErr {
    InputError::new_err(why.to_string())
}

/// Refusals of the host's functions, in one line.
pub trait Refusal<T> {
    /// As an argument that makes no sense.
    fn or_input(self) -> PyResult<T>;
    /// As a file that is not what it should be.
    fn or_file(self) -> PyResult<T>;
}

impl<T> Refusal<T> for anyhow::Result<T> {
    fn or_input(self) -> PyResult<T> {
        self.map_err(|error| input(one_line(&error)))
    }

    fn or_file(self) -> PyResult<T> {
        self.map_err(|error| FileError::new_err(one_line(&error)))
    }
}

/// An error with its causes.
pub fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

/// The core's sentence, with Python's names in it.
pub fn session(error: SessionError) -> PyErr {
    match error {
        SessionError::Context {
            capacity,
            position,
            tokens,
        } => input(format_args!(
            "the context has room for {capacity} tokens, {position} are read and {tokens} more were given: make the session \
             with a larger context, or reset it"
        )),
        other => input(other),
    }
}

/// Runs work without the interpreter's lock. A panic is a bug of ours; it ends as an exception like any other.
pub fn compute<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(work)))
        .map_err(|panic| {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
            let message = message.unwrap_or("no message").replace('\n', " ");
            BitttError::new_err(format!("internal error, please report it: {message}"))
        })
}

/// The only user of what is behind a lock. It does not wait: whoever has it may take long, and may wait for the
/// interpreter.
pub fn only_user<'a, T>(lock: &'a Mutex<T>, what: &str) -> PyResult<MutexGuard<'a, T>> {
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => input(format_args!(
            "this {what} is in use by another thread: give each thread its own, or take turns by a threading.Lock"
        )),
        TryLockError::Poisoned(_) => input(format_args!("this {what} has failed: make a new one")),
    })
}
