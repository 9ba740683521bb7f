//! Shows on the device what the host's tests show: arithmetic rounds as everywhere, and every road through the same
//! tokens ends in the same state.

use crate::generate::encode;
use crate::model::{PROMPT_TOKENS, open};
use crate::{Chip, Fault, report_ram};
use bitttt_core::Session;
use core::hint::black_box;

/// Runs the model in `memory`, of [`PLAN`](crate::model::PLAN)`.words()` words, with room for a snapshot.
///
/// # Errors
/// What differs.
pub fn self_test(
    chip: &mut impl Chip,
    memory: &mut [f32],
    snapshot: &mut [u8],
) -> Result<(), Fault> {
    products_and_sums_round_separately()?;
    subnormals_survive()?;
    let mut opened = open(memory);
    let session = opened.as_mut().map_err(|fault| *fault)?;
    let tokenizer = &session.model().tokenizer();
    let tokenizer = tokenizer.as_ref().ok_or("the blob has no tokenizer")?;
    let mut prompt = [session.model().config().document_token; PROMPT_TOKENS];
    let tokens = encode(tokenizer, &mut prompt)?;
    steps_equal_prefill(session, tokens)?;
    restoring_brings_the_state_back(session, snapshot)?;
    chip.line(&["--- report"]);
    chip.hash("state_hash", session.state_hash());
    report_ram(chip);
    Ok(())
}

fn products_and_sums_round_separately() -> Result<(), Fault> {
    let mut numbers = [1.0 + 1.0 / 4096.0; 16];
    // A slice of unknown length, so that a compiler which knows vector instructions takes those.
    let row: &mut [f32] = black_box(&mut numbers);
    for value in row.iter_mut() {
        *value = *value * *value - (1.0 + 1.0 / 2048.0); // the square's last bit, 2^-24, is rounded away
    }
    let separate = black_box(row).iter().all(|&value| value == 0.0);
    expect(separate, "multiply and add were fused")
}

fn subnormals_survive() -> Result<(), Fault> {
    let mut numbers = [f32::MIN_POSITIVE; 16];
    let row: &mut [f32] = black_box(&mut numbers);
    for value in row.iter_mut() {
        *value *= 0.5;
    }
    let kept = black_box(row)
        .iter()
        .all(|value| value.to_bits() == 0x0040_0000);
    expect(kept, "subnormal numbers were flushed to zero")
}

fn steps_equal_prefill(session: &mut Session<'_, '_>, tokens: &[u32]) -> Result<(), Fault> {
    session
        .prefill(tokens)
        .map_err(|_| "the prompt was refused")?;
    let prefilled = session.state_hash();
    session.reset();
    for &token in tokens {
        session.step(token).map_err(|_| "a token was refused")?;
    }
    expect(
        session.state_hash() == prefilled,
        "steps and prefill differ",
    )
}

fn restoring_brings_the_state_back(
    session: &mut Session<'_, '_>,
    buffer: &mut [u8],
) -> Result<(), Fault> {
    let before = session.state_hash();
    let length = session
        .snapshot(buffer)
        .map_err(|_| "the snapshot does not fit")?;
    session.reset();
    expect(session.state_hash() != before, "reset kept the state")?;
    session
        .restore(buffer.get(..length).unwrap_or(&[]))
        .map_err(|_| "the snapshot was refused")?;
    expect(session.state_hash() == before, "the restored state differs")
}

fn expect(holds: bool, otherwise: Fault) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(otherwise) }
}
