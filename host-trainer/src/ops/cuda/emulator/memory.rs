//! Memories that start as NaNs and have a guard behind them.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::{Rc, Weak};

use super::super::{ColumnMajor, Element};

/// Words of the guard. As floats they are NaNs, so that what is read from there shows in the results.
const GUARD: usize = 32;
const FILL: u64 = 0x7fc0_dead_7fc0_dead;

/// Words that kernels write to, hence cells.
struct Words {
    cells: Box<[Cell<u64>]>,
    /// Bytes before the guard.
    bytes: usize,
}

impl Words {
    fn get(&self) -> Vec<u64> {
        self.cells.iter().map(Cell::get).collect()
    }

    fn set(&self, words: &[u64]) {
        self.cells
            .iter()
            .zip(words)
            .for_each(|(cell, word)| cell.set(*word));
    }
}

/// Values in the emulator's memory.
pub struct Memory<T> {
    words: Rc<Words>,
    kind: PhantomData<T>,
}

impl<T: Element> Memory<T> {
    pub fn len(&self) -> usize {
        self.words.bytes / size_of::<T>()
    }

    pub fn address(&self) -> u64 {
        self.words.cells.as_ptr() as u64
    }

    pub fn values(&self) -> Vec<T> {
        bytemuck::cast_slice(&self.words.get())[..self.len()].to_vec()
    }

    pub fn fill(&self, values: &[T]) {
        let mut words = self.words.get();
        bytemuck::cast_slice_mut(&mut words)[..self.len()].copy_from_slice(values);
        self.words.set(&words);
    }
}

/// All memories that are alive.
#[derive(Default)]
pub struct Registry(RefCell<Vec<Weak<Words>>>);

impl Registry {
    pub fn alloc<T: Element>(&self, len: usize) -> Memory<T> {
        let bytes = len * size_of::<T>();
        let cells = vec![Cell::new(FILL); bytes.div_ceil(8) + GUARD];
        let words = Rc::new(Words {
            cells: cells.into_boxed_slice(),
            bytes,
        });
        self.0.borrow_mut().push(Rc::downgrade(&words));
        Memory {
            words,
            kind: PhantomData,
        }
    }

    fn alive(&self) -> Vec<Rc<Words>> {
        self.0.borrow_mut().retain(|m| m.strong_count() > 0);
        self.0.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    pub fn contents(&self) -> Vec<Vec<u64>> {
        self.alive().iter().map(|m| m.get()).collect()
    }

    pub fn restore(&self, contents: &[Vec<u64>]) {
        let memories = self.alive();
        memories
            .iter()
            .zip(contents)
            .for_each(|(memory, words)| memory.set(words));
    }

    /// Nothing was written behind a memory.
    pub fn check_guards(&self, kernel: &str) {
        let fill = FILL.to_le_bytes();
        for memory in self.alive() {
            let words = memory.get();
            let behind = bytemuck::cast_slice::<u64, u8>(&words).iter().enumerate();
            let whole = behind
                .skip(memory.bytes)
                .all(|(i, byte)| *byte == fill[i % 8]);
            assert!(
                whole,
                "{kernel} writes behind a memory of {} bytes",
                memory.bytes
            );
        }
    }
}

/// BLAS's product, as its documentation has it.
///
/// # Safety
/// The addresses are those of live memories that hold the matrices that `dims` and the column distances say.
pub unsafe fn multiply(p: &ColumnMajor) {
    let (m, n, k) = p.dims;
    let value = |(transposed, address, stride): (bool, u64, usize), row: usize, col: usize| {
        let at = if transposed {
            col + row * stride
        } else {
            row + col * stride
        };
        // SAFETY: within the matrix, by the contract above.
        let bits = unsafe { *(address as *const u16).add(at) };
        f32::from_bits(u32::from(bits) << 16)
    };
    for col in 0..n {
        for row in 0..m {
            let sum: f32 = (0..k)
                .map(|i| value(p.a, row, i) * value(p.b, i, col))
                .sum();
            // SAFETY: as above.
            let to = unsafe { &mut *(p.c.0 as *mut f32).add(row + col * p.c.1) };
            *to = if p.add { *to + sum } else { sum };
        }
    }
}
