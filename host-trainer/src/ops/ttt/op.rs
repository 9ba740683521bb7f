//! The operation as Candle sees it: which kernels run where, and what the backward pass keeps of the forward pass.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, cuda_backend::cudarc::driver::CudaSlice};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::rope_table;
use super::{FastState, Rope, Settings, Values, backward, forward};
#[cfg(feature = "cuda")]
use crate::ops::cuda::{self, device};
use crate::ops::{result, simd, sum_in_order, tensor, values, with_values};

pub(super) struct Ttt {
    settings: Settings,
    rope: Rope,
    /// Where the rows go on from, if not from the learned start.
    carried: Option<FastState>,
    /// Where to leave the fast weights behind the last token, if someone asks.
    left: Option<Arc<Mutex<Vec<f32>>>>,
    /// `[B, H, mini-batches, state]`: the fast weights at each start, for the backward pass.
    states: Mutex<Vec<f32>>,
    /// The rope's table and the same states, where the operation ran on a card.
    #[cfg(feature = "cuda")]
    on_card: Mutex<Option<[CudaSlice<f32>; 2]>>,
}

impl Ttt {
    pub(super) fn new(
        settings: &Settings,
        carried: Option<FastState>,
        left: Option<Arc<Mutex<Vec<f32>>>>,
    ) -> Self {
        Self {
            rope: Rope::new(settings),
            settings: settings.clone(),
            carried,
            left,
            states: Mutex::new(Vec::new()),
            #[cfg(feature = "cuda")]
            on_card: Mutex::new(None),
        }
    }

    /// Fast weights that row `b` of the batch goes on from.
    fn carried_of(&self, b: usize) -> Option<&[f32]> {
        let len = self.settings.heads * self.settings.state_len();
        self.carried
            .as_ref()
            .map(|state| &state.0[b * len..][..len])
    }

    fn dims(&self, qkv: &Shape, lr: &Shape) -> Result<(usize, usize)> {
        let s = &self.settings;
        let (b, t, width) = qkv.dims3()?;
        if width != 3 * s.heads * s.d_head || lr.dims() != [b, t, s.heads] {
            bail!("ttt: qkv {qkv:?} and lr {lr:?} do not fit {s:?}");
        }
        if let Some(carried) = &self.carried
            && carried.0.len() != b * s.heads * s.state_len()
        {
            bail!("ttt: the segment before had another number of rows than {b}");
        }
        Ok((b, t))
    }
}

impl CustomOp3 for Ttt {
    fn name(&self) -> &'static str {
        "ttt"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let s = &self.settings;
        let (b, t) = self.dims(l1.shape(), l2.shape())?;
        let (qkv, lr) = (values(s1, l1)?, values(s2, l2)?);
        let learned = Values::new(values(s3, l3)?, s)?;
        let width = s.heads * s.d_head;
        let state_len = s.heads * t.div_ceil(s.mini_batch) * s.state_len();
        let mut out = vec![0.0; b * t * width];
        let mut states = vec![0.0; b * state_len];
        let left_len = s.heads * s.state_len();
        let mut left = vec![0.0; if self.left.is_some() { b * left_len } else { 0 }];
        let mut lefts: Vec<_> = left.chunks_mut(left_len).map(Some).collect();
        lefts.resize_with(b, || None);
        (out.par_chunks_mut(t * width)
            .zip(states.par_chunks_mut(state_len)))
        .zip(
            qkv.par_chunks(t * 3 * width)
                .zip(lr.par_chunks(t * s.heads)),
        )
        .zip(lefts)
        .enumerate()
        .for_each(|(b, (((out, states), (qkv, lr)), left))| {
            let row = forward::Row {
                qkv,
                lr,
                carried: self.carried_of(b),
            };
            simd(
                #[inline(always)]
                || forward::row(s, &self.rope, &learned, row, out, states, left),
            );
        });
        if let Some(slot) = &self.left {
            *slot.lock().expect("not poisoned") = left;
        }
        *self.states.lock().expect("not poisoned") = states;
        result(out, (b, t, width))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        use cuda::Machine as _;
        let (s, m) = (&self.settings, &s1.device);
        let (b, t) = self.dims(l1.shape(), l2.shape())?;
        let rope = m.upload(&rope_table(s))?;
        let operands = cuda::ttt::Operands {
            qkv: device::span(s1, l1)?,
            lr: device::span(s2, l2)?,
            learned: device::span(s3, l3)?,
            rope: m.span(&rope),
            dims: (b, t),
        };
        let (out, states) = cuda::ttt::forward(m, s, operands)?;
        *self.on_card.lock().expect("not poisoned") = Some([rope, states]);
        device::result(out, m, (b, t, s.heads * s.d_head))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        lr: &Tensor,
        learned: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if qkv.device().is_cuda() {
            return self.cuda_gradients([qkv, lr, learned], grad);
        }
        let s = &self.settings;
        let (b, t) = self.dims(qkv.shape(), lr.shape())?;
        let states = self.states.lock().expect("not poisoned");
        let width = s.heads * s.d_head;
        let mut dqkv = vec![0.0; b * t * 3 * width];
        let mut dlr = vec![0.0; b * t * s.heads];
        let operands = [qkv, lr, learned, &grad.contiguous()?];
        let d_learned = with_values(operands, |[qkv, lr, learned, grad]| {
            let learned = Values::new(learned, s)?;
            let inputs = qkv
                .par_chunks(t * 3 * width)
                .zip(lr.par_chunks(t * s.heads));
            let grads = dqkv
                .par_chunks_mut(t * 3 * width)
                .zip(dlr.par_chunks_mut(t * s.heads));
            let parts = (inputs.zip(grads))
                .zip(
                    grad.par_chunks(t * width)
                        .zip(states.par_chunks(states.len() / b)),
                )
                .map(|(((qkv, lr), (dqkv, dlr)), (grad, states))| {
                    let inputs = backward::Inputs {
                        qkv,
                        lr,
                        grad,
                        states,
                        carried: self.carried.is_some(),
                    };
                    simd(
                        #[inline(always)]
                        || backward::row(s, &self.rope, &learned, &inputs, dqkv, dlr),
                    )
                })
                .collect();
            Ok(sum_in_order(parts))
        })?;
        Ok((
            Some(tensor(dqkv, qkv.shape())?),
            Some(tensor(dlr, lr.shape())?),
            Some(tensor(d_learned, learned.shape())?),
        ))
    }
}

#[cfg(feature = "cuda")]
impl Ttt {
    fn cuda_gradients(
        &self,
        inputs: [&Tensor; 3],
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        use cuda::Machine as _;
        let [qkv, lr, learned] = inputs;
        let dims = self.dims(qkv.shape(), lr.shape())?;
        let on_card = self.on_card.lock().expect("not poisoned");
        let Some([rope, states]) = on_card.as_ref() else {
            bail!("ttt: backward without forward");
        };
        let operands = [qkv, lr, learned, &grad.contiguous()?];
        device::with_spans(operands, |m, [qkv, lr, learned, grad]| {
            let operands = cuda::ttt::Operands {
                qkv,
                lr,
                learned,
                rope: m.span(rope),
                dims,
            };
            let states = m.span(states);
            let got = cuda::ttt::backward(m, &self.settings, operands, states, grad)?;
            let [dqkv, dlr, dlearned] = got;
            Ok((
                Some(device::tensor(dqkv, m, inputs[0].shape())),
                Some(device::tensor(dlr, m, inputs[1].shape())),
                Some(device::tensor(dlearned, m, inputs[2].shape())),
            ))
        })
    }
}
