//! From measurements to ratios.

use super::engine::{Engine, Job, Test};
use super::quiet::Ticks;
use anyhow::{Context, Result};
use serde::Serialize;

/// The row for the strongest of llama.cpp's types.
pub const BEST: &str = "best llama.cpp";

/// Where others took more of the cores than this during a measurement, it is repeated.
const QUIET: f64 = 0.03;

/// How often at most.
const TRIES: usize = 3;

/// One line of the table; speeds in tokens per second, medians over the rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub shape: &'static str,
    pub threads: usize,
    pub test: Test,
    pub peer: String,
    pub ours: f64,
    pub theirs: f64,
    /// Ours over theirs.
    pub ratio: f64,
    /// The largest share of the cores, 0 to 1, that other processes took during a measurement.
    #[serde(skip)]
    pub others: f64,
}

/// The middle value, or the mean of the two in the middle; `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match values.as_slice() {
        [] => None,
        odd if odd.len() % 2 == 1 => Some(odd[upper]),
        even => Some(f64::midpoint(even[upper - 1], even[upper])),
    }
}

/// Times ours and theirs, alternating, `rounds` times each.
///
/// # Errors
/// Where an engine fails, with its name.
pub fn duel(ours: &dyn Engine, theirs: &dyn Engine, job: &Job, rounds: usize) -> Result<Row> {
    let (mut our_rates, mut their_rates, mut most) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..rounds {
        for (engine, rates) in [(ours, &mut our_rates), (theirs, &mut their_rates)] {
            let (rate, others) = quietly(|| engine.time(job)).with_context(|| engine.name())?;
            rates.push(rate);
            most = most.max(others);
        }
    }
    let (ours, peer) = (median(&our_rates), median(&their_rates));
    let (ours, peer) = ours.zip(peer).context("no rounds were run")?;
    Ok(Row {
        shape: job.shape.name(),
        threads: job.threads,
        test: job.test,
        peer: theirs.name(),
        ours,
        theirs: peer,
        ratio: ours / peer,
        others: most,
    })
}

/// What `measure` gives while the machine is quiet, or of some tries the one that was disturbed least, and the share of
/// the cores that others took.
fn quietly(mut measure: impl FnMut() -> Result<f64>) -> Result<(f64, f64)> {
    let mut least: Option<(f64, f64)> = None;
    for _ in 0..TRIES {
        let before = Ticks::now();
        let rate = measure()?;
        let others = before.zip(Ticks::now());
        let others = others.map_or(0.0, |(before, after)| after.others_since(before));
        if least.is_none_or(|(_, least)| others < least) {
            least = Some((rate, others));
        }
        if others < QUIET {
            break;
        }
    }
    least.context("nothing was measured")
}

/// The row of the fastest of llama.cpp's types among rows of one job, under the name [`BEST`].
pub fn best(rows: &[Row]) -> Option<Row> {
    let llamas = rows.iter().filter(|row| row.peer.starts_with("llama.cpp"));
    let best = llamas.max_by(|a, b| a.theirs.total_cmp(&b.theirs))?;
    let peer = BEST.to_owned();
    Some(Row {
        peer,
        ..best.clone()
    })
}

/// The rows as text.
pub fn table(rows: &[Row]) -> String {
    let width = rows
        .iter()
        .map(|row| row.peer.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!(
        "{:6} {:>7} {:8} {:width$} {:>10} {:>10} {:>7} {:>6}\n",
        "shape", "threads", "test", "peer", "ours", "theirs", "ratio", "others"
    );
    for row in rows {
        text += &format!(
            "{:6} {:>7} {:8} {:width$} {:>10} {:>10} {:>6.2}x {:>5.0}%\n",
            row.shape,
            row.threads,
            row.test.name(),
            row.peer,
            rate(row.ours),
            rate(row.theirs),
            row.ratio,
            row.others * 100.0
        );
    }
    text
}

/// Tokens per second with four significant digits or so.
fn rate(value: f64) -> String {
    let digits = if value < 100.0 { 1 } else { 0 };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::shape::Shape;
    use std::cell::RefCell;

    /// Hands out speeds in order and writes down who was asked.
    struct Scripted<'a> {
        name: &'static str,
        speeds: RefCell<Vec<f64>>,
        log: &'a RefCell<Vec<&'static str>>,
    }

    impl Engine for Scripted<'_> {
        fn name(&self) -> String {
            self.name.to_owned()
        }
        fn prepare(&mut self, _: &Job) -> Result<()> {
            Ok(())
        }
        fn time(&self, _: &Job) -> Result<f64> {
            self.log.borrow_mut().push(self.name);
            self.speeds.borrow_mut().pop().context("no speed left")
        }
    }

    const JOB: Job = Job {
        shape: Shape::Tiny,
        threads: 2,
        test: Test::Decode,
        seconds: 0.0,
    };

    fn row(peer: &str, theirs: f64) -> Row {
        let peer = peer.to_owned();
        Row {
            shape: "tiny",
            threads: 2,
            test: Test::Decode,
            peer,
            ours: 10.0,
            theirs,
            ratio: 10.0 / theirs,
            others: 0.0,
        }
    }

    #[test]
    fn engines_take_turns_and_medians_are_compared() {
        let log = RefCell::new(Vec::new());
        let engine = |name, speeds: &[f64]| {
            let speeds = RefCell::new(speeds.to_vec());
            let log = &log;
            Scripted { name, speeds, log }
        };
        // A busy machine makes it measure again: give more speeds than rounds, and drop repeats from the log.
        let ours = engine("ours", &[60.0; 9]);
        let theirs = engine("theirs", &[20.0; 9]);
        let row = duel(&ours, &theirs, &JOB, 3).unwrap();
        assert_eq!((row.ours, row.theirs, row.ratio), (60.0, 20.0, 3.0));
        let mut turns = log.borrow().clone();
        turns.dedup();
        assert_eq!(turns, ["ours", "theirs"].repeat(3));
    }

    #[test]
    fn an_engine_that_fails_is_named() {
        let log = RefCell::new(Vec::new());
        let engine = |name, speeds: Vec<f64>| Scripted {
            name,
            speeds: RefCell::new(speeds),
            log: &log,
        };
        let error = duel(
            &engine("ours", vec![1.0; 9]),
            &engine("theirs", vec![]),
            &JOB,
            1,
        );
        assert_eq!(format!("{:#}", error.unwrap_err()), "theirs: no speed left");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 9.0, 1.0, 3.0]), Some(3.5));
    }

    #[test]
    fn the_best_llama_is_the_fastest_and_no_other_engine() {
        let rows = [
            row("llama.cpp TQ2_0", 3.0),
            row("llama.cpp Q4_0", 5.0),
            row("candle", 7.0),
        ];
        assert_eq!(best(&rows), Some(row(BEST, 5.0)));
        assert_eq!(best(&rows[2..]), None);
    }

    #[test]
    fn json_has_the_documented_fields() {
        let json = serde_json::to_value([row("candle", 4.0)]).unwrap();
        let expected = serde_json::json!([{
            "shape": "tiny", "threads": 2, "test": "decode",
            "peer": "candle", "ours": 10.0, "theirs": 4.0, "ratio": 2.5
        }]);
        assert_eq!(json, expected);
    }

    #[test]
    fn columns_line_up() {
        let text = table(&[row("candle", 4.0), row("llama.cpp TQ2_0", 12_345.6)]);
        let ends: Vec<_> = text.lines().map(str::len).collect();
        assert_eq!(ends.len(), 3);
        assert!(ends.iter().all(|end| *end == ends[0]), "{text}");
        assert!(text.contains("2.50x") && text.contains("12346"), "{text}");
    }
}
