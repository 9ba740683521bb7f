//! Traces to figures. Every mean has a standard error: over blocks of samples, or over anomalies.

use crate::detect::Trace;
use crate::series::Series;
use std::ops::Range;

/// Samples of a block: long against what neighbours have in common.
const BLOCK: usize = 512;

/// A mean and its standard error.
#[derive(Clone, Copy, Debug)]
pub struct Mean {
    pub mean: f64,
    pub error: f64,
}

impl Mean {
    /// Of independent values.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        Self {
            mean,
            error: (squares / (n - 1.0) / n).sqrt(),
        }
    }

    /// Of what a has more than b, value by value.
    pub fn difference(a: &[f64], b: &[f64]) -> Self {
        let pairs = a.iter().zip(b);
        Self::of(&pairs.map(|(a, b)| a - b).collect::<Vec<_>>())
    }
}

/// Whether a sample counts as usual: not in an anomaly, nor where a score still shows one.
pub fn usual(series: &Series, at: usize, after: usize) -> bool {
    !series
        .bad
        .iter()
        .any(|r| r.start <= at && at < r.end + after)
}

/// Mean bits a sample of every block of usual samples.
pub fn block_bits(series: &Series, trace: &Trace) -> Vec<f64> {
    let blocks = trace.bits.chunks_exact(BLOCK).enumerate();
    let mean = |(i, block): (usize, &[f32])| {
        let usual = (i * BLOCK..)
            .zip(block)
            .filter(|(at, _)| usual(series, *at, 0));
        let (n, sum) = usual.fold((0, 0.0), |(n, sum), (_, bits)| {
            (n + 1, sum + f64::from(*bits))
        });
        (n > 0).then(|| sum / f64::from(n))
    };
    blocks.filter_map(mean).collect()
}

/// Mean bits of the usual samples in each range of places.
pub fn bits_at(all: &[Series], traces: &[Trace], place: Range<usize>) -> f64 {
    let (mut sum, mut n) = (0.0, 0usize);
    for (series, trace) in all.iter().zip(traces) {
        for at in place.start..place.end.min(trace.bits.len()) {
            if usual(series, at, 0) {
                sum += f64::from(trace.bits[at]);
                n += 1;
            }
        }
    }
    sum / n as f64
}

/// How well scores tell anomalies from the usual.
pub struct Detection<'a> {
    all: &'a [Series],
    /// Of each series.
    scores: Vec<Vec<f32>>,
    /// Where nothing is wrong and nothing was shortly before.
    usual: Vec<Vec<usize>>,
    /// Scores before have not settled.
    from: usize,
}

/// What alarms at some threshold are worth.
pub struct Outcome {
    /// Anomalies in which the alarm was raised; one that was up before does not count.
    pub found: usize,
    /// Median of the samples until it was, among those.
    pub delay: Option<usize>,
    /// Alarms raised where nothing is wrong, in 1,000 samples.
    pub false_alarms: f64,
}

impl<'a> Detection<'a> {
    /// Samples count from `from` on, and after an anomaly once `after` are past.
    pub fn new(all: &'a [Series], traces: &[Trace], from: usize, after: usize) -> Self {
        let places = |s: &Series| {
            (from..s.samples.len())
                .filter(|&at| usual(s, at, after))
                .collect()
        };
        Self {
            all,
            scores: traces
                .iter()
                .map(|t| t.verdicts.iter().map(|v| v.score).collect())
                .collect(),
            usual: all.iter().map(places).collect(),
            from,
        }
    }

    /// Of each anomaly: share of pairs of a sample in it and a usual one of the same series in which its score is higher
    /// (area under the ROC curve).
    pub fn areas(&self) -> Vec<f64> {
        let mut areas = Vec::new();
        for ((series, scores), usual) in self.all.iter().zip(&self.scores).zip(&self.usual) {
            let mut sorted: Vec<f32> = usual.iter().map(|&at| scores[at]).collect();
            sorted.sort_by(f32::total_cmp);
            let inside = self.anomalies(series).map(|bad| &scores[bad]);
            areas.extend(inside.map(|inside| area(inside, &sorted)));
        }
        areas
    }

    /// The lowest threshold, in tenths of a deviation, with no more than so many false alarms in 1,000 samples. At such
    /// thresholds detectors can be compared.
    pub fn threshold(&self, false_alarms: f64) -> f32 {
        let mut all = (5..1000).map(|tenths| tenths as f32 / 10.0);
        let quiet = all.find(|&t| self.at(t).false_alarms <= false_alarms);
        quiet.unwrap_or(f32::INFINITY)
    }

    /// With the alarm at this threshold.
    pub fn at(&self, threshold: f32) -> Outcome {
        let (mut raised, mut samples, mut delays) = (0, 0, Vec::new());
        for ((series, scores), usual) in self.all.iter().zip(&self.scores).zip(&self.usual) {
            let up = alarms(scores, threshold);
            let raises = |&at: &usize| up[at] && !up[at.saturating_sub(1)];
            raised += usual.iter().filter(|at| raises(at)).count();
            samples += usual.len();
            let delay = |mut bad: Range<usize>| bad.position(|at| raises(&at));
            delays.extend(self.anomalies(series).filter_map(delay));
        }
        delays.sort_unstable();
        Outcome {
            found: delays.len(),
            delay: delays.get(delays.len() / 2).copied(),
            false_alarms: raised as f64 * 1000.0 / samples as f64,
        }
    }

    fn anomalies(&self, series: &'a Series) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let from = self.from;
        series
            .bad
            .iter()
            .filter(move |bad| bad.start >= from)
            .cloned()
    }
}

/// Where the alarm is up: as `bitttt_sensor::Score` has it, at any threshold.
fn alarms(scores: &[f32], threshold: f32) -> Vec<bool> {
    let mut up = false;
    let next = |&score: &f32| {
        up = score >= if up { threshold / 2.0 } else { threshold };
        up
    };
    scores.iter().map(next).collect()
}

fn area(inside: &[f32], usual: &[f32]) -> f64 {
    let below = |score: &f32| {
        let lower = usual.partition_point(|s| s < score);
        let not_higher = usual.partition_point(|s| s <= score);
        (lower + not_higher) as f64 / 2.0
    };
    inside.iter().map(below).sum::<f64>() / (inside.len() * usual.len()) as f64
}
