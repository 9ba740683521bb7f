//! Loss of a stream: the int8 head and cross-entropy.

use candle_core::{Result, Tensor};

use super::bit_linear::int8_head;
use super::loss::cross_entropy;

/// Mean cross-entropy, in nats, of `x [.., K]` behind the int8 rows of `weight [V, K]`: a scalar. On a GPU the logits do not
/// exist all at once, and gradients are made with the value.
///
/// # Errors
/// As [`int8_head`] and [`cross_entropy`].
pub fn head_loss(x: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return card::head_loss(x, weight, targets);
    }
    cross_entropy(&int8_head(x, weight)?, targets)
}

#[cfg(feature = "cuda")]
mod card {
    use std::sync::Mutex;

    use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

    use crate::ops::cuda::device;
    use crate::ops::cuda::head_loss::{CHUNK, Operands, forward};
    use crate::ops::loss::count;
    use crate::ops::rows_of;

    struct HeadLoss {
        targets: Vec<u32>,
        counted: usize,
        gradients: Mutex<Option<[Tensor; 2]>>,
    }

    pub fn head_loss(x: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let ((rows, _), (vocab, _)) = (rows_of(x.shape()), rows_of(weight.shape()));
        let operation = HeadLoss {
            counted: count(targets, (rows, vocab))?,
            targets: targets.to_vec(),
            gradients: Mutex::new(None),
        };
        x.contiguous()?.apply_op2(&weight.contiguous()?, operation)
    }

    impl CustomOp2 for HeadLoss {
        fn name(&self) -> &'static str {
            "head-loss"
        }

        fn cpu_fwd(
            &self,
            _: &CpuStorage,
            _: &Layout,
            _: &CpuStorage,
            _: &Layout,
        ) -> Result<(CpuStorage, Shape)> {
            bail!("head-loss: operands must be on the GPU")
        }

        fn cuda_fwd(
            &self,
            s1: &CudaStorage,
            l1: &Layout,
            s2: &CudaStorage,
            l2: &Layout,
        ) -> Result<(CudaStorage, Shape)> {
            let m = &s1.device;
            let operands = Operands {
                x: device::span(s1, l1)?,
                weight: device::span(s2, l2)?,
                targets: &self.targets,
                counted: self.counted,
            };
            let [loss, dx, dw] = forward(m, operands, CHUNK)?;
            let gradients = [
                device::tensor(dx, m, l1.shape()),
                device::tensor(dw, m, l2.shape()),
            ];
            *self.gradients.lock().expect("not poisoned") = Some(gradients);
            device::result(loss, m, ())
        }

        fn bwd(
            &self,
            _x: &Tensor,
            _weight: &Tensor,
            _loss: &Tensor,
            grad: &Tensor,
        ) -> Result<(Option<Tensor>, Option<Tensor>)> {
            let Some([dx, dw]) = self.gradients.lock().expect("not poisoned").take() else {
                bail!("head-loss: backward without forward");
            };
            Ok((Some(dx.broadcast_mul(grad)?), Some(dw.broadcast_mul(grad)?)))
        }
    }
}
