//! Watches a machine that the model never saw: learns its normal, then sees it fail.

use crate::model::{PLAN, open};
use crate::{Chip, Fault, divided};
use bitttt_core::Crc32;
use bitttt_sensor::{Fault as Failure, Machine, Monitor, Quantizer, Score};

/// The machine; xtask/src/firmware/monitor.rs has the same figures.
const MACHINE: u64 = 2_000_000;
/// Samples from which the quantiser takes centre and scale, those of the usual, and those of the failure.
const FIRST: usize = 512;
const USUAL: u32 = 1200;
const FAILURE: u32 = 200;

/// Runs the model, which is one of samples, in `memory`, of [`PLAN`]`.words()` words.
///
/// # Errors
/// What about the model or the memory is not as it should be.
pub fn monitor(chip: &mut impl Chip, memory: &mut [f32]) -> Result<(), Fault> {
    let session = open(memory)?;
    let mut machine = Machine::new(MACHINE);
    let first: [f32; FIRST] = core::array::from_fn(|_| machine.sample());
    let quantizer = Quantizer::of(&first).ok_or("the first samples are all the same")?;
    let mut monitor = Monitor::new(session, quantizer, Score::new(16, 1024, 5.0))
        .map_err(|_| "the model is not one of samples")?;
    let (mut scores, mut instructions) = (Crc32::new(), 0u64);
    let (mut false_alarms, mut delay) = (0u64, None);
    for i in 0..USUAL + FAILURE {
        machine.set_fault((i >= USUAL).then_some(Failure::Noise));
        let sample = machine.sample();
        let start = chip.instructions();
        let reading = monitor.push(sample).map_err(|_| "a sample was refused")?;
        instructions += chip.instructions() - start;
        scores.update(&reading.score.to_bits().to_le_bytes());
        if reading.alarm && i < USUAL {
            false_alarms += 1;
        } else if reading.alarm && delay.is_none() {
            delay = Some(i - USUAL);
        }
    }
    chip.line(&["--- report"]);
    chip.hash("scores_hash", scores.finalize());
    chip.hash("state_hash", monitor.session().state_hash());
    chip.count("false_alarms", false_alarms);
    chip.count(
        "delay",
        u64::from(delay.ok_or("the failure raised no alarm")?),
    );
    chip.count(
        "instructions_per_sample",
        divided(instructions, USUAL + FAILURE).0,
    );
    chip.count("session_bytes", PLAN.bytes() as u64);
    chip.count("stack_bytes", chip.stack() as u64);
    Ok(())
}
