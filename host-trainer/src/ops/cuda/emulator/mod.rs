//! Kernels on the CPU: their sources, behind a header that stands in for CUDA, compiled by the C++ compiler of the
//! machine and run through the same launches as on a card.
//!
//! Checked at every launch: that the arguments have the types of the kernel's parameters, that nothing is written behind
//! a memory or the shared memory, that all threads meet at every barrier, and that the order in which the threads of a
//! block run between two barriers does not matter (each launch is run in several orders, and must leave the same bits).
#![allow(unsafe_code)]

mod compile;
mod memory;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, OnceLock};

use candle_core::{Result, bail};

use super::{Arg, ColumnMajor, Element, Launch, Machine, Program, Span};
use compile::Library;
use memory::Memory;

/// What a block of an H100 or H200 may have.
const MAX_SHARED: usize = 227 * 1024;

/// Orders of threads: ascending, descending, shuffled.
const ORDERS: [u32; 3] = [0, 1, 7];

type Kernel = unsafe extern "C" fn(*const u32, *mut *mut c_void) -> *const c_char;

/// The machine.
pub struct Emulator {
    memories: memory::Registry,
}

/// The emulator's C++ side has one state for the process.
static RUNNING: Mutex<()> = Mutex::new(());

impl Emulator {
    /// An emulator, or `None` and a line that says why where there is no C++ compiler.
    pub fn new() -> Option<Self> {
        match compile::compiler() {
            Ok(_) => Some(Self {
                memories: memory::Registry::default(),
            }),
            Err(why) => {
                eprintln!("skipped: kernels are not checked, since {why}");
                None
            }
        }
    }

    /// The values of a memory.
    pub fn read<T: Element>(&self, memory: &Memory<T>) -> Vec<T> {
        memory.values()
    }
}

fn library(program: Program) -> &'static Library {
    static LIBRARIES: OnceLock<Mutex<HashMap<Program, &'static Library>>> = OnceLock::new();
    let mut libraries = LIBRARIES.get_or_init(Mutex::default).lock().unwrap();
    libraries
        .entry(program)
        .or_insert_with(|| Box::leak(Box::new(Library::build(&program.source()))))
}

impl Machine for Emulator {
    type Memory<T: Element> = Memory<T>;

    fn alloc<T: Element>(&self, len: usize) -> Result<Memory<T>> {
        Ok(self.memories.alloc(len))
    }

    fn upload<T: Element>(&self, values: &[T]) -> Result<Memory<T>> {
        let memory = self.memories.alloc(values.len());
        memory.fill(values);
        Ok(memory)
    }

    fn span<'a, T: Element>(&self, memory: &'a Memory<T>) -> Span<'a, T> {
        Span::new(memory.address(), memory.len())
    }

    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<()> {
        let library = library(launch.program);
        library.check_arguments(launch.kernel, args);
        if launch.shared > MAX_SHARED || launch.grid[1] > 65_535 {
            bail!("{launch:?} is more than a card has");
        }
        let kernel = library.kernel(launch.kernel);
        let _running = RUNNING.lock().unwrap();
        let before = self.memories.contents();
        let mut results = Vec::new();
        for order in ORDERS {
            self.memories.restore(&before);
            run(kernel, launch, order, args)?;
            self.memories.check_guards(launch.kernel);
            results.push(self.memories.contents());
        }
        if results.iter().any(|result| *result != results[0]) {
            bail!(
                "{}: a barrier is missing, results depend on the order of threads",
                launch.kernel
            );
        }
        Ok(())
    }

    fn multiply(&self, p: &ColumnMajor) -> Result<()> {
        // SAFETY: `Product` made the addresses of live memories of the sizes that `dims` says; only `c` is written.
        unsafe { memory::multiply(p) };
        Ok(())
    }

    fn max_shared(&self) -> usize {
        MAX_SHARED
    }
}

fn run(kernel: Kernel, launch: &Launch, order: u32, args: &[Arg]) -> Result<()> {
    let numbers = [
        launch.grid[0] as u32,
        launch.grid[1] as u32,
        launch.block as u32,
        launch.shared as u32,
        order,
    ];
    // Eight bytes for each: an `int` or a `float` is read from the first four.
    let mut values: Vec<u64> = args
        .iter()
        .map(|arg| match *arg {
            Arg::Address(address, _) => address,
            Arg::Int(value) => u64::from(value as u32),
            Arg::Len(value) => value,
            Arg::Float(value) => u64::from(value.to_bits()),
        })
        .collect();
    let mut pointers: Vec<*mut c_void> = values
        .iter_mut()
        .map(|value| std::ptr::from_mut(value).cast())
        .collect();
    // SAFETY: the arguments have the types of the kernel's parameters (`check_arguments`), and their addresses are of
    // memories that the caller's spans keep alive.
    let fault = unsafe { kernel(numbers.as_ptr(), pointers.as_mut_ptr()) };
    if !fault.is_null() {
        // SAFETY: a fault is a string literal of the library, which is never unloaded.
        let fault = unsafe { CStr::from_ptr(fault) }.to_string_lossy();
        bail!("{}: {fault}", launch.kernel);
    }
    Ok(())
}
