//! Causal grouped-query attention with RoPE and an optional sliding window, as one operation.
//!
//! Query head `h` reads key and value head `h / (H / kv_heads)`; scores are `q.k / sqrt(d)` over the visible
//! positions. Keys and values are rounded as the session's cache rounds them, and gradients go straight through that.
//! Scores are made again in the backward pass, a tile of queries at a time: nothing is kept that grows with the
//! square of the row.

mod head;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use half::f16;
use rayon::prelude::*;

use super::ttt::kernels::{rotate, rotate_back};
use super::{result, simd, tensor, values, with_values};
use head::{Head, KeyGrads};

/// Fixed numbers of an attention layer.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Heads of the queries, H.
    pub heads: usize,
    /// Heads of keys and values; divides H.
    pub kv_heads: usize,
    /// Width of a head, d.
    pub d_head: usize,
    /// Positions that a token sees, itself included; 0 for all before it.
    pub window: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Whether keys and values are rounded to binary16, as in the session's cache.
    pub f16_cache: bool,
}

impl Settings {
    /// Query heads that share a key and value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn widths(&self) -> (usize, usize) {
        (self.heads * self.d_head, self.kv_heads * self.d_head)
    }

    /// First position that position `t` sees.
    fn first_visible(&self, t: usize) -> usize {
        match self.window {
            0 => 0,
            window => (t + 1).saturating_sub(window),
        }
    }
}

/// Output `[B, T, H d]` for queries `q [B, T, H d]` and keys and values `kv [B, T, 2 kv_heads d]`, before RoPE.
///
/// # Errors
/// When shapes disagree or an operand is not f32 on the CPU.
pub fn attention(q: &Tensor, kv: &Tensor, settings: &Settings) -> Result<Tensor> {
    let (_, t, _) = q.dims3()?;
    let op = Attention {
        rope: Rope::new(settings, t),
        settings: settings.clone(),
    };
    q.contiguous()?.apply_op2(&kv.contiguous()?, op)
}

/// Cosines and sines of every position, `[T, d / 2]` each.
struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Angles are products of f32, as in the core: at far positions their rounding is no longer small.
    fn new(s: &Settings, tokens: usize) -> Self {
        let power = |j: usize| (-2.0 * j as f64) / s.d_head as f64;
        let frequencies: Vec<f32> = (0..s.d_head / 2)
            .map(|j| f64::from(s.rope_theta).powf(power(j)) as f32)
            .collect();
        let angles = (0..tokens).flat_map(|i| frequencies.iter().map(move |f| i as f32 * f));
        let (cos, sin) = angles
            .map(|a| (f64::from(a).cos() as f32, f64::from(a).sin() as f32))
            .unzip();
        Self { cos, sin }
    }

    #[inline(always)]
    fn each(&self, rows: &mut [f32], d: usize, turn: impl Fn(&mut [f32], &[f32], &[f32])) {
        let angles = self.cos.chunks(d / 2).zip(self.sin.chunks(d / 2));
        for (row, (cos, sin)) in rows.chunks_exact_mut(d).zip(angles) {
            turn(row, cos, sin);
        }
    }
}

struct Attention {
    settings: Settings,
    rope: Rope,
}

/// One row of the batch: `q [T, H d]`, `kv [T, 2 kv_heads d]`.
#[derive(Clone, Copy)]
struct Row<'a> {
    q: &'a [f32],
    kv: &'a [f32],
}

impl Attention {
    fn dims(&self, q: &Shape, kv: &Shape) -> Result<(usize, usize)> {
        let (s, (width, kv_width)) = (&self.settings, self.settings.widths());
        let (b, t, found) = q.dims3()?;
        if found != width || kv.dims() != [b, t, 2 * kv_width] {
            bail!("attention: queries {q:?} and keys {kv:?} do not fit {s:?}");
        }
        Ok((b, t))
    }

    /// Queries after RoPE, scaled, of one head: `[T, d]`.
    fn queries(&self, row: Row<'_>, head: usize) -> Vec<f32> {
        let (d, (width, _)) = (self.settings.d_head, self.settings.widths());
        let mut q = columns(row.q, width, head * d, d);
        let scale = 1.0 / (d as f32).sqrt();
        self.rope.each(&mut q, d, |x, cos, sin| {
            rotate(x, cos, sin);
            x.iter_mut().for_each(|x| *x *= scale);
        });
        q
    }

    /// Keys after RoPE and values of one head as the cache holds them: `[T, d]` each.
    fn keys_values(&self, row: Row<'_>, head: usize) -> [Vec<f32>; 2] {
        let (d, (_, width)) = (self.settings.d_head, self.settings.widths());
        let mut k = columns(row.kv, 2 * width, head * d, d);
        let mut v = columns(row.kv, 2 * width, width + head * d, d);
        self.rope.each(&mut k, d, rotate);
        if self.settings.f16_cache {
            for x in k.iter_mut().chain(&mut v) {
                *x = f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32();
            }
        }
        [k, v]
    }

    /// Outputs of the query heads that share key head `kv`: `[T, d]` each.
    fn forward(&self, row: Row<'_>, kv: usize) -> Vec<Vec<f32>> {
        let s = &self.settings;
        let [k, v] = self.keys_values(row, kv);
        let heads = kv * s.group()..(kv + 1) * s.group();
        heads
            .map(|h| Head::new(s, &self.queries(row, h), &k, &v).forward())
            .collect()
    }

    /// Gradients of the query heads that share key head `kv`, `[T, d]` each, and of its keys and values.
    fn backward(&self, row: Row<'_>, grad: &[f32], kv: usize) -> (Vec<Vec<f32>>, KeyGrads) {
        let (s, d) = (&self.settings, self.settings.d_head);
        let [k, v] = self.keys_values(row, kv);
        let mut keys = KeyGrads::zeros(k.len());
        let heads = kv * s.group()..(kv + 1) * s.group();
        let queries = heads.map(|h| {
            let q = self.queries(row, h);
            let grad = columns(grad, s.heads * d, h * d, d);
            let mut dq = Head::new(s, &q, &k, &v).backward(&grad, &mut keys);
            let scale = 1.0 / (d as f32).sqrt();
            self.rope.each(&mut dq, d, |x, cos, sin| {
                rotate_back(x, cos, sin);
                x.iter_mut().for_each(|x| *x *= scale);
            });
            dq
        });
        let queries = queries.collect();
        self.rope.each(&mut keys.k, d, rotate_back);
        (queries, keys)
    }

    /// Runs `f` for every row of the batch and every key and value head; results in that order.
    fn for_all<R: Send>(
        &self,
        (b, t): (usize, usize),
        q: &[f32],
        kv: &[f32],
        f: impl Fn(usize, Row<'_>, usize) -> R + Sync,
    ) -> Vec<R> {
        let (heads, (width, kv_width)) = (self.settings.kv_heads, self.settings.widths());
        (0..b * heads)
            .into_par_iter()
            .map(|task| {
                let i = task / heads;
                let row = Row {
                    q: &q[i * t * width..][..t * width],
                    kv: &kv[i * t * 2 * kv_width..][..t * 2 * kv_width],
                };
                f(i, row, task % heads)
            })
            .collect()
    }
}

/// Columns `start..start + n` of a matrix `width` wide.
fn columns(rows: &[f32], width: usize, start: usize, n: usize) -> Vec<f32> {
    let rows = rows.chunks_exact(width);
    rows.flat_map(|row| &row[start..start + n])
        .copied()
        .collect()
}

/// The reverse of [`columns`].
fn put_columns(rows: &mut [f32], width: usize, start: usize, values: &[f32], n: usize) {
    for (row, values) in rows.chunks_exact_mut(width).zip(values.chunks_exact(n)) {
        row[start..start + n].copy_from_slice(values);
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, t) = self.dims(l1.shape(), l2.shape())?;
        let (q, kv) = (values(s1, l1)?, values(s2, l2)?);
        let (s, d, (width, _)) = (&self.settings, self.settings.d_head, self.settings.widths());
        let heads = self.for_all((b, t), q, kv, |_, row, kv| self.forward(row, kv));
        let mut out = vec![0.0; q.len()];
        out.par_chunks_mut(t * width)
            .zip(heads.par_chunks(s.kv_heads))
            .for_each(|(out, groups)| {
                for (h, o) in groups.iter().flatten().enumerate() {
                    put_columns(out, width, h * d, o, d);
                }
            });
        result(out, l1.shape())
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (b, t) = self.dims(q.shape(), kv.shape())?;
        let (s, d, (width, kv_width)) =
            (&self.settings, self.settings.d_head, self.settings.widths());
        let heads = with_values([q, kv, &grad.contiguous()?], |[q, kv, grad]| {
            Ok(self.for_all((b, t), q, kv, |i, row, kv| {
                self.backward(row, &grad[i * t * width..][..t * width], kv)
            }))
        })?;
        let (mut dq, mut dkv) = (vec![0.0; q.elem_count()], vec![0.0; kv.elem_count()]);
        (dq.par_chunks_mut(t * width))
            .zip(dkv.par_chunks_mut(t * 2 * kv_width))
            .zip(heads.par_chunks(s.kv_heads))
            .for_each(|((dq, dkv), groups)| {
                for (h, q) in groups.iter().flat_map(|(q, _)| q).enumerate() {
                    put_columns(dq, width, h * d, q, d);
                }
                for (j, (_, keys)) in groups.iter().enumerate() {
                    put_columns(dkv, 2 * kv_width, j * d, &keys.k, d);
                    put_columns(dkv, 2 * kv_width, kv_width + j * d, &keys.v, d);
                }
            });
        Ok((Some(tensor(dq, q.shape())?), Some(tensor(dkv, kv.shape())?)))
    }
}

#[cfg(test)]
mod tests;
