//! TTT-MLP's arithmetic (Sun et al. 2024, section 2.3 in the dual form of its section 2.5): a head whose fast weights
//! are two layers with a GELU between them.

use super::lanes::{copy, dot, hold};
use super::ttt::{TttHead, TttToken};
use crate::math::exp;

impl TttHead<'_, '_> {
    /// With the weights as at the start of the mini-batch, the layers' inputs and gradients being `k_j, g1_j` and
    /// `h_j, g2_j`: `y = GELU(q W0 + u0 - sum_{j<=i} tau_i lr_j ((q . k_j) + 1) g1_j)`,
    /// `o = q + LN(y W1 + u1 - sum_{j<=i} tau_i lr_j ((y . h_j) + 1) g2_j)`. `temp` holds `10 d` words; `out` is `[d]`.
    #[inline(always)]
    pub(super) fn step_mlp(&mut self, token: &TttToken<'_>, temp: &mut [f32], out: &mut [f32]) {
        let d = out.len();
        let Some((z1, rest)) = temp.split_at_mut_checked(self.first.width) else {
            return;
        };
        let Some((zq1, z2)) = rest.split_at_mut_checked(self.first.width) else {
            return;
        };
        self.first.apply_two([token.k, token.q], z1, zq1);
        let z2 = z2.get_mut(..d).unwrap_or_default();
        self.remember_mlp(token, z1, z2);
        self.first.correct(self.rates, token, token.q, zq1);
        zq1.iter_mut().for_each(|z| *z = gelu(*z).0);
        if let Some(second) = &self.second {
            second.apply(zq1, z2);
            second.correct(self.rates, token, zq1, z2);
        }
        self.norm.predict(token, z2, out);
    }

    /// Stores what both layers saw of a token and the gradients at their outputs, from `z1 = k W0 + u0`: `g2` as
    /// TTT-Linear's, `g1 = (g2 W1^T) * GELU'(z1)`. A frozen token stores zeros.
    #[inline(always)]
    fn remember_mlp(&mut self, token: &TttToken<'_>, z1: &mut [f32], z2: &mut [f32]) {
        let Some(second) = &mut self.second else {
            return;
        };
        let (key, grad1) = self.first.open(token.i);
        if token.rate.is_none() {
            key.fill(0.0);
            grad1.fill(0.0);
            let (hidden, grad2) = second.open(token.i);
            hidden.fill(0.0);
            grad2.fill(0.0);
            return;
        }
        copy(key, token.k);
        let (hidden, _) = second.open(token.i);
        for (h, z) in hidden.iter_mut().zip(z1.iter_mut()) {
            (*h, *z) = gelu(*z); // what is left in z1 is the slope
        }
        hold(hidden);
        let (hidden, _) = second.opened(token.i);
        second.apply(hidden, z2);
        let (_, grad2) = second.open(token.i);
        self.norm.gradient(token, z2, grad2);
        hold(grad2);
        let (_, grad2) = second.opened(token.i);
        for (e, (g, &slope)) in grad1.iter_mut().zip(z1.iter()).enumerate() {
            *g = dot(second.row(e), grad2) * slope;
        }
        hold(key);
        hold(grad1);
    }
}

/// GELU in its tanh form (Hendrycks and Gimpel 2016) and its derivative.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn gelu(x: f32) -> (f32, f32) {
    const C: f32 = 0.797_884_6; // sqrt(2 / pi)
    const A: f32 = 0.044_715;
    let square = x * x;
    let t = tanh(C * (x + A * (square * x)));
    let (half, rest) = (0.5 * x, 1.0 - t * t);
    let slope = C * (1.0 + (3.0 * A) * square);
    (half * (1.0 + t), 0.5 * (1.0 + t) + (half * rest) * slope)
}

/// `1 - 2 / (e^2x + 1)`.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_and_its_slope_are_those_of_the_definition() {
        for i in -2000..2000 {
            let x = f64::from(i) / 200.0;
            let c = (2.0 / core::f64::consts::PI).sqrt();
            let value = |x: f64| 0.5 * x * (1.0 + (c * (x + 0.044715 * x.powi(3))).tanh());
            let slope = (value(x + 1e-6) - value(x - 1e-6)) / 2e-6;
            let (y, s) = gelu(x as f32);
            assert!((f64::from(y) - value(x)).abs() < 2e-6, "{x}: {y}");
            assert!((f64::from(s) - slope).abs() < 2e-6, "{x}: {s}");
        }
        assert_eq!(gelu(1e9), (1e9, 1.0));
        assert_eq!(gelu(-1e9).0, 0.0);
    }
}
