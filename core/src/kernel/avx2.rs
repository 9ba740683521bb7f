//! AVX2: integer dot products by `vpmaddubsw`; float kernels are the shared bodies compiled for 256-bit registers.
//!
//! Every function here requires AVX2; `kernel::Backend` hands out the AVX2 value only where it is present.

use super::{Quantised, lanes, scalar};
use crate::model::{Matrix, Weights};
use core::arch::x86_64::*;

/// `out[t, r] = row_r . activations_t`, see [`super::Backend::matmul`].
#[target_feature(enable = "avx2")]
pub(crate) fn matmul(m: &Matrix<'_>, q: &Quantised<'_>, x: &[f32], out: &mut [f32]) {
    match m.weights {
        Weights::T2(data, scale) => super::rows(
            data,
            m,
            q,
            out,
            |r| scale.of(r),
            |row, q, sum| t2_dot(row, q, sum),
        ),
        Weights::T5(data, scale) => super::rows(
            data,
            m,
            q,
            out,
            |r| scale.of(r),
            |row, q, sum| t5_dot(row, q, sum),
        ),
        Weights::I8(data, scales) => super::rows(
            data,
            m,
            q,
            out,
            |r| super::at(scales, r),
            |row, q, _| i8_dot(row, q),
        ),
        Weights::Float(data) => super::float_rows(data, m, x, out),
    }
}

/// `sum_i T_i q_i` over one `t2` row: unsigned codes times activations, minus the activations' sum.
#[inline]
#[target_feature(enable = "avx2")]
fn t2_dot(row: &[u8], q: &[i8], sum: i32) -> i32 {
    planes_dot::<4>(row, q, |bytes| t2_codes(bytes)) - sum
}

/// `sum_i T_i q_i` over one `t5` row.
#[inline]
#[target_feature(enable = "avx2")]
fn t5_dot(row: &[u8], q: &[i8], sum: i32) -> i32 {
    planes_dot::<5>(row, q, |bytes| t5_codes(bytes)) - sum
}

/// Walks the blocks as `scalar` does, 32 bytes at a time; a rest is padded with bytes whose codes are all 0.
#[inline]
#[target_feature(enable = "avx2")]
fn planes_dot<const P: usize>(
    row: &[u8],
    q: &[i8],
    codes: impl Fn(__m256i) -> [__m256i; P],
) -> i32 {
    let mut total = _mm256_setzero_si256();
    for (b, block) in row.chunks(64).enumerate() {
        let q = q.get(b * 64 * P..).unwrap_or(&[]);
        let (vectors, tail) = block.as_chunks::<32>();
        for (j, bytes) in vectors.iter().enumerate() {
            total = add_planes(total, codes(load(bytes)), q, block.len(), j * 32);
        }
        if !tail.is_empty() {
            let mut padded = [0; 32];
            padded
                .iter_mut()
                .zip(tail)
                .for_each(|(to, &from)| *to = from);
            total = add_planes(
                total,
                codes(load(&padded)),
                q,
                block.len(),
                vectors.len() * 32,
            );
        }
    }
    horizontal_sum(total)
}

/// Adds 32 bytes' codes times activations: plane `p` meets `q[p * stride + at..]`. Pairs stay below
/// `P * 2 * 3 * 127` in 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn add_planes<const P: usize>(
    total: __m256i,
    planes: [__m256i; P],
    q: &[i8],
    stride: usize,
    at: usize,
) -> __m256i {
    let mut pairs = _mm256_setzero_si256();
    let mut p = 0;
    while p < P {
        let products = _mm256_maddubs_epi16(planes[p], load_q(q, p * stride + at));
        pairs = _mm256_add_epi16(pairs, products);
        p += 1;
    }
    _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn t2_codes(bytes: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(bytes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(bytes), mask),
    ]
}

/// Digit of `x` is `x * 3 / 256`, hence the number of thresholds 86 and 171 that `x` reaches; the next digit is
/// that of `3 x mod 256`.
#[inline]
#[target_feature(enable = "avx2")]
fn t5_codes(bytes: __m256i) -> [__m256i; 5] {
    let mut x = bytes;
    let mut out = [bytes; 5];
    let mut p = 0;
    while p < out.len() {
        let one = at_least(x, _mm256_set1_epi8(86));
        let two = at_least(x, _mm256_set1_epi8(171u8 as i8));
        out[p] = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two));
        x = _mm256_add_epi8(_mm256_add_epi8(x, x), x);
        p += 1;
    }
    out
}

/// -1 in each unsigned byte that reaches the threshold.
#[inline]
#[target_feature(enable = "avx2")]
fn at_least(x: __m256i, threshold: __m256i) -> __m256i {
    _mm256_cmpeq_epi8(_mm256_max_epu8(x, threshold), x)
}

/// `sum_i W_i q_i` over one row of signed bytes: `|w|` times `q` with `w`'s sign. `|w| <= 128` and `|q| <= 127`, so
/// the pairs of `vpmaddubsw` do not saturate.
#[inline]
#[target_feature(enable = "avx2")]
fn i8_dot(row: &[i8], q: &[i8]) -> i32 {
    let (rows, row_tail) = row.as_chunks::<32>();
    let (qs, _) = q.as_chunks::<32>();
    let mut total = _mm256_setzero_si256();
    for (w, q) in rows.iter().zip(qs) {
        let (w, q) = (load(bytemuck::cast_ref(w)), load(bytemuck::cast_ref(q)));
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    let tail = q.get(rows.len() * 32..).unwrap_or(&[]);
    horizontal_sum(total) + scalar::i8_dot(row_tail, tail)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that the unaligned load reads.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// 32 activations from `at`. Codes are followed by enough zeros (`memory::padded`) for every load that is asked for.
#[inline]
#[target_feature(enable = "avx2")]
fn load_q(q: &[i8], at: usize) -> __m256i {
    match q.get(at..).and_then(|q| q.first_chunk::<32>()) {
        Some(codes) => load(bytemuck::cast_ref(codes)),
        None => _mm256_setzero_si256(),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn horizontal_sum(v: __m256i) -> i32 {
    let halves = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let pairs = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b00_00_11_10>(halves));
    _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<0b01>(pairs)))
}

float_kernels!(stamp, ["avx2"]);
