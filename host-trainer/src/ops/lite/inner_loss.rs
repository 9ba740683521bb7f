//! What the delta rule achieves, for a reader of a training run; no part of the forward pass.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{Chunk, Settings, add_matmul, simd, with_values};
use crate::ops::inner_loss::{InnerLoss, half_square};

/// `1/2 |W x - x|^2` with `W` as at the start and as at the end of every `b` tokens. Operands as those of
/// [`ttt_lite`](super::ttt_lite); `lengths [B]` says how many tokens of each row are text.
///
/// # Errors
/// When shapes disagree.
pub fn inner_loss(
    f: &Tensor,
    decay: &Tensor,
    s: &Settings,
    lengths: &[usize],
) -> Result<InnerLoss> {
    let (_, t, m) = f.dims3()?;
    let cpu = |tensor: &Tensor| tensor.contiguous()?.to_device(&Device::Cpu);
    with_values([&cpu(f)?, &cpu(decay)?], |[f, decay]| {
        let lambda = s.lambda(decay);
        let rows = f.par_chunks(t * m).zip(lengths);
        let losses = rows.map(|(f, length)| {
            simd(
                #[inline(always)]
                || row(s, lambda, m, &f[..length * m]),
            )
        });
        // In the order of the rows, whatever the number of threads.
        let losses: Vec<InnerLoss> = losses.collect();
        Ok(losses
            .into_iter()
            .fold(InnerLoss::default(), InnerLoss::plus))
    })
}

#[inline(always)]
fn row(s: &Settings, lambda: f32, m: usize, f: &[f32]) -> InnerLoss {
    let mut loss = InnerLoss::default();
    let mut chunk = Chunk::new(s.mini_batch, m);
    let (mut w, mut next) = (vec![0.0; m * m], vec![0.0; m * m]);
    for f in f.chunks_exact(s.mini_batch * m) {
        chunk.compute(f, &w, s.lr);
        chunk.next_state(s.lr, lambda, &w, &mut next);
        loss.add(
            error(&mut chunk, &w),
            error(&mut chunk, &next),
            s.mini_batch,
        );
        std::mem::swap(&mut w, &mut next);
    }
    loss
}

/// `1/2 |W x - x|^2` over the tokens of a chunk.
#[inline(always)]
fn error(chunk: &mut Chunk, w: &[f32]) -> f64 {
    let (n, m) = (chunk.n, chunk.m);
    let p = &mut chunk.p[..n * m];
    p.fill(0.0);
    add_matmul(p, &chunk.x, w, (n, m, m));
    p.iter_mut().zip(&chunk.x).for_each(|(p, x)| *p -= x);
    half_square(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lr: f32) -> Settings {
        Settings {
            mini_batch: 2,
            lr,
            anchor_decay: false,
        }
    }

    fn means(rows: &[f32], s: &Settings, lengths: &[usize]) -> Option<[f64; 2]> {
        let f = Tensor::from_slice(
            rows,
            (lengths.len(), rows.len() / 2 / lengths.len(), 2),
            &Device::Cpu,
        );
        let decay = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
        inner_loss(&f.unwrap(), &decay, s, lengths).unwrap().means()
    }

    #[test]
    fn the_delta_rule_halves_the_error_of_one_direction_at_rate_a_half() {
        // Two tokens of one direction: (I - x x^T / 2) twice leaves a quarter, squared a sixteenth.
        let rows = [3.0, 4.0, 30.0, 40.0];
        let [before, after] = means(&rows, &settings(0.5), &[2]).unwrap();
        assert!((before - 0.5).abs() < 1e-6 && (after - 0.5 / 16.0).abs() < 1e-6);
        let [before, after] = means(&rows, &settings(0.0), &[2]).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn padding_and_unfinished_mini_batches_do_not_count() {
        let one = [3.0, 4.0, 30.0, 40.0, 1.0, 0.0, 0.0, 1.0];
        let two = [one, [9.0; 8]].concat();
        assert_eq!(
            means(&two, &settings(0.5), &[3, 1]),
            means(&one[..4], &settings(0.5), &[2])
        );
        assert_eq!(means(&one, &settings(0.5), &[1]), None);
    }
}
