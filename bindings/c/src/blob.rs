//! What can be asked about a blob before there is a session.

use crate::pointer::{BITTTT_SESSION_BYTES, In, given};
use crate::status::{Status, status};
use bitttt_core::{Batch, MemoryPlan, Model};

/// How a session is made. All zeros, or a null pointer instead, is the least memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Options {
    /// Tokens that `bitttt_prefill` takes through a layer at once. More is faster and needs more memory; 0 counts as 1.
    pub batch: usize,
    /// Tokens that attention layers without a window have room for; 0: as many as the model says. Nothing changes for
    /// models without such layers.
    pub context: usize,
}

impl Options {
    pub(crate) fn batch(options: &In<Self>) -> Result<Batch, Status> {
        let options = options.optional()?.copied().unwrap_or_default();
        let batch = Batch::new(options.batch);
        Ok(match options.context {
            0 => batch,
            tokens => batch.with_context(tokens),
        })
    }
}

/// A model's dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ModelConfig {
    /// Number of tokens, and of logits.
    pub vocab_size: u32,
    /// Token that starts and separates documents.
    pub document_token: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Number of layers.
    pub layers: u32,
    /// Number of heads.
    pub heads: u32,
    /// Tokens in a mini-batch of test-time training.
    pub mini_batch: u32,
    /// Tokens that attention layers without a window have room for; may be 0 where there is none.
    pub context: u32,
    /// Tokens that the tokenizer makes; 0 where the blob has none.
    pub tokenizer_tokens: u32,
    /// Identifies the model: CRC-32 over its checksums.
    pub fingerprint: u32,
}

/// What a session needs, part by part, in bytes; the same on every target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Plan {
    /// All of it: the sum of the parts.
    pub memory: usize,
    /// The session itself: `BITTTT_SESSION_BYTES`.
    pub session: usize,
    /// What survives a token and goes into a snapshot: fast weights, open mini-batch, keys and values, convolution
    /// history.
    pub state: usize,
    /// Rotary table of test-time training.
    pub rope: usize,
    /// Rotary frequencies and angles of attention.
    pub angles: usize,
    /// Residual stream and one normed copy.
    pub residual: usize,
    /// Intermediates of mixer or feed-forward network, whichever are more.
    pub hidden: usize,
    /// Quantised activations.
    pub quantised: usize,
    /// Look-up tables of products with `t5` weights.
    pub tables: usize,
    /// Temporaries of the mixers' heads.
    pub head: usize,
    /// Logits.
    pub logits: usize,
    /// A snapshot, which is not part of the memory.
    pub snapshot: usize,
}

impl From<MemoryPlan> for Plan {
    fn from(plan: MemoryPlan) -> Self {
        let bytes = |words: usize| words.saturating_mul(4);
        Self {
            memory: plan.bytes().saturating_add(BITTTT_SESSION_BYTES),
            session: BITTTT_SESSION_BYTES,
            state: bytes(plan.state),
            rope: bytes(plan.rope),
            angles: bytes(plan.angles),
            residual: bytes(plan.residual),
            hidden: bytes(plan.hidden),
            quantised: bytes(plan.quantised),
            tables: bytes(plan.tables),
            head: bytes(plan.head),
            logits: bytes(plan.logits),
            snapshot: plan.snapshot_bytes(),
        }
    }
}

/// Reads every byte of a blob: checksums, codes, padding. About 75 instructions a byte on a microcontroller; once after flashing is enough.
///
/// `blob`: `blob_len` bytes, 4-byte aligned.
/// Errors: those of a blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_verify(blob: *const u8, blob_len: usize) -> Status {
    given!(blob);
    status(|| Ok(Model::from_bytes(blob.items(blob_len, &[])?)?.verify()?))
}

/// Dimensions of the model in a blob, whose structure is checked.
///
/// Errors: those of a blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_config(
    blob: *const u8,
    blob_len: usize,
    config: *mut ModelConfig,
) -> Status {
    given!(blob, config);
    status(|| {
        let model = Model::from_bytes(blob.items(blob_len, &[])?)?;
        let known = model.config();
        config.place()?.write(ModelConfig {
            vocab_size: known.vocab_size,
            document_token: known.document_token,
            width: known.d_model,
            layers: known.n_layers,
            heads: known.n_heads.into(),
            mini_batch: known.mini_batch.into(),
            context: known.context,
            tokenizer_tokens: model.tokenizer().map_or(0, |t| t.tokens()),
            fingerprint: model.fingerprint(),
        });
        Ok(())
    })
}

/// What a session on this blob needs, part by part. `options` may be null.
///
/// Errors: those of a blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_plan(
    blob: *const u8,
    blob_len: usize,
    options: *const Options,
    plan: *mut Plan,
) -> Status {
    given!(blob, options, plan);
    status(|| {
        let found = plan_of(&blob, blob_len, &options)?;
        plan.place()?.write(found);
        Ok(())
    })
}

/// Bytes of memory that a session on this blob needs: `bitttt_plan`'s `memory`. `options` may be null.
///
/// The same on every target: asked on a workstation it is the size of a static array on a device.
/// Errors: those of a blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_memory_size(
    blob: *const u8,
    blob_len: usize,
    options: *const Options,
    bytes: *mut usize,
) -> Status {
    given!(blob, options, bytes);
    status(|| {
        let plan = plan_of(&blob, blob_len, &options)?;
        bytes.place()?.write(plan.memory);
        Ok(())
    })
}

fn plan_of(blob: &In<u8>, blob_len: usize, options: &In<Options>) -> Result<Plan, Status> {
    let model = Model::from_bytes(blob.items(blob_len, &[])?)?;
    Ok(model.memory(Options::batch(options)?).into())
}
