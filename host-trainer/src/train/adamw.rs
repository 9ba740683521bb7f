//! AdamW (Loshchilov and Hutter 2019) with its moments in the open, for checkpoints.

use std::borrow::Cow;
use std::cell::RefCell;

use anyhow::Context as _;
#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, Var};

use crate::config::{ModelConfig, TrainConfig, WeightType};
use crate::model::{self, Spec};
use crate::ops;
#[cfg(feature = "cuda")]
use crate::ops::cuda::{self, device};

/// First and second moments of one tensor, flat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Running mean of gradients.
    pub first: Vec<f32>,
    /// Running mean of squared gradients.
    pub second: Vec<f32>,
}

/// How a variable is treated.
#[derive(Clone, Copy, Debug)]
pub struct Treatment {
    /// Weight decay takes from it.
    pub decays: bool,
    /// It holds latent weights of a ternary matrix.
    pub latent: bool,
}

/// How the variables of a model are treated, in their order.
pub fn treatments(config: &ModelConfig) -> Vec<Treatment> {
    let treatment = |spec: &Spec| Treatment {
        decays: spec.decays(),
        latent: config.weights == WeightType::Ternary && spec.matrix().is_some(),
    };
    model::specs(config).iter().map(treatment).collect()
}

/// Moments in the order of the variables, where the variables are.
enum State {
    Host(Vec<Moments>),
    #[cfg(feature = "cuda")]
    Card(Vec<[Tensor; 2]>),
}

/// The optimiser: one pair of moments for each variable.
pub struct AdamW {
    beta1: f32,
    beta2: f32,
    weight_decay: f32,
    grad_clip: f64,
    latent_clip: f64,
    treated: Vec<Treatment>,
    state: State,
    #[cfg(feature = "cuda")]
    device: Device,
}

impl AdamW {
    /// Moments at zero; `treated` says how each variable is treated.
    ///
    /// # Errors
    /// When the device has too little memory.
    pub fn new(
        config: &TrainConfig,
        vars: &[(String, Var)],
        treated: Vec<Treatment>,
    ) -> anyhow::Result<Self> {
        let zeros = |(_, var): &(String, Var)| Moments {
            first: vec![0.0; var.elem_count()],
            second: vec![0.0; var.elem_count()],
        };
        let mut optimiser = Self {
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            weight_decay: config.weight_decay as f32,
            grad_clip: config.grad_clip,
            latent_clip: config.latent_clip,
            treated,
            state: State::Host(Vec::new()),
            #[cfg(feature = "cuda")]
            device: vars
                .first()
                .map_or(Device::Cpu, |(_, v)| v.device().clone()),
        };
        optimiser.set_moments(vars.iter().map(zeros).collect())?;
        Ok(optimiser)
    }

    /// Goes on from these moments, in the order of the variables.
    ///
    /// # Errors
    /// When the device has too little memory.
    pub fn set_moments(&mut self, moments: Vec<Moments>) -> anyhow::Result<()> {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            let upload = |values: &[f32]| Tensor::from_slice(values, values.len(), &self.device);
            let both = |m: &Moments| Ok([upload(&m.first)?, upload(&m.second)?]);
            let uploaded = moments.iter().map(both).collect::<candle_core::Result<_>>();
            self.state = State::Card(uploaded?);
            return Ok(());
        }
        self.state = State::Host(moments);
        Ok(())
    }

    /// Moments in the order of the variables.
    ///
    /// # Errors
    /// When a card does not answer.
    pub fn moments(&self) -> anyhow::Result<Cow<'_, [Moments]>> {
        match &self.state {
            State::Host(moments) => Ok(moments.into()),
            #[cfg(feature = "cuda")]
            State::Card(moments) => {
                let read = |[first, second]: &[Tensor; 2]| {
                    let [first, second] = [first.to_vec1()?, second.to_vec1()?];
                    Ok(Moments { first, second })
                };
                moments.iter().map(read).collect()
            }
        }
    }

    /// One update at learning rate `lr`; `step` counts from 1. Returns the global gradient norm
    /// before clipping. A gradient that is not finite changes nothing.
    ///
    /// # Errors
    /// When a gradient is missing.
    pub fn step(
        &mut self,
        vars: &[(String, Var)],
        grads: &GradStore,
        lr: f64,
        step: u64,
    ) -> anyhow::Result<f64> {
        let grads = gradients(vars, grads)?;
        let numbers = Numbers::new(self, lr, step);
        let norm = self.update(vars, &grads, numbers)?;
        let latents = vars.iter().zip(&self.treated).filter(|(_, t)| t.latent);
        if self.latent_clip > 0.0 {
            for ((_, var), _) in latents {
                clip(var, self.latent_clip)?;
            }
        }
        Ok(norm)
    }

    fn update(
        &mut self,
        vars: &[(String, Var)],
        grads: &[Tensor],
        numbers: Numbers,
    ) -> anyhow::Result<f64> {
        match &mut self.state {
            State::Host(moments) => {
                let norm = global_norm(grads)?;
                if norm.is_finite() {
                    let scale = (self.grad_clip / norm.max(1e-12)).min(1.0) as f32;
                    let rows = vars.iter().zip(grads).zip(moments).zip(&self.treated);
                    for ((((_, var), grad), moments), treated) in rows {
                        ops::with_values([grad], |[grad]| {
                            let update = Update {
                                grad,
                                moments: RefCell::new(moments),
                                scale,
                                numbers,
                                keep: numbers.keep(treated.decays),
                            };
                            var.inplace_op1(&update)
                        })?;
                    }
                }
                Ok(norm)
            }
            #[cfg(feature = "cuda")]
            State::Card(moments) => {
                let step = cuda::adamw::Step {
                    clip: self.grad_clip as f32,
                    betas: numbers.betas,
                    rate: numbers.rate,
                    root: numbers.root,
                };
                let keeps: Vec<f32> = self
                    .treated
                    .iter()
                    .map(|t| numbers.keep(t.decays))
                    .collect();
                step_on_card(vars, grads, moments, &step, &keeps)
            }
        }
    }
}

/// Keeps latent weights within `times` their mean of absolute values: one that grew far beyond the threshold between two
/// trits would take as long to come back.
fn clip(var: &Var, times: f64) -> candle_core::Result<()> {
    let bound = (var.abs()?.mean_all()? * times)?;
    let clipped = var.broadcast_minimum(&bound)?;
    var.set(&clipped.broadcast_maximum(&bound.neg()?)?)
}

/// Numbers of a step, the same for all variables.
#[derive(Clone, Copy)]
struct Numbers {
    betas: [f32; 2],
    /// Both bias corrections go into the rate and the epsilon's place (Kingma and Ba, section 2).
    rate: f32,
    root: f32,
    decay: f32,
}

impl Numbers {
    fn new(optimiser: &AdamW, lr: f64, step: u64) -> Self {
        let power = step.min(1 << 20) as i32;
        let [c1, c2] = [optimiser.beta1, optimiser.beta2].map(|beta| 1.0 - beta.powi(power));
        Self {
            betas: [optimiser.beta1, optimiser.beta2],
            rate: lr as f32 / c1,
            root: 1.0 / c2.sqrt(),
            decay: lr as f32 * optimiser.weight_decay,
        }
    }

    /// What weight decay leaves of a value.
    fn keep(&self, decays: bool) -> f32 {
        if decays { 1.0 - self.decay } else { 1.0 }
    }
}

/// The update by kernels; returns the norm, for which alone the CPU waits.
#[cfg(feature = "cuda")]
fn step_on_card(
    vars: &[(String, Var)],
    grads: &[Tensor],
    moments: &[[Tensor; 2]],
    step: &cuda::adamw::Step,
    keeps: &[f32],
) -> anyhow::Result<f64> {
    use cuda::Machine as _;
    let Device::Cuda(m) = vars[0].1.device() else {
        anyhow::bail!("adamw: moments are on a GPU, variables are not");
    };
    let norm = device::norm(m, grads)?;
    for ((((_, var), grad), [first, second]), keep) in
        vars.iter().zip(grads).zip(moments).zip(keeps)
    {
        device::with_spans([var.as_tensor(), first, second, grad], |m, spans| {
            cuda::adamw::update(m, step, spans, m.span(&norm), *keep)
        })?;
    }
    Ok(m.clone_dtoh(&norm)?[0])
}

/// Contiguous gradients in the order of the variables.
fn gradients(vars: &[(String, Var)], grads: &GradStore) -> anyhow::Result<Vec<Tensor>> {
    let gradient = |(name, var): &(String, Var)| {
        let grad = grads.get(var);
        Ok(grad
            .with_context(|| format!("{name} has no gradient"))?
            .contiguous()?)
    };
    vars.iter().map(gradient).collect()
}

fn global_norm(grads: &[Tensor]) -> anyhow::Result<f64> {
    let square = |grad| ops::with_values([grad], |[g]| Ok(ops::sum_of_squares(g)));
    let squares: Vec<f64> = grads
        .iter()
        .map(square)
        .collect::<candle_core::Result<_>>()?;
    Ok(squares.iter().sum::<f64>().sqrt())
}

struct Update<'a> {
    grad: &'a [f32],
    moments: RefCell<&'a mut Moments>,
    scale: f32,
    numbers: Numbers,
    keep: f32,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else {
            candle_core::bail!("adamw: variables are f32");
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("adamw: variables are contiguous");
        };
        let mut moments = self.moments.borrow_mut();
        let Moments { first, second } = &mut **moments;
        ops::simd(
            #[inline(always)]
            || self.apply(&mut values[start..end], first, second),
        );
        Ok(())
    }
}

impl Update<'_> {
    #[inline(always)]
    fn apply(&self, values: &mut [f32], first: &mut [f32], second: &mut [f32]) {
        let Numbers { rate, root, .. } = self.numbers;
        let [beta1, beta2] = self.numbers.betas;
        let state = first.iter_mut().zip(second);
        for ((w, (m, v)), g) in values.iter_mut().zip(state).zip(self.grad) {
            let g = g * self.scale;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *w = *w * self.keep - rate * *m / (v.sqrt() * root + 1e-8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latent_weights_far_from_the_threshold_are_brought_near_and_others_left() {
        let values = [0.5f32, -0.25, 9.0, -9.0, 0.0, 1.0, -1.0, 0.25]; // the mean of absolute values is 2.625
        let var = Var::from_slice(&values, (2, 4), &candle_core::Device::Cpu).unwrap();
        clip(&var, 2.0).unwrap();
        let clipped: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(clipped, [0.5, -0.25, 5.25, -5.25, 0.0, 1.0, -1.0, 0.25]);
    }
}
