//! Reads a prompt, learns from it, goes on in its manner and says what that cost.
#![no_std]
#![no_main]

use bitttt_core::{Batch, Model, Sampler, Session, Tokenizer, crc32};
use bitttt_cortex_m4f::clock::Clock;
use bitttt_cortex_m4f::console::Console;
use bitttt_cortex_m4f::model::{BLOB, PLAN, PROMPT, PROMPT_TOKENS, TOKENS};
use bitttt_cortex_m4f::{exit, fail, ram};
use cortex_m_rt::entry;
use heapless::Vec;

#[entry]
fn main() -> ! {
    static mut MEMORY: [f32; PLAN.words()] = [0.0; PLAN.words()];
    let Some(peripherals) = cortex_m::Peripherals::take() else {
        fail("peripherals are taken")
    };
    let clock = Clock::start(peripherals.SYST);
    let mut console = Console::open();
    let Ok(model) = Model::from_bytes(BLOB) else {
        fail("the blob is not a model of this version")
    };
    if model.verify().is_err() {
        fail("the blob is damaged")
    }
    let Some(tokenizer) = model.tokenizer() else {
        fail("the blob has no tokenizer")
    };
    let Ok(mut session) = Session::new(model, Batch::ONE, MEMORY) else {
        fail("session memory is too short")
    };
    let ticks = run(&mut session, &tokenizer, &clock, &mut console);
    console.hash("state_hash", session.state_hash());
    console.count(
        "instructions_per_token",
        Clock::instructions(ticks) / TOKENS.max(1) as u64,
    );
    console.count("session_bytes", PLAN.bytes() as u64);
    console.count("stack_bytes", ram::stack() as u64);
    console.count("ram_bytes", (ram::statics() + ram::stack()) as u64);
    console.line(&["ok"]);
    exit(true)
}

/// Generates, printing as it goes; returns the ticks spent on the generated tokens, the console's not counted.
fn run(
    session: &mut Session<'_, '_>,
    tokenizer: &Tokenizer<'_>,
    clock: &Clock,
    console: &mut Console,
) -> u64 {
    let mut prompt = [session.model().config().document_token; PROMPT_TOKENS];
    let length = prompt
        .get_mut(1..)
        .map(|room| tokenizer.encode(PROMPT.as_bytes(), room));
    let Some(tokens) = length
        .and_then(Result::ok)
        .and_then(|n| prompt.get(..n + 1))
    else {
        fail("the prompt does not fit")
    };
    let mut sampler = Sampler::greedy();
    let mut generated: Vec<u8, { 4 * TOKENS }> = Vec::new();
    let mut ticks = 0;
    console.bytes(PROMPT.as_bytes());
    let Ok(logits) = session.prefill(tokens) else {
        fail("the prompt was refused")
    };
    let mut token = sampler.sample(logits);
    for _ in 0..TOKENS {
        let _ = generated.extend_from_slice(&token.to_le_bytes()); // room for all of them
        console.bytes(tokenizer.decode(token));
        let start = clock.ticks();
        let Ok(logits) = session.step(token) else {
            fail("a token was refused")
        };
        token = sampler.sample(logits);
        ticks += clock.ticks() - start;
    }
    console.line(&["\n--- report"]);
    console.hash("tokens_hash", crc32(&generated));
    ticks
}
