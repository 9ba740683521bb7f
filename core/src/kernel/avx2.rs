//! AVX2: integer dot products by `vpmaddubsw`, four rows at a time; float kernels are the shared bodies compiled for
//! 256-bit registers.
//!
//! Every function here requires AVX2; `kernel::Backend` hands out the AVX2 value only where it is present.

use super::{Quantised, lanes, ttt};
use crate::model::{Matrix, Weights};
use core::arch::x86_64::*;

/// Rows that share the loads of activations.
const ROWS: usize = 4;

/// `out[t, r] = row_r . activations_t`, see [`super::Backend::matmul`].
#[target_feature(enable = "avx2")]
pub(crate) fn matmul(m: &Matrix<'_>, q: &Quantised<'_>, x: &[f32], out: &mut [f32]) {
    match m.weights {
        Weights::T2(data, scale) => {
            planes_matmul::<4>(data, m, q, out, |r| scale.of(r), |bytes| t2_next(bytes));
        }
        Weights::T5(data, scale) => {
            planes_matmul::<5>(data, m, q, out, |r| scale.of(r), |bytes| t5_next(bytes));
        }
        Weights::I8(data, scales) => {
            let width = super::row_width(data, m);
            let grouped = m.rows - m.rows % ROWS;
            let scale = |r| super::at(scales, r);
            super::rows(0..grouped, m, q, out, scale, |r, q, _| {
                i8_dot::<ROWS>(data, r, width, q)
            });
            super::rows(grouped..m.rows, m, q, out, scale, |r, q, _| {
                i8_dot::<1>(data, r, width, q)
            });
        }
        Weights::Float(data) => super::float_rows(data, m, x, out),
    }
}

/// A packed matrix of `P` planes; `next` takes bytes to the codes (weight + 1) of their next plane and to the bytes
/// that hold the planes after it.
#[inline]
#[target_feature(enable = "avx2")]
fn planes_matmul<const P: usize>(
    data: &[u8],
    m: &Matrix<'_>,
    q: &Quantised<'_>,
    out: &mut [f32],
    scale: impl Fn(usize) -> f32 + Copy,
    next: impl Fn(__m256i) -> (__m256i, __m256i) + Copy,
) {
    let width = super::row_width(data, m);
    let grouped = m.rows - m.rows % ROWS;
    super::rows(0..grouped, m, q, out, scale, |r, q, sum| {
        planes_dot::<P, ROWS>(data, r, width, q, next).map(|dot| dot - sum)
    });
    super::rows(grouped..m.rows, m, q, out, scale, |r, q, sum| {
        planes_dot::<P, 1>(data, r, width, q, next).map(|dot| dot - sum)
    });
}

/// Codes times activations of rows `first..first + R`, 32 bytes at a time. Bytes past a row's end count as zeros,
/// whose codes are all 0.
#[inline]
#[target_feature(enable = "avx2")]
fn planes_dot<const P: usize, const R: usize>(
    data: &[u8],
    first: usize,
    width: usize,
    q: &[i8],
    next: impl Fn(__m256i) -> (__m256i, __m256i),
) -> [i32; R] {
    let mut totals = [_mm256_setzero_si256(); R];
    let mut at = 0;
    while at < width {
        let block = at - at % 64;
        let stride = (width - block).min(64);
        let mut bytes = [_mm256_setzero_si256(); R];
        for (r, bytes) in bytes.iter_mut().enumerate() {
            *bytes = load_bytes(data, (first + r) * width + at, stride - at % 64);
        }
        let mut pairs = [_mm256_setzero_si256(); R]; // below P * 2 * 3 * 127 in 16 bits
        let mut plane = 0;
        while plane < P {
            let activations = load_q(q, block * P + plane * stride + at % 64);
            for (bytes, pairs) in bytes.iter_mut().zip(&mut pairs) {
                let (codes, rest) = next(*bytes);
                *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(codes, activations));
                *bytes = rest;
            }
            plane += 1;
        }
        for (total, pairs) in totals.iter_mut().zip(pairs) {
            *total = _mm256_add_epi32(*total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        at += 32;
    }
    horizontal_sums(totals)
}

/// Codes of the lowest plane, and the bytes shifted to the next one.
#[inline]
#[target_feature(enable = "avx2")]
fn t2_next(bytes: __m256i) -> (__m256i, __m256i) {
    (
        _mm256_and_si256(bytes, _mm256_set1_epi8(3)),
        _mm256_srli_epi16::<2>(bytes),
    )
}

/// A byte's digit is `byte * 3 / 256`, hence the number of thresholds 86 and 171 that it reaches; the next digit is
/// that of `3 * byte mod 256`.
#[inline]
#[target_feature(enable = "avx2")]
fn t5_next(bytes: __m256i) -> (__m256i, __m256i) {
    let one = at_least(bytes, _mm256_set1_epi8(86));
    let two = at_least(bytes, _mm256_set1_epi8(171u8 as i8));
    let codes = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two));
    (codes, _mm256_add_epi8(_mm256_add_epi8(bytes, bytes), bytes))
}

/// -1 in each unsigned byte that reaches the threshold.
#[inline]
#[target_feature(enable = "avx2")]
fn at_least(x: __m256i, threshold: __m256i) -> __m256i {
    _mm256_cmpeq_epi8(_mm256_max_epu8(x, threshold), x)
}

/// `sum_i W_i q_i` over rows of signed bytes: `|w|` times `q` with `w`'s sign. `|w| <= 128` and `|q| <= 127`, so the
/// pairs of `vpmaddubsw` do not saturate. Codes behind a row's end meet weights that count as zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn i8_dot<const R: usize>(data: &[i8], first: usize, width: usize, q: &[i8]) -> [i32; R] {
    let data: &[u8] = bytemuck::cast_slice(data);
    let mut totals = [_mm256_setzero_si256(); R];
    let mut at = 0;
    while at < width {
        let activations = load_q(q, at);
        for (r, total) in totals.iter_mut().enumerate() {
            let w = load_bytes(data, (first + r) * width + at, width - at);
            let signed = _mm256_sign_epi8(activations, w);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), signed);
            *total = _mm256_add_epi32(*total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        at += 32;
    }
    horizontal_sums(totals)
}

/// 32 bytes of `data` from `at`, those from `len` on as zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn load_bytes(data: &[u8], at: usize, len: usize) -> __m256i {
    const ONES_THEN_ZEROS: [u8; 64] = {
        let mut mask = [0; 64];
        let mut i = 0;
        while i < 32 {
            mask[i] = 0xFF;
            i += 1;
        }
        mask
    };
    let data = data.get(at..).unwrap_or(&[]);
    match (data.first_chunk(), ONES_THEN_ZEROS.get(32 - len.min(32)..)) {
        (Some(bytes), _) if len >= 32 => load(bytes),
        (Some(bytes), Some(mask)) => {
            let mask = mask
                .first_chunk()
                .map_or(_mm256_setzero_si256(), |mask| load(mask));
            _mm256_and_si256(load(bytes), mask)
        }
        _ => {
            let mut padded = [0; 32];
            padded
                .iter_mut()
                .zip(data)
                .take(len)
                .for_each(|(to, &from)| *to = from);
            load(&padded)
        }
    }
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

/// The sum of each vector's elements; four vectors share their additions.
#[inline]
#[target_feature(enable = "avx2")]
fn horizontal_sums<const R: usize>(totals: [__m256i; R]) -> [i32; R] {
    let mut sums = [0; R];
    for (sums, totals) in sums.chunks_mut(4).zip(totals.chunks(4)) {
        let total = |i: usize| totals.get(i).copied().unwrap_or(_mm256_setzero_si256());
        let low = _mm256_hadd_epi32(total(0), total(1));
        let pairs = _mm256_hadd_epi32(low, _mm256_hadd_epi32(total(2), total(3)));
        let four = _mm_add_epi32(
            _mm256_castsi256_si128(pairs),
            _mm256_extracti128_si256::<1>(pairs),
        );
        let four = [
            _mm_extract_epi32::<0>(four),
            _mm_extract_epi32::<1>(four),
            _mm_extract_epi32::<2>(four),
            _mm_extract_epi32::<3>(four),
        ];
        sums.iter_mut().zip(four).for_each(|(to, sum)| *to = sum);
    }
    sums
}

float_kernels!(stamp, ["avx2"]);
