//! Surprise to alarm: a short mean of the surprise, in deviations from its own long mean.
//!
//! Invariant: one sample moves the long mean by at most three deviations over its length, so an anomaly does not become
//! the usual at once.

/// Most deviations that count in the long mean.
const BOUND: f32 = 3.0;

/// An anomaly score over any signal that is larger where something is wrong.
#[derive(Clone, Debug)]
pub struct Score {
    short: u32,
    long: u32,
    threshold: f32,
    seen: u32,
    level: f32,
    mean: f32,
    variance: f32,
    alarm: bool,
}

/// What [`Score::update`] makes of a surprise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Deviations above the usual; 0 until the long mean has seen as many samples as it is long. Far below 0 the stream
    /// is more predictable than usual, as that of a stuck sensor is; that raises no alarm.
    pub score: f32,
    /// Whether the score reached the threshold and has not since fallen below half of it.
    pub alarm: bool,
}

impl Score {
    /// Exponential means over about `short` and `long` samples, and an alarm at `threshold` deviations.
    pub const fn new(short: u32, long: u32, threshold: f32) -> Self {
        Self {
            short,
            long,
            threshold,
            seen: 0,
            level: 0.0,
            mean: 0.0,
            variance: 0.0,
            alarm: false,
        }
    }

    /// Takes the surprise of the next sample. One that is not finite counts as none.
    pub fn update(&mut self, surprise: f32) -> Verdict {
        let surprise = if surprise.is_finite() { surprise } else { 0.0 };
        self.level += (surprise - self.level) * self.share(self.short);
        let deviation = libm::sqrtf(self.variance) + 1e-6;
        let mut score = (self.level - self.mean) / deviation;
        if self.seen < self.long {
            score = 0.0;
        }
        self.learn(deviation);
        let keeps = if self.alarm { 0.5 } else { 1.0 };
        self.alarm = score >= self.threshold * keeps;
        Verdict {
            score,
            alarm: self.alarm,
        }
    }

    fn learn(&mut self, deviation: f32) {
        let mut away = self.level - self.mean;
        if self.seen >= self.long && away.abs() > BOUND * deviation {
            away = libm::copysignf(BOUND * deviation, away);
        }
        let share = self.share(self.long);
        self.mean += away * share;
        self.variance += (away * away - self.variance) * share;
        self.seen = self.seen.saturating_add(1);
    }

    /// Weight of one sample in a mean over `length`: at first the plain mean of what was seen.
    fn share(&self, length: u32) -> f32 {
        1.0 / self.seen.saturating_add(1).min(length.max(1)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Surprises between 1 and 3, without a pattern that means could follow.
    fn usual(i: u32) -> f32 {
        1.0 + (i.wrapping_mul(2_654_435_769) >> 16) as f32 / 32_768.0
    }

    fn settled() -> Score {
        let mut score = Score::new(8, 256, 5.0);
        for i in 0..2000 {
            assert!(!score.update(usual(i)).alarm);
        }
        score
    }

    #[test]
    fn a_lasting_surprise_raises_the_alarm_and_its_end_lowers_it() {
        let mut score = settled();
        let raised = (0..20).position(|_| score.update(8.0).alarm);
        assert!(raised.is_some_and(|after| after < 8), "{raised:?}");
        let lowered = (0..200).position(|i| !score.update(usual(i)).alarm);
        assert!(lowered.is_some_and(|after| after < 60), "{lowered:?}");
    }

    #[test]
    fn what_lasts_becomes_the_usual() {
        let mut score = settled();
        let last = (0..4000).map(|i| score.update(6.0 + usual(i))).last();
        assert!(last.is_some_and(|v| !v.alarm && v.score.abs() < 5.0));
    }

    #[test]
    fn a_stuck_sensor_scores_far_below_zero() {
        let mut score = settled();
        let last = (0..60).map(|_| score.update(0.0)).last();
        assert!(last.is_some_and(|v| v.score < -5.0 && !v.alarm), "{last:?}");
    }

    #[test]
    fn surprises_that_are_not_finite_do_no_lasting_harm() {
        let mut score = settled();
        score.update(f32::NAN);
        score.update(f32::INFINITY);
        assert!(score.update(2.0).score.is_finite());
    }
}
