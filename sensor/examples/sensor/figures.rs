//! Traces to figures. Every mean has a standard error: over blocks of samples, or over anomalies.

use crate::detect::Trace;
use crate::series::Series;
use bitttt_sensor::Verdict;
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

/// How well a trace tells anomalies from the usual.
#[derive(Debug, Default)]
pub struct Detection {
    /// Of each anomaly: share of pairs of a sample in it and a usual one in which its score is higher (area under the
    /// ROC curve).
    pub areas: Vec<f64>,
    /// Of each anomaly: samples until the alarm was up, if it was.
    pub delays: Vec<Option<usize>>,
    /// Alarms raised outside anomalies.
    pub false_alarms: usize,
    /// Samples in which they could be.
    pub usual: usize,
}

impl Detection {
    /// Adds a series. Samples count from `from` on, when scores have settled, and after an anomaly once `after` are past.
    pub fn add(&mut self, series: &Series, verdicts: &[Verdict], from: usize, after: usize) {
        let counts = |at: &usize| usual(series, *at, after);
        let places: Vec<usize> = (from..verdicts.len()).filter(counts).collect();
        let raised = |at: usize| verdicts[at].alarm && !verdicts[at.saturating_sub(1)].alarm;
        self.false_alarms += places.iter().filter(|&&at| raised(at)).count();
        self.usual += places.len();
        let mut scores: Vec<f32> = places.iter().map(|&at| verdicts[at].score).collect();
        scores.sort_by(f32::total_cmp);
        for bad in series.bad.iter().filter(|bad| bad.start >= from) {
            let inside = &verdicts[bad.clone()];
            self.areas.push(area(inside, &scores));
            self.delays.push(inside.iter().position(|v| v.alarm));
        }
    }

    /// Anomalies in which the alarm was up.
    pub fn found(&self) -> usize {
        self.delays.iter().flatten().count()
    }

    /// Median of the delays of those.
    pub fn delay(&self) -> Option<usize> {
        let mut delays: Vec<usize> = self.delays.iter().flatten().copied().collect();
        delays.sort_unstable();
        delays.get(delays.len() / 2).copied()
    }
}

fn area(inside: &[Verdict], usual: &[f32]) -> f64 {
    let below = |v: &Verdict| {
        let lower = usual.partition_point(|s| *s < v.score);
        let not_higher = usual.partition_point(|s| *s <= v.score);
        (lower + not_higher) as f64 / 2.0
    };
    inside.iter().map(below).sum::<f64>() / (inside.len() * usual.len()) as f64
}
