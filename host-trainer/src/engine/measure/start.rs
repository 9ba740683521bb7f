//! Where timed decoding starts: near the beginning of a document, or far into one.

use super::some_tokens;
use anyhow::Result;
use bitttt_core::Session;
use bitttt_core::snapshot::{HEADER_BYTES, field};

/// Tokens read before decoding where no context is asked for.
const SHORT_PROMPT: usize = 16;
/// Tokens of a context that are really read; beyond them the session is moved.
const REAL_CONTEXT: usize = 1024;

/// A place in a document, and room behind it.
pub struct Start {
    context: Option<usize>,
    /// Tokens that a session needs room for. What is timed lies between the place and here: an eighth further at most.
    pub capacity: usize,
}

impl Start {
    /// After `context` tokens, or after a short prompt, with room for runs of `run` tokens.
    pub fn after(context: Option<usize>, run: usize) -> Self {
        let before = context.unwrap_or(SHORT_PROMPT);
        Self {
            context,
            capacity: before + run.max(before / 8),
        }
    }

    /// Where a context is asked for, a session that has it, as a snapshot.
    ///
    /// Where it is long, some of it is read and the position set: what a token costs depends on the position, not on what
    /// the tokens were. Attention then reads a cache that is mostly zeros, all of it.
    pub fn snapshot(&self, session: &mut Session<'_, '_>) -> Result<Option<Vec<u8>>> {
        let Some(context) = self.context else {
            return Ok(None);
        };
        let model = *session.model();
        let mini_batch = usize::from(model.config().mini_batch).max(1);
        let read = match context {
            ..=REAL_CONTEXT => context,
            // as far into a mini-batch as the place asked for
            _ => REAL_CONTEXT + (context - REAL_CONTEXT) % mini_batch,
        };
        session.prefill(&some_tokens(&model, read))?;
        let mut snapshot = vec![0; HEADER_BYTES + session.state().len() * 4];
        session.snapshot(&mut snapshot)?;
        move_to(&mut snapshot, context as u64);
        Ok(Some(snapshot))
    }

    /// Brings the session to the start, unless it is there or a little behind it and has room for `run` tokens.
    pub fn take(
        &self,
        session: &mut Session<'_, '_>,
        snapshot: Option<&[u8]>,
        run: usize,
    ) -> Result<()> {
        let Some(snapshot) = snapshot else {
            session.reset();
            session.prefill(&some_tokens(session.model(), SHORT_PROMPT))?;
            return Ok(());
        };
        let position = session.position() as usize;
        let there = self.context.is_some_and(|context| position >= context);
        if !there || position + run > self.capacity {
            session.restore(snapshot)?;
        }
        Ok(())
    }
}

/// Sets the position of a snapshot.
fn move_to(snapshot: &mut [u8], position: u64) {
    let (header, body) = snapshot.split_at_mut(HEADER_BYTES);
    header[field::POSITION..][..8].copy_from_slice(&position.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..field::CRC]);
    crc.update(body);
    header[field::CRC..][..4].copy_from_slice(&crc.finalize().to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitttt_core::format::DType;
    use bitttt_core::{Batch, Model};
    use bitttt_export::AlignedCopy;
    use bitttt_export::random::{FULL_LAYER, blueprint, small_config};

    /// Positions at the starts of some runs.
    fn positions(context: Option<usize>, run: usize) -> Vec<u64> {
        let blob = blueprint(&small_config(), &[FULL_LAYER; 2], DType::T2, 1);
        let blob = AlignedCopy::of(&blob.to_bytes().unwrap());
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let start = Start::after(context, run);
        let batch = Batch::new(64).with_context(start.capacity);
        let mut memory = vec![0.0; model.memory(batch).words()];
        let mut session = Session::new(model, batch, &mut memory).unwrap();
        let snapshot = start.snapshot(&mut session).unwrap();
        let mut position = || {
            start.take(&mut session, snapshot.as_deref(), run).unwrap();
            let position = session.position();
            session.prefill(&vec![1; run]).unwrap();
            assert!(session.position() as usize <= start.capacity);
            position
        };
        (0..4).map(|_| position()).collect()
    }

    #[test]
    fn runs_start_where_they_were_asked_to() {
        assert_eq!(positions(None, 5), [16; 4]);
        assert_eq!(positions(Some(40), 10), [40; 4]);
        assert_eq!(positions(Some(80), 5), [80, 85, 80, 85]);
        assert_eq!(
            positions(Some(1_000_001), 5),
            [1_000_001, 1_000_006, 1_000_011, 1_000_016]
        );
    }
}
