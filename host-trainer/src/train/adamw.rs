//! AdamW (Loshchilov and Hutter 2019) with its moments in the open, for checkpoints.

use std::cell::RefCell;

use anyhow::Context as _;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp1, Layout, Var};

use crate::config::TrainConfig;
use crate::ops;

/// First and second moments of one tensor, flat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Running mean of gradients.
    pub first: Vec<f32>,
    /// Running mean of squared gradients.
    pub second: Vec<f32>,
}

/// The optimiser's state: one [`Moments`] for each variable, in their order.
pub struct AdamW {
    beta1: f32,
    beta2: f32,
    weight_decay: f32,
    grad_clip: f64,
    decays: Vec<bool>,
    /// Moments in the order of the variables.
    pub moments: Vec<Moments>,
}

impl AdamW {
    /// Moments at zero; `decays` says which variables are decayed.
    pub fn new(config: &TrainConfig, vars: &[(String, Var)], decays: Vec<bool>) -> Self {
        let zeros = |(_, var): &(String, Var)| Moments {
            first: vec![0.0; var.elem_count()],
            second: vec![0.0; var.elem_count()],
        };
        Self {
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            weight_decay: config.weight_decay as f32,
            grad_clip: config.grad_clip,
            decays,
            moments: vars.iter().map(zeros).collect(),
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
        let norm = global_norm(vars, grads)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        let scale = (self.grad_clip / norm.max(1e-12)).min(1.0) as f32;
        // Both bias corrections go into the rate and the epsilon's place (Kingma and Ba, section 2).
        let power = step.min(1 << 20) as i32;
        let (c1, c2) = (1.0 - self.beta1.powi(power), 1.0 - self.beta2.powi(power));
        for (((_, var), moments), decays) in vars.iter().zip(&mut self.moments).zip(&self.decays) {
            let grad = grads.get(var).expect("checked by the norm").contiguous()?;
            ops::with_values([&grad], |[grad]| {
                let update = Update {
                    grad,
                    moments: RefCell::new(moments),
                    scale,
                    betas: [self.beta1, self.beta2],
                    rate: lr as f32 / c1,
                    root: 1.0 / c2.sqrt(),
                    keep: 1.0
                        - if *decays {
                            lr as f32 * self.weight_decay
                        } else {
                            0.0
                        },
                };
                var.inplace_op1(&update)
            })?;
        }
        Ok(norm)
    }
}

fn global_norm(vars: &[(String, Var)], grads: &GradStore) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for (name, var) in vars {
        let grad = grads
            .get(var)
            .with_context(|| format!("{name} has no gradient"))?;
        sum += ops::with_values([&grad.contiguous()?], |[g]| Ok(ops::sum_of_squares(g)))?;
    }
    Ok(sum.sqrt())
}

struct Update<'a> {
    grad: &'a [f32],
    moments: RefCell<&'a mut Moments>,
    scale: f32,
    betas: [f32; 2],
    rate: f32,
    root: f32,
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
        let [beta1, beta2] = self.betas;
        let state = first.iter_mut().zip(second);
        for ((w, (m, v)), g) in values.iter_mut().zip(state).zip(self.grad) {
            let g = g * self.scale;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *w = *w * self.keep - self.rate * *m / (v.sqrt() * self.root + 1e-8);
        }
    }
}
