//! Float kernels, written once over lanes: every backend compiles these same bodies for its own registers.
//!
//! Element-wise work vectorises at any width with the same bits. Sums use [`LANES`] virtual lanes and a fixed
//! tree (docs/NUMERICS.md, rule 3), so that 4, 8 and 16 wide registers, and none, agree.

use super::halves::Stored;
use super::ttt_mlp::gelu;
use crate::format::Activation;
use crate::math::{exp, finite, is_finite, silu, sqrt};
use crate::model::{Floats, HALVES};
use crate::pieces::Cut;

/// Virtual lanes of a sum.
pub(crate) const LANES: usize = 16;

/// `sum_e term(a_e, b_e)`: element `e` into lane `e mod 16`, ascending, then lanes `l + 8`, `+ 4`, `+ 2`, `+ 1`.
#[inline(always)]
fn reduce<T: Copy>(a: &[T], b: &[f32], term: impl Fn(T, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    // no `zip`: on a microcontroller it stays a call that divides
    while let (Some(a), Some(b)) = (a.next(), b.next()) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += term(a, b);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *lane += term(a, b);
    }
    tree(lanes, |a, b| a + b)
}

/// Joins the lanes: `l` with `l + 8`, then `+ 4`, `+ 2`, `+ 1`.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn tree(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        let mut l = 0;
        while l < half {
            lanes[l % LANES] = join(lanes[l % LANES], lanes[(l + half) % LANES]);
            l += 1;
        }
        half /= 2;
    }
    lanes[0]
}

/// `sum_e a_e b_e`.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    reduce(a, b, |a, b| a * b)
}

/// `sum_e x_e`.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn sum(x: &[f32]) -> f32 {
    reduce(x, x, |x, _| x)
}

/// `y_e += s * x_e`.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn axpy(y: &mut [f32], s: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

/// `y_e += sum_i c(i) * rows[i][e]`, `i` ascending, one chain of additions for each `e`; `rows` is `[n, d]` where `y` is
/// `[d]`. Blocks of `y` stay in registers while all rows pass, where there are registers to hold them.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn axpys(y: &mut [f32], rows: &[f32], c: impl Fn(usize) -> f32) {
    let d = y.len();
    if !WIDE {
        for (i, row) in rows.pieces(d).enumerate() {
            axpy(y, c(i), row);
        }
        return;
    }
    let mut at = 0;
    while at + 64 <= d {
        axpys_block::<64>(y, at, rows, &c);
        at += 64;
    }
    while at + 16 <= d {
        axpys_block::<16>(y, at, rows, &c);
        at += 16;
    }
    while at < d {
        axpys_block::<1>(y, at, rows, &c);
        at += 1;
    }
}

/// [`axpys`] of two vectors over the same rows, which are read once.
#[inline(always)]
pub(crate) fn axpys_two(y: &mut [f32], z: &mut [f32], rows: &[f32], c: impl Fn(usize) -> [f32; 2]) {
    let d = y.len().min(z.len());
    if !WIDE {
        for (i, row) in rows.pieces(d).enumerate() {
            let [a, b] = c(i);
            for ((y, z), &x) in y.iter_mut().zip(z.iter_mut()).zip(row) {
                *y += a * x;
                *z += b * x;
            }
        }
        return;
    }
    let mut at = 0;
    while at + 32 <= d {
        axpys_two_block::<32>(y, z, at, rows, &c);
        at += 32;
    }
    while at + 16 <= d {
        axpys_two_block::<16>(y, z, at, rows, &c);
        at += 16;
    }
    while at < d {
        axpys_two_block::<1>(y, z, at, rows, &c);
        at += 1;
    }
}

/// Whether the machine has vector registers to hold a block.
pub(crate) const WIDE: bool = cfg!(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "wasm32"
));

/// Elements `at..at + N` of [`axpys`]. Only where there are registers: there `chunks_exact`, whose end is compared once a
/// row, is worth its division.
#[inline(always)]
fn axpys_block<const N: usize>(y: &mut [f32], at: usize, rows: &[f32], c: impl Fn(usize) -> f32) {
    let d = y.len().max(1);
    let Some(y) = y.get_mut(at..).and_then(|y| y.first_chunk_mut::<N>()) else {
        return;
    };
    let mut sums = *y;
    for (i, row) in rows.chunks_exact(d).enumerate() {
        if let Some(row) = row.get(at..).and_then(|row| row.first_chunk::<N>()) {
            let c = c(i);
            sums.iter_mut().zip(row).for_each(|(y, &x)| *y += c * x);
        }
    }
    *y = sums;
}

/// Elements `at..at + N` of [`axpys_two`].
#[inline(always)]
fn axpys_two_block<const N: usize>(
    y: &mut [f32],
    z: &mut [f32],
    at: usize,
    rows: &[f32],
    c: impl Fn(usize) -> [f32; 2],
) {
    let d = y.len().max(1);
    let y = y.get_mut(at..).and_then(|y| y.first_chunk_mut::<N>());
    let z = z.get_mut(at..).and_then(|z| z.first_chunk_mut::<N>());
    let Some((y, z)) = y.zip(z) else {
        return;
    };
    let (mut ys, mut zs) = (*y, *z);
    for (i, row) in rows.chunks_exact(d).enumerate() {
        if let Some(row) = row.get(at..).and_then(|row| row.first_chunk::<N>()) {
            let [a, b] = c(i);
            ys.iter_mut().zip(row).for_each(|(y, &x)| *y += a * x);
            zs.iter_mut().zip(row).for_each(|(z, &x)| *z += b * x);
        }
    }
    (*y, *z) = (ys, zs);
}

/// Copies without the length check of `copy_from_slice`, which could panic.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn copy(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
}

/// `h_e += x_e`, left out where that is not finite: what a block makes of absurd weights must not be the end of all others'
/// work.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn add(h: &mut [f32], x: &[f32]) {
    for (h, &x) in h.iter_mut().zip(x) {
        let sum = *h + x;
        *h = if is_finite(sum) { sum } else { *h };
    }
}

/// Everything finite, see [`finite`]: for what is kept or shown.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn hold(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = finite(*x));
}

/// RMSNorm in place: `x * (1 / sqrt(mean(x^2) + eps)) * gain` (Zhang and Sennrich 2019).
#[inline(always)]
pub(crate) fn rms_norm(x: &mut [f32], gain: Floats<'_>, eps: f32) {
    let mean = dot(x, x) / x.len() as f32;
    let scale = 1.0 / sqrt(mean + eps);
    match gain {
        Floats::F32(gain) => gained(x, scale, gain),
        Floats::F16(gain) if HALVES => gained(x, scale, gain),
        Floats::F16(_) => {}
    }
}

#[inline(always)]
fn gained<T: Stored>(x: &mut [f32], scale: f32, gain: &[T]) {
    x.iter_mut()
        .zip(gain)
        .for_each(|(x, g)| *x = (*x * scale) * g.widen());
}

/// Layer norm in place: `(x - mean) * (1 / sqrt(var + eps)) * gain + bias`, variance over `n` (Ba et al. 2016).
#[inline(always)]
pub(crate) fn layer_norm(x: &mut [f32], gain: Floats<'_>, bias: Floats<'_>, eps: f32) {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    x.iter_mut().for_each(|x| *x -= mean);
    let scale = 1.0 / sqrt(dot(x, x) / n + eps);
    match gain {
        Floats::F32(gain) => gained(x, scale, gain),
        Floats::F16(gain) => gained(x, scale, gain),
    }
    add_stored(x, bias);
}

/// `h_e += x_e`, `x` as stored.
#[inline(always)]
pub(crate) fn add_stored(h: &mut [f32], x: Floats<'_>) {
    match x {
        Floats::F32(x) => h.iter_mut().zip(x).for_each(|(h, &x)| *h += x),
        Floats::F16(x) => h.iter_mut().zip(x).for_each(|(h, &x)| *h += x.widen()),
    }
}

/// Absmax quantisation to int8 (BitNet b1.58, section 2): `q = round_half_even(x * (127 / a))`, `a = max|x|`.
/// Returns `(a / 127, sum q)`; codes behind `x` are zeroed. An `a` below 2^-100 or not finite gives zeros.
#[inline(always)]
pub(crate) fn quantise(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, ties to even
    let absmax = x
        .iter()
        .fold(0, |max: u32, x| max.max(x.to_bits() & 0x7FFF_FFFF));
    let a = f32::from_bits(absmax);
    let usable = a >= f32::from_bits(0x0D80_0000) && a < f32::INFINITY;
    let (factor, scale) = if usable {
        (127.0 / a, a / 127.0)
    } else {
        (0.0, 0.0)
    };
    let Some((codes, padding)) = codes.split_at_mut_checked(x.len()) else {
        return (0.0, 0);
    };
    let mut sum = 0i32;
    for (x, code) in x.iter().zip(codes) {
        let scaled = if usable { *x * factor } else { 0.0 };
        let q = (scaled + ROUND).to_bits() as i8;
        *code = q;
        sum += i32::from(q);
    }
    padding.fill(0);
    (scale, sum)
}

/// Causal depthwise convolution of width 4 in place on one token; `history` is `[3, D]`, oldest first,
/// `taps` is `[4, D]`, the last one for the current token.
#[inline(always)]
pub(crate) fn conv(x: &mut [f32], history: &mut [f32], taps: Floats<'_>) {
    match taps {
        Floats::F32(taps) => conv_with(x, history, taps),
        Floats::F16(taps) if HALVES => conv_with(x, history, taps),
        Floats::F16(_) => {}
    }
}

#[inline(always)]
fn conv_with<T: Stored>(x: &mut [f32], history: &mut [f32], taps: &[T]) {
    let d = x.len();
    let (Some((s0, rest)), Some((w0, taps))) =
        (history.split_at_mut_checked(d), taps.split_at_checked(d))
    else {
        return;
    };
    let (Some((s1, s2)), Some((w1, taps))) =
        (rest.split_at_mut_checked(d), taps.split_at_checked(d))
    else {
        return;
    };
    let Some((w2, w3)) = taps.split_at_checked(d) else {
        return;
    };
    let state = s0.iter_mut().zip(s1).zip(s2);
    let weights = w0.iter().zip(w1).zip(w2).zip(w3);
    for ((x, ((s0, s1), s2)), (((&w0, &w1), &w2), &w3)) in x.iter_mut().zip(state).zip(weights) {
        let current = *x;
        let [w0, w1, w2, w3] = [w0, w1, w2, w3].map(T::widen);
        *x = ((w0 * *s0 + w1 * *s1) + w2 * *s2) + w3 * current;
        *s0 = *s1;
        *s1 = *s2;
        *s2 = finite(current);
    }
}

/// `y_e *= silu(g_e)`.
#[inline(always)]
pub(crate) fn gate(y: &mut [f32], g: &[f32]) {
    y.iter_mut().zip(g).for_each(|(y, &g)| *y *= silu(g));
}

/// `y_e *= gelu(g_e)`, GELU in its tanh form.
#[inline(always)]
pub(crate) fn gelu_gate(y: &mut [f32], g: &[f32]) {
    y.iter_mut().zip(g).for_each(|(y, &g)| *y *= gelu(g).0);
}

/// Gated activation in place: `gate_e = act(gate_e) * up_e`.
#[inline(always)]
pub(crate) fn activate(gate: &mut [f32], up: &[f32], activation: Activation) {
    match activation {
        Activation::Silu => gate
            .iter_mut()
            .zip(up)
            .for_each(|(g, &u)| *g = silu(*g) * u),
        Activation::Relu2 => gate.iter_mut().zip(up).for_each(|(g, &u)| {
            let r = if *g > 0.0 { *g } else { 0.0 };
            *g = (r * r) * u;
        }),
    }
}

/// `weights . x` for one stored row, by the sum rule.
#[inline(always)]
pub(crate) fn dot_stored(weights: Floats<'_>, x: &[f32]) -> f32 {
    match weights {
        Floats::F32(row) => dot(row, x),
        Floats::F16(row) if HALVES => dot_f16(row, x),
        Floats::F16(_) => 0.0,
    }
}

#[inline(always)]
fn dot_f16(row: &[u16], x: &[f32]) -> f32 {
    reduce(row, x, |w, x| w.widen() * x)
}

/// `exp((x_e - max) / temperature)` in place: the sampler's unnormalised probabilities. NaN counts as impossible.
#[inline(always)]
pub(crate) fn softmax_terms(x: &mut [f32], max: f32, temperature: f32) {
    for x in x.iter_mut() {
        *x = if x.is_nan() {
            0.0
        } else {
            exp((*x - max) / temperature)
        };
    }
}

/// Rotates adjacent pairs of a head by the angles of `row = [c_0, s_0, …]` (Su et al. 2021, RoFormer).
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32], row: &[f32]) {
    let pairs = x.as_chunks_mut::<2>().0.iter_mut();
    for ([a, b], [c, s]) in pairs.zip(row.as_chunks::<2>().0) {
        (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
    }
}
