//! `ttt-lite`'s arithmetic: one matrix trained by the delta rule at each token.
//!
//! Invariant: whatever comes in, the matrix stays finite and within [`FAST_LIMIT`].

use super::lanes::{axpys, dot};
use super::ttt::{FAST_LIMIT, largest};
use crate::math::{clamp, sqrt};
use crate::pieces::Cut;

/// What a token does to the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiteStep {
    /// Inner learning rate; `None` while frozen.
    pub rate: Option<f32>,
    /// Anchor decay, at the last token of a mini-batch.
    pub decay: Option<f32>,
}

/// One token: scales its features `f [m]` to length one, predicts `p = W f` into `p [m]` and learns
/// `W <- (1 - lambda) W - lr (p - f) f^T`. `w` is `[m, m]`, inputs first. Returns false if the update was not finite (or
/// beyond [`FAST_LIMIT`]) and was dropped, decay included.
#[inline(always)]
pub(crate) fn lite_step(w: &mut [f32], step: LiteStep, f: &mut [f32], p: &mut [f32]) -> bool {
    let m = f.len();
    let length = sqrt(dot(f, f)) + 1e-6;
    f.iter_mut().for_each(|f| *f /= length);
    p.fill(0.0);
    axpys(p, w, |c| f.get(c).copied().unwrap_or(0.0));
    let Some(rate) = step.rate else {
        return true;
    };
    let error = p.iter().zip(f.iter()).map(|(p, f)| p - f);
    if !bounded(rate, error) {
        return false;
    }
    for (row, &f_c) in w.pieces_mut(m).zip(f.iter()) {
        if let Some(decay) = step.decay {
            let keep = 1.0 - decay;
            row.iter_mut().for_each(|w| *w *= keep);
        }
        let s = -(rate * f_c);
        for ((w, &p), &f) in row.iter_mut().zip(p.iter()).zip(f.iter()) {
            *w = clamp(*w + s * (p - f), -FAST_LIMIT, FAST_LIMIT);
        }
    }
    true
}

/// Whether `lr * max|error|`, which bounds every element of the update since no feature is beyond one, is finite and
/// below [`FAST_LIMIT`]. NaN anywhere makes it false.
#[inline(always)]
fn bounded(rate: f32, error: impl Iterator<Item = f32>) -> bool {
    rate * largest(error) < FAST_LIMIT
}
