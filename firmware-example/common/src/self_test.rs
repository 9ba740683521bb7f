//! Shows on the device what the host's tests show: every road through the same tokens ends in the same state.

use crate::generate::encode;
use crate::model::{BLOB, PROMPT_TOKENS};
use crate::{Chip, Fault};
use bitttt_core::{Batch, Model, Session};

/// Runs the model in `memory`, of [`PLAN`](crate::model::PLAN)`.words()` words, with room for a snapshot.
///
/// # Errors
/// What differs.
pub fn self_test(
    chip: &mut impl Chip,
    memory: &mut [f32],
    snapshot: &mut [u8],
) -> Result<(), Fault> {
    let model = Model::from_bytes(BLOB).map_err(|_| "the blob is not a model of this version")?;
    let tokenizer = model.tokenizer().ok_or("the blob has no tokenizer")?;
    let mut session =
        Session::new(model, Batch::ONE, memory).map_err(|_| "session memory is too short")?;
    let mut prompt = [model.config().document_token; PROMPT_TOKENS];
    let tokens = encode(&tokenizer, &mut prompt)?;
    steps_equal_prefill(&mut session, tokens)?;
    restoring_brings_the_state_back(&mut session, snapshot)?;
    chip.line(&["--- report"]);
    chip.hash("state_hash", session.state_hash());
    Ok(())
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
    expect(
        session.state_hash() == before,
        "the restored state differs",
    )
}

fn expect(holds: bool, otherwise: Fault) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(otherwise) }
}
