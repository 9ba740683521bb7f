//! Dropout (Srivastava et al. 2014): values of a branch that a training step leaves out, the others scaled up.
//!
//! Whether a value is kept depends on its key and its place in the whole batch alone: on no generator that is drawn from
//! in order, so that devices, processes and resumed runs leave out the same ones.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::{
    cuda::{self, device},
    rows_of,
};
use super::{result, values};
use crate::rng::{hash, mix};

/// Which values of a branch are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of them, in `[0, 1)`.
    pub share: f32,
    /// Fixes which; another one for each step and place in the model.
    pub key: u64,
    /// Row of the whole batch with which the tensor's rows begin.
    pub first_row: usize,
}

impl Dropout {
    /// For another place in the model.
    #[must_use]
    pub fn at(self, place: usize) -> Self {
        Self {
            key: hash(&[self.key, place as u64]),
            ..self
        }
    }

    /// `x [B, ..]` without what is left out.
    ///
    /// # Errors
    /// When the operand is not f32.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self)
    }

    /// Place in the whole batch of the first value of a tensor of this shape.
    fn first(&self, shape: &Shape) -> u64 {
        let rows = shape.dims().first().copied().unwrap_or(1).max(1);
        (self.first_row * (shape.elem_count() / rows)) as u64
    }

    /// What a kept value is multiplied with.
    pub(super) fn scale(&self) -> f32 {
        1.0 / (1.0 - self.share)
    }

    /// The value at `place` is left out where a random word's top 24 bits are below this.
    pub(super) fn bound(&self) -> u64 {
        (f64::from(self.share) * f64::from(1 << 24)) as u64
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        const CHUNK: usize = 4096;
        let x = values(storage, layout)?;
        let (key, scale, bound) = (self.key, self.scale(), self.bound());
        let first = self.first(layout.shape());
        let mut out = vec![0.0; x.len()];
        let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
        chunks.enumerate().for_each(|(n, (out, x))| {
            let places = first + (n * CHUNK) as u64..;
            for ((out, x), place) in out.iter_mut().zip(x).zip(places) {
                let kept = mix(key ^ place) >> 40 >= bound;
                *out = if kept { x * scale } else { 0.0 };
            }
        });
        result(out, layout.shape())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let x = device::span(storage, layout)?;
        let first = self.first(layout.shape());
        let out = cuda::dropout::apply(&storage.device, *self, x, rows_of(layout.shape()), first)?;
        device::result(out, &storage.device, layout.shape())
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.apply(grad).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn of(share: f32, key: u64) -> Dropout {
        Dropout {
            share,
            key,
            first_row: 0,
        }
    }

    fn ones(rows: usize) -> Var {
        Var::ones((rows, 50, 40), candle_core::DType::F32, &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn its_share_is_left_out_and_the_mean_stays() {
        for share in [0.0, 0.1, 0.5] {
            let y = flat(&of(share, 7).apply(&ones(10)).unwrap());
            let dropped = y.iter().filter(|y| **y == 0.0).count() as f32 / y.len() as f32;
            let mean = y.iter().sum::<f32>() / y.len() as f32;
            assert!((dropped - share).abs() < 0.01, "{dropped} for {share}");
            assert!((mean - 1.0).abs() < 0.02, "{mean}");
        }
    }

    #[test]
    fn gradients_are_left_out_where_values_are() {
        let x = ones(2);
        let y = of(0.3, 1).apply(&x).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(flat(grads.get(&x).unwrap()), flat(&y));
    }

    #[test]
    fn a_part_of_the_batch_loses_what_it_loses_in_the_whole() {
        let whole = of(0.3, 1).apply(&ones(5)).unwrap();
        let part = Dropout {
            first_row: 3,
            ..of(0.3, 1)
        };
        let part = part.apply(&ones(2)).unwrap();
        assert_eq!(flat(&whole.narrow(0, 3, 2).unwrap()), flat(&part));
    }

    #[test]
    fn another_key_or_place_leaves_out_others() {
        let x = ones(1);
        let y = |d: Dropout| flat(&d.apply(&x).unwrap());
        let first = of(0.5, 1);
        assert_ne!(y(first), y(of(0.5, 2)));
        assert_ne!(y(first.at(0)), y(first.at(1)));
        assert_eq!(y(first.at(1)), y(first.at(1)));
    }
}
