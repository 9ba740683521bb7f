//! Small dense kernels on row-major slices, in the axpy form over 16 lanes, which the compiler
//! keeps in registers. A head's matrices are some 32x32: a general matrix library would spend its
//! time on packing.
//!
//! `mul_add` is one instruction wherever `super::simd` finds AVX2 or better, and on AArch64.

use super::super::math;

const LANES: usize = 16;
const ROWS: usize = 4;

/// `out [m, n] += a [m, k] * b [k, n]`.
#[inline(always)]
pub fn add_matmul(out: &mut [f32], a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize)) {
    let whole = m - m % ROWS;
    for r in (0..whole).step_by(ROWS) {
        let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &a[(r + i) * k..][..k]);
        rows_times(
            &mut out[r * n..][..ROWS * n],
            |p| rows.map(|row| row[p]),
            b,
            n,
            k,
        );
    }
    for r in whole..m {
        let row = &a[r * k..][..k];
        rows_times(&mut out[r * n..][..n], |p| [row[p]], b, n, k);
    }
}

/// `out [m, n] += a^T * b` for `a [k, m]`, `b [k, n]`.
#[inline(always)]
pub fn add_matmul_at(out: &mut [f32], a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize)) {
    let whole = m - m % ROWS;
    let a = &a[..k * m];
    for r in (0..whole).step_by(ROWS) {
        let column = |p: usize| -> [f32; ROWS] {
            let at = p * m + r;
            a[at..at + ROWS].try_into().expect("ROWS values")
        };
        rows_times(&mut out[r * n..][..ROWS * n], column, b, n, k);
    }
    for r in whole..m {
        rows_times(&mut out[r * n..][..n], |p| [a[p * m + r]], b, n, k);
    }
}

/// `out [R, n] += c * b` where `column(p)` is column `p` of `c [R, k]`.
#[inline(always)]
fn rows_times<const R: usize>(
    out: &mut [f32],
    column: impl Fn(usize) -> [f32; R],
    b: &[f32],
    n: usize,
    k: usize,
) {
    let whole = n - n % LANES;
    for j in (0..whole).step_by(LANES) {
        let mut acc = [[0.0f32; LANES]; R];
        for (p, row) in b.chunks_exact(n).take(k).enumerate() {
            let row: &[f32; LANES] = row[j..j + LANES].try_into().expect("LANES values");
            let c = column(p);
            for i in 0..R {
                for l in 0..LANES {
                    acc[i][l] = c[i].mul_add(row[l], acc[i][l]);
                }
            }
        }
        for i in 0..R {
            let out = &mut out[i * n + j..][..LANES];
            for l in 0..LANES {
                out[l] += acc[i][l];
            }
        }
    }
    for (p, row) in b.chunks_exact(n).take(k).enumerate() {
        let c = column(p);
        for i in 0..R {
            for j in whole..n {
                out[i * n + j] += c[i] * row[j];
            }
        }
    }
}

/// `out [cols, rows] = a [rows, cols]^T`.
#[inline(always)]
pub fn transpose(out: &mut [f32], a: &[f32], rows: usize, cols: usize) {
    for r in 0..rows {
        for c in 0..cols {
            out[c * rows + r] = a[r * cols + c];
        }
    }
}

/// Turns the interleaved pairs of `x` by the angles whose cosines and sines are given.
#[inline(always)]
pub fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, c), s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * c - b * s;
        pair[1] = a * s + b * c;
    }
}

/// Turns back: the transpose, hence the gradient, of [`rotate`].
#[inline(always)]
pub fn rotate_back(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, c), s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * c + b * s;
        pair[1] = b * c - a * s;
    }
}

/// Centres `z` and divides it by its deviation (biased variance plus `eps`); returns the factor.
#[inline(always)]
pub fn normalise(z: &mut [f32], eps: f32) -> f32 {
    let mean = math::sum(z) / z.len() as f32;
    z.iter_mut().for_each(|z| *z -= mean);
    let r = 1.0 / (math::dot(z, z) / z.len() as f32 + eps).sqrt();
    z.iter_mut().for_each(|z| *z *= r);
    r
}

/// Gradient through [`normalise`], in place: `r (d - mean(d) - x mean(d x))` with `x` its result.
#[inline(always)]
pub fn normalise_grad(d: &mut [f32], x: &[f32], r: f32) {
    let n = d.len() as f32;
    let (mean, along) = (math::sum(d) / n, math::dot(d, x) / n);
    for (d, x) in d.iter_mut().zip(x) {
        *d = r * (*d - mean - x * along);
    }
}

/// `out += scale * x`.
#[inline(always)]
pub fn axpy(out: &mut [f32], scale: f32, x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o += scale * x;
    }
}

/// Every row of `rows` becomes `value`.
#[inline(always)]
pub fn fill_rows(rows: &mut [f32], value: &[f32]) {
    for row in rows.chunks_exact_mut(value.len()) {
        row.copy_from_slice(value);
    }
}
