//! Token embedding from int8 rows: `h = E8[id] * s[id]`.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

#[cfg(feature = "cuda")]
use super::cuda::{self, device};
use super::{quant, result, tensor, values, with_values};

struct Embedding {
    ids: Vec<u32>,
    shape: Vec<usize>,
}

/// Rows of `weight [V, D]`, rounded to int8, for `ids [B, T]` (u32): `[B, T, D]`.
///
/// # Errors
/// When an id is not below V, or `weight` is not a contiguous f32 tensor. The ids are read on the CPU, wherever `weight`
/// is.
pub fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut shape = ids.dims().to_vec();
    shape.push(weight.dim(1)?);
    let ids = ids.flatten_all()?.to_vec1::<u32>()?;
    weight.apply_op1(Embedding { ids, shape })
}

impl Embedding {
    fn check(&self, rows: usize) -> Result<()> {
        match self.ids.iter().find(|id| **id as usize >= rows) {
            Some(id) => bail!("token {id} is out of range: the vocabulary has {rows}"),
            None => Ok(()),
        }
    }
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let weight = values(storage, layout)?;
        let (rows, width) = layout.shape().dims2()?;
        self.check(rows)?;
        let mut table = vec![0.0; weight.len()];
        let scales = quant::int_rows_into(weight, width, 127, &mut table);
        let mut out = Vec::with_capacity(self.ids.len() * width);
        for &id in &self.ids {
            let id = id as usize;
            out.extend(table[id * width..][..width].iter().map(|q| q * scales[id]));
        }
        result(out, self.shape.clone())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        self.check(rows)?;
        let (m, weight) = (&storage.device, device::span(storage, layout)?);
        let out = cuda::embedding::forward(m, &self.ids, weight, width)?;
        device::result(out, m, self.shape.clone())
    }

    fn bwd(&self, weight: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if weight.device().is_cuda() {
            return device::with_spans([&grad.contiguous()?], |m, [dy]| {
                let dw = cuda::embedding::backward(m, &self.ids, dy, weight.dims2()?)?;
                Ok(Some(device::tensor(dw, m, weight.shape())))
            });
        }
        let width = weight.dim(1)?;
        let mut total = vec![0.0; weight.elem_count()];
        with_values([&grad.contiguous()?], |[grad]| {
            for (&id, g) in self.ids.iter().zip(grad.chunks_exact(width)) {
                let row = &mut total[id as usize * width..][..width];
                row.iter_mut().zip(g).for_each(|(t, g)| *t += g);
            }
            Ok(())
        })?;
        Ok(Some(tensor(total, weight.shape())?))
    }
}
