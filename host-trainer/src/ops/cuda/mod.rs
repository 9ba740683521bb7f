//! The operations on a GPU: which kernels run in which order, over what memory.
//!
//! Everything here is written against [`Machine`], of which there are two: a card, and for the tests an emulator that
//! runs the same kernel sources and the same launches on the CPU. Only `device` needs the feature `cuda`.

pub mod adamw;
pub mod bit_linear;
pub mod conv;
#[cfg(feature = "cuda")]
pub mod device;
pub mod dropout;
pub mod embedding;
pub mod ffn;
pub mod head_loss;
mod launch;
pub mod loss;
pub mod norm;
mod product;
pub mod ttt;

#[cfg(test)]
mod emulator;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use candle_core::Result;

pub use launch::{Arg, Launch, Program};
pub use product::{ColumnMajor, Matrix, Product};

#[cfg(not(feature = "cuda"))]
use bytemuck::Pod as Plain;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::DeviceRepr as Plain;

/// A type of value that kernels work on; bfloat16 goes by its bits.
pub trait Element: bytemuck::Pod + Plain {
    /// Its name in the kernels' sources.
    const NAME: &'static str;
}

impl Element for f32 {
    const NAME: &'static str = "float";
}

impl Element for f64 {
    const NAME: &'static str = "double";
}

impl Element for u32 {
    const NAME: &'static str = "unsigned";
}

impl Element for u16 {
    const NAME: &'static str = "bf16";
}

/// Values in a machine's memory, borrowed.
#[derive(Debug)]
pub struct Span<'a, T> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a T>,
}

impl<T> Clone for Span<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Span<'_, T> {}

impl<T> Span<'_, T> {
    /// The `len` values at `address`, which are alive as long as the span is.
    fn new(address: u64, len: usize) -> Self {
        Self {
            address,
            len,
            memory: PhantomData,
        }
    }

    /// `len` values from value `start`.
    fn part(self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "part of a span");
        Self::new(self.address + (start * size_of::<T>()) as u64, len)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What runs kernels: memory, launches and products, one after the other in the order of the calls.
pub trait Machine {
    /// Memory of its own, freed when dropped.
    type Memory<T: Element>;

    /// Memory with nothing in it yet.
    ///
    /// # Errors
    /// When there is not enough.
    fn alloc<T: Element>(&self, len: usize) -> Result<Self::Memory<T>>;

    /// Memory with these values.
    ///
    /// # Errors
    /// As [`Machine::alloc`].
    fn upload<T: Element>(&self, values: &[T]) -> Result<Self::Memory<T>>;

    /// All of a memory. Kernels write through spans too: a memory that one writes must not be read on the host meanwhile.
    fn span<'a, T: Element>(&self, memory: &'a Self::Memory<T>) -> Span<'a, T>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// When it does not compile or start.
    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<()>;

    /// A product of bfloat16 matrices with f32 sums.
    ///
    /// # Errors
    /// When it does not start.
    fn multiply(&self, product: &ColumnMajor) -> Result<()>;

    /// Most bytes of shared memory that a block may have.
    fn max_shared(&self) -> usize;
}

/// Parts that a sum over rows is cut into. Fixed, so that sums do not depend on the card.
const PARTS: usize = 64;

/// Sums `rows` rows in parts and then the parts: `kernel` gets `first`, then `rows, rows a part, width` and its result.
fn sum_in_parts<M: Machine>(
    m: &M,
    kernel: &'static str,
    first: &[Arg],
    (rows, width): (usize, usize),
    tail: &[Arg],
) -> Result<M::Memory<f32>> {
    let step = rows.div_ceil(PARTS).max(1);
    let count = rows.div_ceil(step);
    let parts = m.alloc::<f32>(count * width)?;
    let mut args = first.to_vec();
    args.extend([Arg::from(rows), step.into()]);
    args.extend(tail);
    args.push(m.span(&parts).into());
    m.launch(
        &Launch::rows(kernel, [width.div_ceil(128), count], 128),
        &args,
    )?;
    let out = m.alloc(width)?;
    sum_rows(m, m.span(&parts), (count, width), m.span(&out))?;
    Ok(out)
}

/// Writes the sum of the rows of `parts [count, width]` to `out [width]`.
fn sum_rows<M: Machine>(
    m: &M,
    parts: Span<'_, f32>,
    (count, width): (usize, usize),
    out: Span<'_, f32>,
) -> Result<()> {
    m.launch(
        &Launch::rows("sum_rows", [width.div_ceil(128), 1], 128),
        &[parts.into(), count.into(), width.into(), out.into()],
    )
}
