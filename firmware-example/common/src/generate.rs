//! Reads a prompt, learns from it, goes on in its manner and says what that cost.

use crate::model::{PROMPT, PROMPT_TOKENS, TOKENS, open};
use crate::{Chip, Fault, divided, report_ram};
use bitttt_core::{Crc32, Sampler, Session, Tokenizer};

/// Runs the model in `memory`, of [`PLAN`](crate::model::PLAN)`.words()` words.
///
/// # Errors
/// What about the model or the memory is not as it should be.
pub fn generate(chip: &mut impl Chip, memory: &mut [f32]) -> Result<(), Fault> {
    #[cfg(feature = "signed")]
    let start = chip.instructions();
    let mut opened = open(memory);
    #[cfg(feature = "signed")]
    let start = chip.instructions() - start;
    let session = opened.as_mut().map_err(|fault| *fault)?;
    #[cfg(feature = "text")]
    session
        .model()
        .verify()
        .map_err(|_| "the blob is damaged")?;
    let tokenizer = &session.model().tokenizer();
    let tokenizer = tokenizer.as_ref().ok_or("the blob has no tokenizer")?;
    let instructions = run(chip, session, tokenizer)?;
    chip.hash("state_hash", session.state_hash());
    chip.count(
        "instructions_per_token",
        divided(instructions, TOKENS.max(1) as u32).0,
    );
    #[cfg(feature = "signed")]
    chip.count("open_instructions", start);
    report_ram(chip);
    Ok(())
}

/// Shows tokens as they come; returns the instructions spent on them, showing not counted.
fn run(
    chip: &mut impl Chip,
    session: &mut Session<'_, '_>,
    tokenizer: &Tokenizer<'_>,
) -> Result<u64, Fault> {
    let mut prompt = [session.model().config().document_token; PROMPT_TOKENS];
    let tokens = encode(tokenizer, &mut prompt)?;
    let mut sampler = Sampler::greedy();
    let mut generated = Crc32::new();
    let mut instructions = 0;
    chip.show(PROMPT.as_bytes());
    let logits = session
        .prefill(tokens)
        .map_err(|_| "the prompt was refused")?;
    let mut token = sampler.sample(logits);
    for _ in 0..TOKENS {
        generated.update(&token.to_le_bytes());
        chip.show(tokenizer.decode(token));
        let start = chip.instructions();
        let logits = session.step(token).map_err(|_| "a token was refused")?;
        token = sampler.sample(logits);
        instructions += chip.instructions() - start;
    }
    chip.line(&["\n--- report"]);
    chip.hash("tokens_hash", generated.finalize());
    Ok(instructions)
}

/// Puts the prompt's tokens behind the document token that `room` begins with.
pub(crate) fn encode<'r>(
    tokenizer: &Tokenizer<'_>,
    room: &'r mut [u32; PROMPT_TOKENS],
) -> Result<&'r [u32], Fault> {
    let [_, rest @ ..] = room;
    let length = tokenizer.encode(PROMPT.as_bytes(), rest);
    length
        .ok()
        .and_then(|length| room.get(..length + 1))
        .ok_or("the prompt does not fit")
}
