//! How much the inner learning of a layer has left to learn.

/// Inner loss of a layer, summed over the tokens (and heads) of full mini-batches: at the weights as they were at the
/// mini-batch's start, and again at those that its update left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InnerLoss {
    before: f64,
    after: f64,
    count: u64,
}

impl InnerLoss {
    /// Counts the sums of one mini-batch of `count` tokens.
    pub(super) fn add(&mut self, before: f64, after: f64, count: usize) {
        self.before += before;
        self.after += after;
        self.count += count as u64;
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            before: self.before + other.before,
            after: self.after + other.after,
            count: self.count + other.count,
        }
    }

    /// Means a token, before and after; none where no row had a full mini-batch.
    pub fn means(&self) -> Option<[f64; 2]> {
        let mean = |sum: f64| sum / self.count as f64;
        (self.count > 0).then(|| [mean(self.before), mean(self.after)])
    }
}

/// `1/2 |e|^2`.
#[inline(always)]
pub(super) fn half_square(e: &[f32]) -> f64 {
    0.5 * f64::from(super::math::dot(e, e))
}
