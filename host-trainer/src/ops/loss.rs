//! Cross-entropy in nats, averaged over the tokens that count.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda::{self, device};
use super::{ROWS_PER_TASK, math, result, rows_of, simd, tensor, values, with_values};

/// Target of a position that does not count (padding).
pub const IGNORE: u32 = u32::MAX;

struct CrossEntropy {
    targets: Vec<u32>,
    counted: usize,
}

/// Mean of `-log softmax(logits [.., V])[target]` over the targets that are not [`IGNORE`]: a scalar.
///
/// # Errors
/// When the number of targets differs from the number of rows, a target is not below V, or no
/// target counts.
pub fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let counted = count(targets, rows_of(logits.shape()))?;
    logits.contiguous()?.apply_op1(CrossEntropy {
        targets: targets.to_vec(),
        counted,
    })
}

/// How many targets count, of as many as there are rows.
///
/// # Errors
/// As [`cross_entropy`].
pub(super) fn count(targets: &[u32], (rows, vocab): (usize, usize)) -> Result<usize> {
    if targets.len() != rows {
        bail!("{rows} rows of logits, {} targets", targets.len());
    }
    check_range(targets, vocab)?;
    let counted = targets.iter().filter(|t| **t != IGNORE).count();
    if counted == 0 {
        bail!("no target counts");
    }
    Ok(counted)
}

fn check_range(targets: &[u32], vocab: usize) -> Result<()> {
    let mut valid = targets.iter().filter(|t| **t != IGNORE);
    match valid.find(|t| **t as usize >= vocab) {
        Some(target) => bail!("target {target} is out of range: the vocabulary has {vocab}"),
        None => Ok(()),
    }
}

/// Negative log-likelihood of every row of `logits [.., V]`, 0 where the target is [`IGNORE`].
///
/// # Errors
/// When `logits` is not contiguous, or a target is not below V.
pub fn losses(logits: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    check_range(targets, rows_of(logits.shape()).1)?;
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        return device::with_spans([logits], |m, [logits]| {
            m.clone_dtoh(&cuda::loss::row_losses(m, logits, targets)?)
        });
    }
    with_values([logits], |[logits]| Ok(row_losses(logits, targets)))
}

fn row_losses(logits: &[f32], targets: &[u32]) -> Vec<f32> {
    let vocab = logits.len() / targets.len().max(1);
    let mut out = vec![0.0; targets.len()];
    out.par_chunks_mut(ROWS_PER_TASK)
        .zip(targets.par_chunks(ROWS_PER_TASK))
        .zip(logits.par_chunks(ROWS_PER_TASK * vocab))
        .for_each(|((out, targets), logits)| {
            simd(
                #[inline(always)]
                || {
                    let rows = logits.chunks_exact(vocab).zip(targets);
                    for ((row, &target), out) in rows.zip(out) {
                        if target != IGNORE {
                            let (max, sum) = soft(row);
                            *out = sum.ln() + max - row[target as usize];
                        }
                    }
                },
            );
        });
    out
}

/// Maximum of a row and the sum of `exp(x - max)`.
#[inline(always)]
fn soft(row: &[f32]) -> (f32, f32) {
    let max = math::max(row);
    let (chunks, tail) = row.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += math::exp(chunk[i] - max);
        }
    }
    let tail: f32 = tail.iter().map(|x| math::exp(x - max)).sum();
    (max, math::sum(&lanes) + tail)
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let losses = row_losses(values(storage, layout)?, &self.targets);
        let sum: f64 = losses.iter().map(|l| f64::from(*l)).sum();
        result(vec![(sum / self.counted as f64) as f32], ())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (m, logits) = (&storage.device, device::span(storage, layout)?);
        let mean = cuda::loss::forward(m, logits, &self.targets, self.counted)?;
        device::result(mean, m, ())
    }

    fn bwd(&self, logits: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if logits.device().is_cuda() {
            return device::with_spans([logits, grad], |m, [values, grad]| {
                let targets = &self.targets;
                let out = cuda::loss::backward(m, values, targets, grad, self.counted)?;
                Ok(Some(device::tensor(out, m, logits.shape())))
            });
        }
        let weight = grad.to_scalar::<f32>()? / self.counted as f32;
        let (_, vocab) = rows_of(logits.shape());
        let mut out = vec![0.0; logits.elem_count()];
        with_values([logits], |[logits]| {
            out.par_chunks_mut(ROWS_PER_TASK * vocab)
                .zip(logits.par_chunks(ROWS_PER_TASK * vocab))
                .zip(self.targets.par_chunks(ROWS_PER_TASK))
                .for_each(|((out, logits), targets)| {
                    simd(
                        #[inline(always)]
                        || {
                            let rows = out.chunks_exact_mut(vocab).zip(logits.chunks_exact(vocab));
                            for ((out, row), &target) in rows.zip(targets) {
                                row_grad(row, target, weight, out);
                            }
                        },
                    );
                });
            Ok(())
        })?;
        Ok(Some(tensor(out, logits.shape())?))
    }
}

/// `(softmax(row) - onehot(target)) * weight`.
#[inline(always)]
fn row_grad(row: &[f32], target: u32, weight: f32, out: &mut [f32]) {
    if target == IGNORE {
        return;
    }
    let (max, sum) = soft(row);
    let scale = weight / sum;
    for (out, x) in out.iter_mut().zip(row) {
        *out = math::exp(x - max) * scale;
    }
    out[target as usize] -= weight;
}
