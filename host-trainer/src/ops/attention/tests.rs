//! The operation against a plain Candle graph with a mask, and its gradients against Candle's own.

use candle_core::{D, DType, Device, Result, Tensor};

use super::super::tests::{agree, random};
use super::*;
use crate::model::plain::straight_through;

fn settings(heads: usize, kv_heads: usize, d_head: usize, window: usize) -> Settings {
    Settings {
        heads,
        kv_heads,
        d_head,
        window,
        rope_theta: 10_000.0,
        f16_cache: false,
    }
}

/// Interleaved pairs of `x [B, T, heads, d]` turned by `t theta^(-2j/d)`.
fn plain_rope(x: &Tensor, theta: f64) -> Result<Tensor> {
    let (b, t, heads, d) = x.dims4()?;
    let angles: Vec<f32> = (0..t)
        .flat_map(|i| (0..d / 2).map(move |j| (i, j)))
        .map(|(i, j)| (i as f64 * theta.powf(-2.0 * j as f64 / d as f64)) as f32)
        .collect();
    let angles = Tensor::from_vec(angles, (1, t, 1, d / 2), &Device::Cpu)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let pairs = x.reshape((b, t, heads, d / 2, 2))?;
    let (x, y) = (pairs.get_on_dim(4, 0)?, pairs.get_on_dim(4, 1)?);
    let first = (x.broadcast_mul(&cos)? - y.broadcast_mul(&sin)?)?;
    let second = (x.broadcast_mul(&sin)? + y.broadcast_mul(&cos)?)?;
    Tensor::stack(&[first, second], 4)?.reshape((b, t, heads, d))
}

/// 0 where position `t` sees position `j`, else far below any score: `[T, T]`.
fn mask(t: usize, window: usize) -> Result<Tensor> {
    let sees = |t: usize, j: usize| j <= t && (window == 0 || j + window > t);
    let values: Vec<f32> = (0..t * t)
        .map(|i| if sees(i / t, i % t) { 0.0 } else { -1e9 })
        .collect();
    Tensor::from_vec(values, (t, t), &Device::Cpu)
}

fn halves(x: &Tensor) -> Result<Tensor> {
    straight_through(x, &x.to_dtype(DType::F16)?.to_dtype(DType::F32)?)
}

fn plain(q: &Tensor, kv: &Tensor, s: &Settings) -> Result<Tensor> {
    let (b, t, _) = q.dims3()?;
    let (d, group) = (s.d_head, s.heads / s.kv_heads);
    let theta = f64::from(s.rope_theta);
    let heads = |x: &Tensor, from: usize, n: usize| {
        x.narrow(2, from, n * d)?
            .contiguous()?
            .reshape((b, t, n, d))
    };
    let q = plain_rope(&heads(q, 0, s.heads)?, theta)?;
    let mut k = plain_rope(&heads(kv, 0, s.kv_heads)?, theta)?;
    let mut v = heads(kv, s.kv_heads * d, s.kv_heads)?;
    if s.f16_cache {
        (k, v) = (halves(&k)?, halves(&v)?);
    }
    let shared = |x: &Tensor| {
        let wide = (b, t, s.kv_heads, group, d);
        let x = x.unsqueeze(3)?.broadcast_as(wide)?.contiguous()?;
        x.reshape((b, t, s.heads, d))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (q.transpose(1, 2)?.contiguous()?, shared(&k)?, shared(&v)?);
    let scores = (q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))?;
    let scores = scores.broadcast_add(&mask(t, s.window)?)?;
    let largest = scores.max_keepdim(D::Minus1)?.detach();
    let p = scores.broadcast_sub(&largest)?.exp()?;
    let p = p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?;
    p.matmul(&v)?.transpose(1, 2)?.reshape((b, t, s.heads * d))
}

fn check(s: &Settings, batch: usize, tokens: usize, tolerance: f32) {
    let q = random(&[batch, tokens, s.heads * s.d_head], 31);
    let kv = random(&[batch, tokens, 2 * s.kv_heads * s.d_head], 32);
    agree(
        &[&q, &kv],
        tolerance,
        || attention(&q, &kv, s),
        || plain(&q, &kv, s),
    );
}

#[test]
fn attention_equals_the_plain_graph_over_several_tiles() {
    check(&settings(2, 2, 8, 0), 2, 150, 2e-5);
    check(&settings(1, 1, 6, 0), 1, 1, 2e-5);
}

#[test]
fn query_heads_share_keys_and_values_in_groups() {
    check(&settings(4, 2, 4, 0), 2, 20, 2e-5);
    check(&settings(6, 1, 4, 0), 1, 70, 2e-5);
}

#[test]
fn a_window_hides_what_is_further_back() {
    for window in [1, 5, 64, 100] {
        check(&settings(2, 1, 4, window), 1, 140, 2e-5);
    }
}

#[test]
fn keys_and_values_are_what_a_binary16_cache_gives_back() {
    let s = Settings {
        f16_cache: true,
        ..settings(2, 1, 8, 0)
    };
    // A key that is off by an ulp before it is rounded may round to its neighbour: 2^-11 of it.
    check(&s, 2, 30, 5e-4);
    let (q, kv) = (random(&[1, 9, 16], 33), random(&[1, 9, 16], 34));
    let values = |f16_cache| {
        let s = Settings {
            f16_cache,
            ..s.clone()
        };
        let out = attention(&q, &kv, &s).unwrap();
        out.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_ne!(values(true), values(false));
}
