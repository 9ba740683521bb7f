//! Where samples come from, and what is put wrong in them.

use anyhow::{Context as _, Result, anyhow, ensure};
use bitttt_sensor::{Fault, Machine, Quantizer};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Series to read.
#[derive(clap::Args)]
pub struct Source {
    /// Files of comma-separated values, a sample a line, each a series of its own; synthetic machines without
    #[arg(long, value_name = "FILE")]
    pub csv: Vec<PathBuf>,
    /// The column of the samples, from 1
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub column: usize,
    /// Mean absolute deviation to expect, instead of what the first samples show
    #[arg(long, value_name = "X")]
    pub scale: Option<f32>,
    /// With --scale: the value to expect
    #[arg(
        long,
        value_name = "X",
        requires = "scale",
        allow_negative_numbers = true
    )]
    pub centre: Option<f32>,
    /// Samples at a series' start that set its quantiser and are not watched; with --centre none
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub calibrate: usize,
    /// Number of synthetic machines
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub machines: u64,
    /// Samples of each
    #[arg(long, value_name = "N", default_value_t = 16_896)]
    pub samples: usize,
    /// The first machine's seed; the committed model saw machines 1 to 4000
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub seed: u64,
}

/// A series, from its first watched sample on.
pub struct Series {
    pub name: String,
    pub samples: Vec<f32>,
    pub quantizer: Quantizer,
    /// Line of the file that `samples[0]` stands in.
    pub first_line: usize,
    /// Where something is wrong, ascending.
    pub bad: Vec<Range<usize>>,
}

impl Source {
    /// Reads or makes them all, calibrated.
    pub fn read(&self) -> Result<Vec<Series>> {
        if self.csv.is_empty() {
            return (self.seed..self.seed + self.machines)
                .map(|seed| self.synthetic(seed, &|_| None))
                .collect();
        }
        let one = |path: &PathBuf| {
            let (samples, line) = column(path, self.column)?;
            self.calibrated(path.display().to_string(), samples, line)
        };
        self.csv.iter().map(one).collect()
    }

    /// Machine `seed`, broken where `fault` says so.
    fn synthetic(&self, seed: u64, fault: &dyn Fn(usize) -> Option<Fault>) -> Result<Series> {
        let mut machine = Machine::new(seed);
        let samples = (0..self.samples).map(|i| {
            machine.set_fault(i.checked_sub(self.calibrate).and_then(fault));
            machine.sample()
        });
        self.calibrated(format!("machine {seed}"), samples.collect(), 1)
    }

    fn calibrated(&self, name: String, mut samples: Vec<f32>, line: usize) -> Result<Series> {
        let used = match self.centre {
            Some(_) => 0,
            None => self.calibrate.min(samples.len()),
        };
        let first = &samples[..used];
        let quantizer = match self.scale {
            Some(scale) => Quantizer::new(self.centre.unwrap_or_else(|| mean(first)), scale),
            None => Quantizer::of(first),
        };
        let quantizer = quantizer.with_context(|| {
            format!("{name}: the first {used} samples do not vary; set --calibrate, or --scale")
        })?;
        samples.drain(..used);
        ensure!(
            !samples.is_empty(),
            "{name}: no sample is left after calibration"
        );
        Ok(Series {
            name,
            samples,
            quantizer,
            first_line: line + used,
            bad: Vec::new(),
        })
    }
}

impl Series {
    /// Notes lines of the file as wrong.
    pub fn mark(&mut self, lines: &[Range<usize>]) {
        let at = |line: usize| line.saturating_sub(self.first_line).min(self.samples.len());
        self.bad
            .extend(lines.iter().map(|l| at(l.start)..at(l.end)));
        self.bad.retain(|r| !r.is_empty());
        self.bad.sort_by_key(|r| r.start);
    }
}

/// What is put wrong, on purpose and at known places.
#[derive(clap::Args)]
pub struct Injection {
    /// Put stretches of this file's column into the series, shifted to the mean of what they replace
    #[arg(long, value_name = "FILE", requires = "csv")]
    splice: Option<PathBuf>,
    /// Multiply stretches' distance from the quantiser's centre: a sensor that came loose
    #[arg(long, value_name = "X", requires = "csv", conflicts_with = "splice")]
    gain: Option<f32>,
    /// One stretch in so many samples; synthetic machines then show their faults by turns
    #[arg(long, value_name = "N", default_value_t = 2048)]
    every: usize,
    /// Its length
    #[arg(long, value_name = "N", default_value_t = 256)]
    length: usize,
}

impl Injection {
    /// Breaks the series and notes where.
    pub fn apply(&self, source: &Source, all: &mut [Series]) -> Result<()> {
        ensure!(
            self.length > 0 && self.every > self.length,
            "--every must be above --length, and that above 0"
        );
        let other = self
            .splice
            .as_deref()
            .map(|path| column(path, source.column))
            .transpose()?;
        for (i, series) in all.iter_mut().enumerate() {
            let places = self.places(series.samples.len());
            if source.csv.is_empty() {
                *series = source.synthetic(source.seed + i as u64, &|at| self.fault(at))?;
            } else if let Some((other, _)) = &other {
                splice(&mut series.samples, &places, other)?;
            } else if let Some(gain) = self.gain {
                let centre = series.quantizer.value(bitttt_sensor::SYMBOLS as u8 / 2);
                let bad = places.iter().cloned().flatten();
                bad.for_each(|at| {
                    series.samples[at] = centre + gain * (series.samples[at] - centre)
                });
            } else {
                continue;
            }
            series.bad = places;
        }
        Ok(())
    }

    /// The first stretch waits for twice the usual, so that every score has settled.
    fn places(&self, samples: usize) -> Vec<Range<usize>> {
        (1..)
            .map(|i| (i + 1) * self.every - self.length..(i + 1) * self.every)
            .take_while(|place| place.end + self.length <= samples)
            .collect()
    }

    fn fault(&self, at: usize) -> Option<Fault> {
        let turn = at / self.every;
        let inside = turn > 0 && at % self.every >= self.every - self.length;
        inside.then(|| Fault::ALL[turn % Fault::ALL.len()])
    }
}

/// Puts stretches of `other`, taken evenly from all of it, at the places.
fn splice(samples: &mut [f32], places: &[Range<usize>], other: &[f32]) -> Result<()> {
    for (i, place) in places.iter().enumerate() {
        let room = other
            .len()
            .checked_sub(place.len())
            .context("the other series is shorter than a stretch")?;
        let from = room * i / places.len();
        let stretch = &other[from..from + place.len()];
        let shift = mean(&samples[place.clone()]) - mean(stretch);
        let pairs = samples[place.clone()].iter_mut().zip(stretch);
        pairs.for_each(|(to, x)| *to = x + shift);
    }
    Ok(())
}

fn mean(samples: &[f32]) -> f32 {
    samples.iter().sum::<f32>() / samples.len() as f32
}

/// Column `number` of a file and the line it begins in: the first, or the second where the first is not a number.
pub fn column(path: &Path, number: usize) -> Result<(Vec<f32>, usize)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let value = |line: &str| -> Option<f32> {
        let field = line.split(',').nth(number.checked_sub(1)?)?;
        field.trim().parse().ok().filter(|x: &f32| x.is_finite())
    };
    let headed = usize::from(text.lines().next().and_then(value).is_none());
    let lines = text.lines().enumerate().skip(headed);
    let samples = lines.map(|(i, line)| {
        value(line).ok_or_else(|| {
            anyhow!(
                "{}, line {}: no number in column {number}",
                path.display(),
                i + 1
            )
        })
    });
    Ok((samples.collect::<Result<_>>()?, headed + 1))
}

/// `A..B`.
pub fn lines(text: &str) -> Result<Range<usize>, String> {
    let parse = || {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    parse().ok_or_else(|| "two line numbers with .. between them".into())
}
