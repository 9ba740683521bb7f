//! A machine that fails, watched on boards and here: the same scores, the same learned state, an alarm.

use super::emulate;
use crate::blob;
use crate::boards::{self, Board};
use crate::command::root;
use crate::host::Job;
use crate::report::Report;
use crate::setup::toolchain;
use anyhow::{Context, Result, ensure};
use bitttt_core::{Batch, Crc32, Model, Session};
use bitttt_sensor::{Fault, Machine, Monitor, Quantizer, Score};

/// As in firmware-example/common/src/monitor.rs.
const MACHINE: u64 = 2_000_000;
const FIRST: usize = 512;
const USUAL: u32 = 1200;
const FAILURE: u32 = 200;

/// Runs the firmware `monitor` on a board of each family and shows what it says.
pub fn run() -> Result<()> {
    let blob = root().join("demo/sensor.bttt");
    let expected = here(blob::read(&blob)?.bytes())?;
    let job = Job {
        blob: &blob,
        prompt: "a",
        tokens: 1,
    };
    eprintln!("a machine that fails, watched");
    for board in boards::families() {
        watch(board, &job, expected)?;
    }
    Ok(())
}

/// Checksum of the scores and of the state that the same samples lead to on this machine.
fn here(bytes: &[u8]) -> Result<[u32; 2]> {
    let model = Model::from_bytes(bytes)?;
    let mut memory = vec![0.0; model.memory(Batch::ONE).words()];
    let session = Session::new(model, Batch::ONE, &mut memory)?;
    let mut machine = Machine::new(MACHINE);
    let first: Vec<f32> = (0..FIRST).map(|_| machine.sample()).collect();
    let quantizer = Quantizer::of(&first).context("the first samples are all the same")?;
    let mut monitor = Monitor::new(session, quantizer, Score::new(16, 1024, 5.0))?;
    let mut scores = Crc32::new();
    for i in 0..USUAL + FAILURE {
        machine.set_fault((i >= USUAL).then_some(Fault::Noise));
        let reading = monitor.push(machine.sample())?;
        scores.update(&reading.score.to_bits().to_le_bytes());
    }
    Ok([scores.finalize(), monitor.session().state_hash()])
}

fn watch(board: &Board, job: &Job<'_>, expected: [u32; 2]) -> Result<()> {
    let output = emulate(board, toolchain(board.target)?, job, "monitor")?;
    let report = Report::parse(&output)?;
    let found = [report.hash("scores_hash")?, report.hash("state_hash")?];
    ensure!(
        found == expected,
        "scores and state of {} are {found:08x?}, here {expected:08x?}",
        board.name
    );
    eprintln!(
        "{:14}  {} instructions a sample; alarm {} samples after the failure, {} before it",
        board.name,
        report.count("instructions_per_sample")?,
        report.count("delay")?,
        report.count("false_alarms")?
    );
    Ok(())
}
