//! Shows on the device what the host's tests show: every road through the same tokens ends in the same state.
#![no_std]
#![no_main]

use bitttt_core::{Batch, Model, Session};
use bitttt_cortex_m4f::console::Console;
use bitttt_cortex_m4f::model::{BLOB, PLAN, PROMPT, PROMPT_TOKENS};
use bitttt_cortex_m4f::{exit, fail};
use cortex_m_rt::entry;

#[entry]
fn main() -> ! {
    static mut MEMORY: [f32; PLAN.words()] = [0.0; PLAN.words()];
    static mut SNAPSHOT: [u8; PLAN.snapshot_bytes()] = [0; PLAN.snapshot_bytes()];
    let Ok(model) = Model::from_bytes(BLOB) else {
        fail("the blob is not a model of this version")
    };
    let Ok(mut session) = Session::new(model, Batch::ONE, MEMORY) else {
        fail("session memory is too short")
    };
    let mut prompt = [model.config().document_token; PROMPT_TOKENS];
    let encoded = model
        .tokenizer()
        .zip(prompt.get_mut(1..))
        .and_then(|(tokenizer, room)| tokenizer.encode(PROMPT.as_bytes(), room).ok());
    let Some(tokens) = encoded.and_then(|n| prompt.get(..n + 1)) else {
        fail("the prompt does not fit")
    };
    steps_equal_prefill(&mut session, tokens);
    restoring_brings_the_state_back(&mut session, SNAPSHOT);
    let mut console = Console::open();
    console.line(&["--- report"]);
    console.hash("state_hash", session.state_hash());
    console.line(&["ok"]);
    exit(true)
}

fn steps_equal_prefill(session: &mut Session<'_, '_>, tokens: &[u32]) {
    if session.prefill(tokens).is_err() {
        fail("the prompt was refused")
    }
    let prefilled = session.state_hash();
    session.reset();
    for &token in tokens {
        if session.step(token).is_err() {
            fail("a token was refused")
        }
    }
    if session.state_hash() != prefilled {
        fail("steps and prefill differ")
    }
}

fn restoring_brings_the_state_back(session: &mut Session<'_, '_>, buffer: &mut [u8]) {
    let before = session.state_hash();
    let Ok(length) = session.snapshot(buffer) else {
        fail("the snapshot does not fit")
    };
    session.reset();
    if session.state_hash() == before {
        fail("reset kept the state")
    }
    if session
        .restore(buffer.get(..length).unwrap_or(&[]))
        .is_err()
    {
        fail("the snapshot was refused")
    }
    if session.state_hash() != before {
        fail("the restored state differs")
    }
}
