//! The tables.

use crate::detect::{Detector, Settings, Trace};
use crate::figures::{Detection, Mean, Outcome, bits_at, block_bits};
use crate::series::Series;

/// Most alarms that are listed.
const LISTED: usize = 20;

/// Prints everything. `runs` are the detectors' traces of the series.
pub fn print(detectors: &[Detector], all: &[Series], runs: &[Vec<Trace>], settings: &Settings) {
    let samples: usize = all.iter().map(|s| s.samples.len()).sum();
    let bad: usize = all.iter().map(|s| s.bad.len()).sum();
    println!("{} series, {samples} samples, {bad} anomalies", all.len());
    bits(detectors, all, runs);
    by_position(detectors, all, runs);
    if bad > 0 {
        detection(detectors, all, runs, settings);
    } else {
        alarms(all, &runs[0]);
    }
}

fn bits(detectors: &[Detector], all: &[Series], runs: &[Vec<Trace>]) {
    println!("\nbits a sample where nothing is wrong        mean             above learning");
    let blocks = |traces: &[Trace]| -> Vec<f64> {
        let pairs = all.iter().zip(traces);
        pairs
            .flat_map(|(series, trace)| block_bits(series, trace))
            .collect()
    };
    let first = blocks(&runs[0]);
    for (detector, traces) in detectors.iter().zip(runs) {
        let own = blocks(traces);
        if !own.is_empty() {
            let (mean, above) = (Mean::of(&own), Mean::difference(&own, &first));
            println!(
                "{:<36} {:>7.3} ± {:.3} {:>+12.3} ± {:.3}",
                detector.name(),
                mean.mean,
                mean.error,
                above.mean,
                above.error
            );
        }
    }
}

fn by_position(detectors: &[Detector], all: &[Series], runs: &[Vec<Trace>]) {
    let longest = all.iter().map(|s| s.samples.len()).max().unwrap_or(0);
    println!("\nbits a sample by position   learning  frozen");
    let frozen = detectors
        .iter()
        .position(|d| *d == Detector::Frozen)
        .unwrap_or(0);
    let (mut from, mut to) = (0, 64);
    while from < longest {
        let at = |run: usize| bits_at(all, &runs[run], from..to);
        println!(
            "{:>25} {:>9.3} {:>8.3}",
            format!("{from}-{}", to.min(longest)),
            at(0),
            at(frozen)
        );
        (from, to) = (to, to * 2);
    }
}

fn detection(detectors: &[Detector], all: &[Series], runs: &[Vec<Trace>], settings: &Settings) {
    let (from, after) = (settings.long as usize, settings.long as usize / 4);
    let detect = |traces| Detection::new(all, traces, from, after);
    let first = detect(&runs[0]).areas();
    println!(
        "\nanomalies                    ROC area         above learning   {:<29} at {} false alarms per 1,000",
        format!("at threshold {}", settings.threshold),
        settings.false_alarms
    );
    println!(
        "{:67}found delay  false per 1,000    threshold found delay",
        ""
    );
    for (detector, traces) in detectors.iter().zip(runs) {
        let own = detect(traces);
        let areas = own.areas();
        let (area, above) = (Mean::of(&areas), Mean::difference(&areas, &first));
        let fair = own.threshold(settings.false_alarms);
        let (set, equal) = (own.at(settings.threshold), own.at(fair));
        let delay = |o: &Outcome| o.delay.map_or("-".into(), |d| d.to_string());
        println!(
            "{:<24} {:>7.3} ± {:.3} {:>+12.3} ± {:.3} {:>10} {:>5} {:>16.2} {:>12.1} {:>5} {:>5}",
            detector.name(),
            area.mean,
            area.error,
            above.mean,
            above.error,
            set.found,
            delay(&set),
            set.false_alarms,
            fair,
            equal.found,
            delay(&equal)
        );
    }
}

/// Where the learning model raised the alarm.
fn alarms(all: &[Series], traces: &[Trace]) {
    println!("\nalarms of the learning model");
    for (series, trace) in all.iter().zip(traces) {
        let raised =
            |&at: &usize| trace.verdicts[at].alarm && (at == 0 || !trace.verdicts[at - 1].alarm);
        for at in (0..trace.verdicts.len()).filter(raised).take(LISTED) {
            println!(
                "{}, line {}: {}, expected {:.3}, score {:.1}",
                series.name,
                series.first_line + at,
                series.samples[at],
                trace.expected[at],
                trace.verdicts[at].score
            );
        }
    }
}
