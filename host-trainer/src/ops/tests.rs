//! Every fused operation against the same mathematics as a plain Candle graph: values, and gradients by Candle's own
//! differentiation.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::bit_linear::{bit_linear, int8_head};
use super::conv::causal_conv;
use super::ffn::glu_norm;
use super::loss::{IGNORE, cross_entropy};
use super::norm::{gated_norm, rms_norm};
use crate::config::Activation;
use crate::model::plain::{conv, norm, rounded, ternarised};
use crate::rng::Rng;

const EPS: f32 = 1e-5;

pub fn random(shape: &[usize], seed: u64) -> Var {
    let mut rng = Rng::new(seed, 7);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// Largest difference, as a share of the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let largest = |t: &Tensor| {
        let all = t.flatten_all().unwrap().abs().unwrap();
        all.max(0).unwrap().to_scalar::<f32>().unwrap()
    };
    largest(&(a - b).unwrap()) / largest(b).max(1e-12)
}

/// Values and gradients of both agree within `tolerance`; the loss weighs every output by another factor.
pub fn agree(
    inputs: &[&Var],
    tolerance: f32,
    fused: impl Fn() -> Result<Tensor>,
    plain: impl Fn() -> Result<Tensor>,
) {
    let (fused, plain) = (fused().unwrap(), plain().unwrap());
    assert!(distance(&fused, &plain) <= tolerance, "values");
    let weights = random(fused.dims(), 99);
    let gradients = |y: &Tensor| {
        (y * weights.as_tensor())
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
    };
    let (fused, plain) = (gradients(&fused).unwrap(), gradients(&plain).unwrap());
    for (i, input) in inputs.iter().enumerate() {
        let far = distance(fused.get(input).unwrap(), plain.get(input).unwrap());
        assert!(far <= tolerance, "gradient of input {i} is off by {far}");
    }
}

#[test]
fn bit_linear_is_a_product_of_rounded_operands_with_straight_through_gradients() {
    let (x, w) = (random(&[2, 3, 24], 1), random(&[10, 24], 2));
    agree(
        &[&x, &w],
        2e-5,
        || bit_linear(&x, &w, 1),
        || {
            rounded(&x)?
                .reshape((6, 24))?
                .matmul(&ternarised(&w)?.t()?)?
                .reshape((2, 3, 10))
        },
    );
}

#[test]
fn grouped_matrices_have_a_scale_each() {
    let (x, a, b) = (
        random(&[1, 4, 16], 3),
        random(&[6, 16], 4),
        random(&[6, 16], 5),
    );
    let large = || b.affine(3.0, 0.0);
    agree(
        &[&x, &a, &b],
        2e-5,
        || bit_linear(&x, &Tensor::cat(&[a.as_tensor(), &large()?], 0)?, 2),
        || {
            let both = Tensor::cat(&[ternarised(&a)?, ternarised(&large()?)?], 0)?;
            rounded(&x)?
                .reshape((4, 16))?
                .matmul(&both.t()?)?
                .reshape((1, 4, 12))
        },
    );
}

#[test]
fn the_head_is_a_product_with_int8_rows() {
    let (x, w) = (random(&[1, 5, 32], 6), random(&[20, 32], 7));
    agree(
        &[&x, &w],
        2e-5,
        || int8_head(&x, &w),
        || {
            rounded(&x)?
                .reshape((5, 32))?
                .matmul(&rounded(&w)?.t()?)?
                .reshape((1, 5, 20))
        },
    );
}

#[test]
fn norms_equal_the_plain_graph() {
    let (x, gain, gate) = (
        random(&[2, 3, 20], 8),
        random(&[20], 9),
        random(&[2, 3, 20], 10),
    );
    agree(
        &[&x, &gain],
        2e-5,
        || rms_norm(&x, &gain, EPS),
        || norm(&x, &gain, EPS),
    );
    agree(
        &[&x, &gain, &gate],
        2e-5,
        || gated_norm(&x, &gain, &gate, EPS),
        || norm(&x, &gain, EPS)? * gate.silu()?,
    );
}

#[test]
fn gated_activations_equal_the_plain_graph() {
    let (x, gain) = (random(&[2, 3, 24], 11), random(&[12], 12));
    for activation in [Activation::Silu, Activation::Relu2] {
        agree(
            &[&x, &gain],
            2e-5,
            || glu_norm(&x, &gain, activation, EPS),
            || {
                let (gate, up) = (x.narrow(2, 0, 12)?, x.narrow(2, 12, 12)?);
                let gate = match activation {
                    Activation::Silu => gate.silu()?,
                    Activation::Relu2 => gate.relu()?.sqr()?,
                };
                norm(&(gate * up)?, &gain, EPS)
            },
        );
    }
}

#[test]
fn the_convolution_sees_three_tokens_back_and_none_ahead() {
    let (x, w) = (random(&[2, 6, 8], 13), random(&[4, 8], 14));
    agree(&[&x, &w], 2e-5, || causal_conv(&x, &w), || conv(&x, &w));
}

#[test]
fn the_loss_is_the_mean_over_targets_that_count() {
    let logits = random(&[1, 4, 9], 15);
    let targets = [3, IGNORE, 0, 8];
    let kept = Tensor::new(&[0u32, 2, 3], &Device::Cpu).unwrap();
    let wanted = Tensor::new(&[3u32, 0, 8], &Device::Cpu)
        .unwrap()
        .unsqueeze(1)
        .unwrap();
    let plain = || {
        let rows = logits.reshape((4, 9))?.index_select(&kept, 0)?;
        let sums = rows.exp()?.sum_keepdim(1)?.log()?;
        (sums - rows.gather(&wanted, 1)?)?
            .mean_all()?
            .to_dtype(DType::F32)
    };
    agree(&[&logits], 2e-5, || cross_entropy(&logits, &targets), plain);
}
