//! Candle operations with hand-written gradients, fused where a graph of small ones cost more in
//! memory traffic than in arithmetic.
//!
//! Every operation computes forward what `bitttt-core` computes, rounding step by rounding step;
//! gradients go straight through every rounding (STE).

pub mod attention;
pub mod bit_linear;
pub mod conv;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
pub mod dropout;
pub mod embedding;
pub mod ffn;
pub mod head_loss;
pub mod inner_loss;
pub mod lite;
pub mod loss;
pub mod math;
pub mod norm;
pub mod quant;
pub mod ttt;

mod gemm;

pub use quant::{int_rows, ternary};

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};

/// Rows handled by one task. Fixed, so that sums over rows do not depend on the number of threads.
const ROWS_PER_TASK: usize = 128;

/// The contiguous f32 values of an operand.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!(
            "operand must be contiguous, has strides {:?}",
            layout.stride()
        ),
    }
}

/// Calls `f` with the values of contiguous f32 tensors on the CPU, without a copy.
pub(crate) fn with_values<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *slice = match &**storage {
            Storage::Cpu(cpu) => values(cpu, layout)?,
            _ => bail!("operand must be on the CPU"),
        };
    }
    f(slices)
}

/// A CPU result of the given shape.
fn result(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// A tensor on the CPU from its values.
fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
}

/// Number of rows and width of the last dimension.
fn rows_of(shape: &Shape) -> (usize, usize) {
    let width = shape.dims().last().copied().unwrap_or(1);
    (shape.elem_count() / width.max(1), width)
}

/// Sum of squares in f64, in chunks that vectorise.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let chunks = values.chunks(4096);
    simd(
        #[inline(always)]
        || chunks.map(|c| f64::from(math::dot(c, c))).sum(),
    )
}

/// Sums partial results of tasks in their order.
fn sum_in_order(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    total
}

/// Runs `f` compiled for the best vector instructions of this machine. `f` must be a closure marked
/// `#[inline(always)]`: one that is not inlined here is compiled without those instructions, and
/// `mul_add` then is a call (measured: 40 times slower).
#[inline(always)]
pub(crate) fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

#[cfg(test)]
mod tests;
