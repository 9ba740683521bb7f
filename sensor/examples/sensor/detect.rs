//! What watches a series: the model, learning in one way or another, and two detectors that have none.

use crate::series::Series;
use anyhow::Result;
use bitttt_core::{Batch, Learning, Model, Session};
use bitttt_sensor::{Monitor, Score, Verdict};

/// How surprise becomes an alarm; the same for all.
#[derive(clap::Args)]
pub struct Settings {
    /// Samples of the short mean
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub short: u32,
    /// Samples of the long mean
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub long: u32,
    /// Deviations that raise the alarm
    #[arg(long, value_name = "X", default_value_t = 5.0)]
    pub threshold: f32,
    /// Detectors are also compared at thresholds with so many false alarms in 1,000 samples
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    pub false_alarms: f64,
    /// After so many samples one of the models stops learning
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub settle: usize,
}

/// A way to be surprised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// The model, learning all the time.
    Learning,
    /// Learning, but not while the alarm is up.
    Paused,
    /// Learning at first, then frozen with what it learned.
    Settled(usize),
    /// As it was trained.
    Frozen,
    /// Surprise is the distance from the sample before.
    Persistence,
    /// Surprise is the distance from a moving mean, in moving deviations.
    MovingMean,
}

/// What came of a series, sample by sample.
#[derive(Default)]
pub struct Trace {
    /// Bits that the sample took; of detectors with a model only.
    pub bits: Vec<f32>,
    pub verdicts: Vec<Verdict>,
    /// Samples that were expected; of detectors with a model only.
    pub expected: Vec<f32>,
}

impl Detector {
    /// All of them; the first is compared with the others.
    pub fn all(settle: usize) -> Vec<Self> {
        use Detector::*;
        vec![
            Learning,
            Paused,
            Settled(settle),
            Frozen,
            Persistence,
            MovingMean,
        ]
    }

    /// For the tables.
    pub fn name(self) -> String {
        match self {
            Self::Learning => "learning".into(),
            Self::Paused => "learning, but in alarms".into(),
            Self::Settled(n) => format!("learned {n} samples"),
            Self::Frozen => "frozen".into(),
            Self::Persistence => "change, no model".into(),
            Self::MovingMean => "moving mean, no model".into(),
        }
    }

    /// Watches a series from a fresh start.
    pub fn run(self, blob: &[u8], series: &Series, settings: &Settings) -> Result<Trace> {
        let score = Score::new(settings.short, settings.long, settings.threshold);
        match self {
            Self::Persistence => Ok(without_model(series, score, change())),
            Self::MovingMean => Ok(without_model(series, score, moving_mean(settings.long))),
            _ => self.with_model(blob, series, score),
        }
    }

    fn with_model(self, blob: &[u8], series: &Series, score: Score) -> Result<Trace> {
        let model = Model::from_bytes(blob)?;
        let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
        let session = Session::new(model, Batch::ONE, &mut memory)?;
        let mut monitor = Monitor::new(session, series.quantizer, score)?;
        let mut trace = Trace::default();
        let mut alarm = false;
        for (i, &sample) in series.samples.iter().enumerate() {
            let learns = match self {
                Self::Paused => !alarm,
                Self::Settled(n) => i < n,
                other => other == Self::Learning,
            };
            monitor.set_learning(if learns {
                Learning::On
            } else {
                Learning::Frozen
            });
            let reading = monitor.push(sample)?;
            alarm = reading.alarm;
            trace.bits.push(reading.bits);
            trace.expected.push(reading.expected);
            trace.verdicts.push(Verdict {
                score: reading.score,
                alarm,
            });
        }
        Ok(trace)
    }
}

fn without_model(series: &Series, mut score: Score, mut surprise: impl FnMut(f32) -> f32) -> Trace {
    let verdicts = series.samples.iter().map(|&x| score.update(surprise(x)));
    Trace {
        verdicts: verdicts.collect(),
        ..Trace::default()
    }
}

fn change() -> impl FnMut(f32) -> f32 {
    let mut last = None;
    move |x| (x - last.replace(x).unwrap_or(x)).abs()
}

fn moving_mean(length: u32) -> impl FnMut(f32) -> f32 {
    let (mut mean, mut variance, mut seen) = (0.0, 0.0, 0u32);
    move |x| {
        let away: f32 = x - mean;
        let surprise = away.abs() / (f32::sqrt(variance) + 1e-6);
        seen += 1;
        let share = 1.0 / seen.min(length) as f32;
        mean += away * share;
        variance += (away * away - variance) * share;
        if seen > length { surprise } else { 0.0 }
    }
}
