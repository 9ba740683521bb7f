//! A session as C has it, for the tests beside.

use bitttt_c::blob::*;
use bitttt_c::session::*;
use bitttt_c::status::Status;
use bitttt_core::format::{Config, DType, LayerConfig, Mixer};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use std::ptr::{null, null_mut};

/// So small that Miri, which interprets, gets through the tests.
pub fn tiny() -> Config {
    Config {
        d_model: 12,
        d_ffn: 16,
        ..small_config()
    }
}

/// A small model that learns, in a blob with the byte tokenizer; other seeds are other models.
pub fn learner(seed: u64) -> AlignedCopy {
    blob(&tiny(), FULL_LAYER, seed)
}

pub fn blob(config: &Config, layer: LayerConfig, seed: u64) -> AlignedCopy {
    let blueprint = blueprint(config, &[layer], DType::T5, seed); // with every part of a plan
    AlignedCopy::of(&blueprint.to_bytes().unwrap())
}

/// One head of keys and values, no window.
pub const ATTENTION: LayerConfig = LayerConfig {
    kv_heads: 1,
    ..LayerConfig::of(Mixer::Attention)
};

/// A session as C has it.
pub struct Live {
    pub session: *mut Session,
    pub memory: Vec<u64>,
    _blob: AlignedCopy,
}

/// The result of a call that writes it through its last parameter.
pub fn result<T: Default>(call: impl FnOnce(*mut T) -> Status) -> Result<T, Status> {
    let mut value = T::default();
    match call(&raw mut value) {
        Status::Ok => Ok(value),
        refused => Err(refused),
    }
}

pub fn memory_size(blob: &AlignedCopy, options: *const Options) -> Result<usize, Status> {
    let bytes = blob.bytes();
    // SAFETY: as C must.
    result(|to| unsafe { bitttt_memory_size(bytes.as_ptr(), bytes.len(), options, to) })
}

impl Live {
    pub fn new(blob: AlignedCopy) -> Self {
        let bytes = memory_size(&blob, null()).unwrap();
        let mut memory = vec![0u64; bytes.div_ceil(8)];
        let mut session = null_mut();
        let (at, len) = (blob.bytes().as_ptr(), blob.bytes().len());
        let memory_at = memory.as_mut_ptr().cast();
        // SAFETY: blob and memory live as long as the session, in this struct.
        let status =
            unsafe { bitttt_session_init(at, len, null(), memory_at, bytes, &raw mut session) };
        assert_eq!(status, Status::Ok);
        assert_eq!(session.addr(), memory.as_ptr().addr());
        Self {
            session,
            memory,
            _blob: blob,
        }
    }

    /// The logits, copied.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Status> {
        let (mut logits, mut count) = (null_mut(), 0);
        let (at, len) = (tokens.as_ptr(), tokens.len());
        // SAFETY: as C must.
        let status =
            unsafe { bitttt_prefill(self.session, at, len, &raw mut logits, &raw mut count) };
        match status {
            // SAFETY: the library says so, and the session is not used meanwhile.
            Status::Ok => Ok(unsafe { std::slice::from_raw_parts(logits, count) }.to_vec()),
            refused => Err(refused),
        }
    }

    pub fn state_hash(&self) -> u32 {
        // SAFETY: as C must.
        result(|to| unsafe { bitttt_state_hash(self.session, to) }).unwrap()
    }

    pub fn snapshot(&self) -> Vec<u8> {
        // SAFETY: as C must.
        let bytes = result(|to| unsafe { bitttt_snapshot_size(self.session, to) }).unwrap();
        let mut buffer = vec![0; bytes];
        let at = buffer.as_mut_ptr();
        // SAFETY: as C must.
        let written = result(|to| unsafe { bitttt_snapshot(self.session, at, bytes, to) });
        assert_eq!(written, Ok(bytes));
        buffer
    }

    pub fn restore(&mut self, snapshot: &[u8]) -> Status {
        // SAFETY: as C must.
        unsafe { bitttt_restore(self.session, snapshot.as_ptr(), snapshot.len()) }
    }
}
