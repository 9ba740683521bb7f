//! The arithmetic, and the choice of who does it.
//!
//! Down the folder: `scalar` (integer dot products, the reference), `lanes` and `ttt` (float kernels, one body for all).
//! Across: one file an instruction set. Every backend gives the same bits (docs/NUMERICS.md); which one runs
//! is decided once, by [`Backend::detect`].

#[macro_use]
mod table;
#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod lanes;
mod scalar;
#[cfg(test)]
mod tests;
pub(crate) mod ttt;

use crate::model::{Floats, Matrix};

/// A set of kernels that this machine can run. A value is the proof that the instructions exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

#[cfg(target_arch = "x86_64")]
cpufeatures::new!(has_avx2, "avx2");

impl Backend {
    /// Plain Rust, everywhere.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest backend of this machine. `--cfg bitttt_backend="scalar"` forces the reference at build time.
    pub fn detect() -> Self {
        if cfg!(bitttt_backend = "scalar") {
            return Self::SCALAR;
        }
        Self::all().last().unwrap_or(Self::SCALAR)
    }

    /// Every backend that this machine can run, slowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let found = [
            Some(Self::SCALAR),
            has_avx2::get().then_some(Self(Kind::Avx2)),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let found = [Some(Self::SCALAR)];
        found.into_iter().flatten()
    }

    /// The backend of this name, if the machine can run it.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::all().find(|backend| backend.name() == name)
    }

    /// `scalar`, `avx2`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
        }
    }

    /// Matrix times activations, `out[t, r]` for tokens `t` and rows `r`. Integer weights take the quantised
    /// activations, float weights the activations themselves, `x [n, cols]`.
    pub(crate) fn matmul(self, m: &Matrix<'_>, q: &Quantised<'_>, x: &[f32], out: &mut [f32]) {
        match self.0 {
            Kind::Scalar => scalar::matmul(m, q, x, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Kind::Avx2` exists only where `all` found AVX2.
            Kind::Avx2 => unsafe { avx2::matmul(m, q, x, out) },
        }
    }
}

/// Quantised activations of `n` tokens: codes `[n, stride]` padded with zeros, `a / 127` and `sum q` a token.
pub(crate) struct Quantised<'a> {
    pub stride: usize,
    pub codes: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [i32],
}

/// Rows outside, in groups of `R`, tokens inside: each weight is read once for all tokens, each activation once for
/// `R` rows. `dot(r, codes, sum)` gives the sums of rows `r..r + R`.
#[inline(always)]
fn rows<const R: usize>(
    range: core::ops::Range<usize>,
    m: &Matrix<'_>,
    q: &Quantised<'_>,
    out: &mut [f32],
    scale: impl Fn(usize) -> f32,
    dot: impl Fn(usize, &[i8], i32) -> [i32; R],
) {
    let mut r = range.start;
    while r + R <= range.end {
        let codes = q.codes.chunks_exact(q.stride.max(1));
        for (t, ((codes, &token), &sum)) in codes.zip(q.scales).zip(q.sums).enumerate() {
            let sums = dot(r, codes, sum);
            let out = out.get_mut(t * m.rows + r..).unwrap_or_default();
            for (i, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                *out = sum as f32 * (token * scale(r + i));
            }
        }
        r += R;
    }
}

/// Bytes of a matrix's row.
#[inline(always)]
fn row_width<W>(data: &[W], m: &Matrix<'_>) -> usize {
    data.len().checked_div(m.rows).unwrap_or(0)
}

/// Row `r` of `width` elements.
#[inline(always)]
fn row<W>(data: &[W], r: usize, width: usize) -> &[W] {
    data.get(r * width..)
        .and_then(|data| data.get(..width))
        .unwrap_or(&[])
}

#[inline(always)]
fn float_rows(data: Floats<'_>, m: &Matrix<'_>, x: &[f32], out: &mut [f32]) {
    for (x, out) in x
        .chunks_exact(m.cols.max(1))
        .zip(out.chunks_exact_mut(m.rows.max(1)))
    {
        for (r, out) in out.iter_mut().enumerate() {
            *out = lanes::dot_stored(data.row(r, m.cols), x);
        }
    }
}

#[inline(always)]
fn at(scales: &[f32], row: usize) -> f32 {
    scales.get(row).copied().unwrap_or(0.0)
}

float_kernels!(dispatch, []);
