//! Prompt in, tokens out.

use anyhow::Result;
use bitttt_core::{Sampler, Session, SessionError, crc32};
use std::ops::ControlFlow;
use std::time::Instant;

/// What ended a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// As many tokens as were asked for.
    Length,
    /// A token to stop at, which has not been read.
    Token,
    /// A text to stop at, found by whoever was shown the tokens.
    Text,
}

/// What a generation did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Generated {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens made.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt read in a second.
    pub prefill_tokens_per_s: f64,
    /// Tokens made in a second.
    pub decode_tokens_per_s: f64,
    /// What ended it.
    pub finish: Finish,
}

/// Reads `prompt` and makes up to `count` tokens, stopping before any of `stop`; each is shown to `show` as it is made, which
/// may end it. The last token made has been read by the session, too: whatever is read next continues from it.
///
/// # Errors
/// Tokens out of range, an empty prompt, or what `show` returns.
pub fn generate(
    session: &mut Session<'_, '_>,
    prompt: &[u32],
    count: usize,
    stop: &[u32],
    sampler: &mut Sampler,
    mut show: impl FnMut(u32) -> Result<ControlFlow<()>>,
) -> Result<Generated> {
    let start = Instant::now();
    let mut next = sampler.sample(session.prefill(prompt).map_err(advise)?);
    let prefill = start.elapsed().as_secs_f64();
    let (mut tokens, mut finish) = (Vec::new(), Finish::Length);
    let start = Instant::now();
    while tokens.len() < count && finish == Finish::Length {
        if stop.contains(&next) {
            finish = Finish::Token;
            break;
        }
        tokens.push(next);
        if show(next)?.is_break() {
            finish = Finish::Text;
        }
        next = sampler.sample(session.step(next).map_err(advise)?);
    }
    let decode = start.elapsed().as_secs_f64();
    Ok(Generated {
        prompt_tokens: prompt.len(),
        prefill_tokens_per_s: prompt.len() as f64 / prefill,
        decode_tokens_per_s: tokens.len() as f64 / decode.max(1e-9),
        tokens,
        finish,
    })
}

/// What to do about a full context is another thing on the command line than in code.
fn advise(error: SessionError) -> anyhow::Error {
    match error {
        SessionError::Context {
            capacity,
            position,
            tokens,
        } => anyhow::anyhow!(
            "attention has room for {capacity} tokens, {position} are read and {tokens} more are to be; give a larger \
             --context"
        ),
        other => other.into(),
    }
}

impl Generated {
    /// CRC-32 of the tokens made, as little-endian u32: the firmware prints the same.
    pub fn tokens_hash(&self) -> String {
        format!("{:08x}", crc32(bytemuck::cast_slice(&self.tokens)))
    }
}
