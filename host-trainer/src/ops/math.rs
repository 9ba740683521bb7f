//! Scalar functions and row reductions that the compiler can vectorise.

/// Lanes of a reduction: enough for two AVX-512 registers' worth of independent sums.
const LANES: usize = 16;

/// `e^x` by range reduction to `2^n * 2^f` and a polynomial for `2^f` on `[-0.5, 0.5]`
/// (relative error below 2e-7). Unlike `f32::exp` it is a plain expression, hence vectorised.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let y = x.clamp(-87.0, 88.0) * std::f32::consts::LOG2_E;
    let n = y.round_ties_even();
    // y loses bits for large |x|: the remainder is taken from x itself (Cody-Waite).
    let f = (x.clamp(-87.0, 88.0) - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.987_569_2e-4;
    let p = p * f + 1.398_199_9e-3;
    let p = p * f + 8.333_452e-3;
    let p = p * f + 4.166_579_6e-2;
    let p = p * f + 1.666_666_6e-1;
    let p = p * f + 0.5;
    let p = p * f * f + f + 1.0;
    p * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// Derivative of [`silu`].
#[inline(always)]
pub fn silu_grad(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

/// GELU in its tanh form (Hendrycks and Gimpel 2016) and its derivative:
/// `0.5 x (1 + tanh(c (x + a x^3)))`.
#[inline(always)]
pub fn gelu(x: f32) -> (f32, f32) {
    let (t, steep, _) = gelu_parts(x);
    let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * steep;
    (0.5 * x * (1.0 + t), slope)
}

/// Second derivative of [`gelu`].
#[inline(always)]
pub fn gelu_curvature(x: f32) -> f32 {
    let (t, steep, bend) = gelu_parts(x);
    (1.0 - t * t) * (steep - x * t * steep * steep + 0.5 * x * bend)
}

/// `tanh(i)` of GELU's inner polynomial `i`, and the polynomial's first two derivatives.
#[inline(always)]
fn gelu_parts(x: f32) -> (f32, f32, f32) {
    const C: f32 = 0.797_884_6; // sqrt(2 / pi)
    const A: f32 = 0.044_715;
    let square = A * x * x;
    let t = 1.0 - 2.0 / (exp(2.0 * C * (x + x * square)) + 1.0);
    (t, C * (1.0 + 3.0 * square), 6.0 * C * A * x)
}

#[inline(always)]
fn fold(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// `sum_i f(a_i, b_i)` over lanes.
#[inline(always)]
fn sum_map(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| f(*a, *b)).sum();
    fold(lanes, |x, y| x + y) + tail
}

/// `sum_i a_i b_i`.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_map(a, b, |a, b| a * b)
}

/// `sum_i a_i`.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    sum_map(a, a, |a, _| a)
}

/// `max_i |a_i|`, 0 for an empty row.
#[inline(always)]
pub fn max_abs(a: &[f32]) -> f32 {
    max_map(a, 0.0, f32::abs)
}

/// `max_i a_i`, negative infinity for an empty row.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    max_map(a, f32::NEG_INFINITY, |x| x)
}

#[inline(always)]
fn max_map(a: &[f32], start: f32, f: impl Fn(f32) -> f32) -> f32 {
    let larger = |x: f32, y: f32| if y > x { y } else { x };
    let mut lanes = [start; LANES];
    let (chunks, tail) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], f(chunk[i]));
        }
    }
    let tail = tail.iter().fold(start, |m, x| larger(m, f(*x)));
    larger(fold(lanes, larger), tail)
}
