//! A session in C's memory: its calls, thin over those of [`bitttt_core::Session`].

use crate::blob::Options;
use crate::pointer::{BITTTT_ALIGN, InOut, addresses, given};
use crate::status::{Status, status};
use bitttt_core::{Learning, Model, Session as CoreSession};
use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::slice;

/// One stream of tokens through a model. It lives in the memory that it was given; there is nothing to free.
///
/// One thread at a time may use it. It must stay where it was made.
pub struct Session {
    /// [`Session::mark_at`] the place where it stands.
    pub(crate) mark: usize,
    memory: usize,
    inner: CoreSession<'static, 'static>,
}

impl Session {
    /// What tells a session from other memory, and from a copy of one, whose state would be elsewhere.
    pub(crate) fn mark_at(address: usize) -> usize {
        0xB177_7700 ^ address
    }

    /// What no buffer may overlap: the session's memory and the blob.
    pub(crate) fn taken(&self) -> [Range<usize>; 2] {
        let start = core::ptr::from_ref(self).addr();
        let blob = self.inner.model().layout().bytes();
        [start..start + self.memory, addresses(blob)]
    }

    /// The model.
    pub(crate) fn model(&self) -> &Model<'static> {
        self.inner.model()
    }
}

/// Makes a session at the start of a document, in memory of the caller.
///
/// `blob`: `blob_len` bytes, 4-byte aligned, which stay there unchanged as long as the session is used; they are read
/// in place. Its structure is checked, its data by `bitttt_verify` only.
/// `options`: may be null.
/// `memory`: at least `bitttt_memory_size` bytes with the same options, aligned to `BITTTT_ALIGN`; content does not
/// matter. A session that was there is gone.
/// `session`: set to the session, which lies in `memory`; to null on error.
///
/// Errors: `BITTTT_STATUS_MEMORY`, and those of a blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_session_init(
    blob: *const u8,
    blob_len: usize,
    options: *const Options,
    memory: *mut c_void,
    memory_len: usize,
    session: *mut *mut Session,
) -> Status {
    given!(blob, options, memory, session);
    status(|| {
        let handle = session.place()?.write(core::ptr::null_mut());
        let blob = blob.items_kept(blob_len)?;
        let batch = Options::batch(&options)?;
        let model = Model::from_bytes(blob)?;
        let taken = [addresses(blob), addresses(slice::from_ref(handle))];
        let (place, words) = memory.session_memory(memory_len, &taken)?;
        let inner = CoreSession::new(model, batch, words)?;
        let mark = Session::mark_at(place.as_ptr().addr());
        *handle = place.write(Session {
            mark,
            memory: memory_len,
            inner,
        });
        Ok(())
    })
}

const _: () = assert!(BITTTT_ALIGN.is_multiple_of(align_of::<f32>()));

/// Reads one token, learning from it.
///
/// `logits`: set to the logits `[vocab_size]` that follow the token. They lie in the session's memory, may be changed
/// (`bitttt_sample` does), and are valid until the next call with this session.
/// `count`: set to their number.
///
/// Errors: `BITTTT_STATUS_TOKEN`, `BITTTT_STATUS_CONTEXT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_step(
    session: *mut Session,
    token: u32,
    logits: *mut *mut f32,
    count: *mut usize,
) -> Status {
    given!(session, logits, count);
    status(|| read(session.session()?, &[token], &mut logits, &mut count))
}

/// Reads tokens, learning from them.
///
/// `tokens`: `tokens_len` of them, at least one.
/// `logits`, `count`: as with `bitttt_step`, after the last of the tokens.
///
/// Errors: `BITTTT_STATUS_EMPTY`, `BITTTT_STATUS_TOKEN`, `BITTTT_STATUS_CONTEXT`; no token has been read then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_prefill(
    session: *mut Session,
    tokens: *const u32,
    tokens_len: usize,
    logits: *mut *mut f32,
    count: *mut usize,
) -> Status {
    given!(session, tokens, logits, count);
    status(|| {
        let session = session.session()?;
        let tokens = tokens.items(tokens_len, &session.taken())?;
        read(session, tokens, &mut logits, &mut count)
    })
}

fn read(
    session: &mut Session,
    tokens: &[u32],
    logits: &mut InOut<*mut f32>,
    count: &mut InOut<usize>,
) -> Result<(), Status> {
    let (logits, count) = (logits.place()?, count.place()?);
    let all = session.inner.prefill(tokens)?;
    count.write(all.len());
    logits.write(all.as_mut_ptr());
    Ok(())
}

/// Forgets everything that was learned: fast weights as the model was trained, position 0. Call it between documents.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_reset(session: *mut Session) -> Status {
    given!(session);
    status(|| {
        session.session()?.inner.reset();
        Ok(())
    })
}

/// Whether tokens train the fast weights from the next one on: 0 reads without learning, any other number learns, as a
/// new session does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_set_learning(session: *mut Session, learning: c_int) -> Status {
    given!(session);
    let learning = match learning {
        0 => Learning::Frozen,
        _ => Learning::On,
    };
    status(|| {
        session.session()?.inner.set_learning(learning);
        Ok(())
    })
}

/// Tokens read since the start of the document.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_position(session: *const Session, position: *mut u64) -> Status {
    given!(session, position);
    status(|| {
        position.place()?.write(session.session()?.inner.position());
        Ok(())
    })
}

/// Updates of a head that were dropped because they were not finite, since the start of the document. More than 0 says
/// that the model does not suit its stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_dropped_updates(
    session: *const Session,
    updates: *mut u32,
) -> Status {
    given!(session, updates);
    status(|| {
        let dropped = session.session()?.inner.dropped_updates();
        updates.place()?.write(dropped);
        Ok(())
    })
}

/// CRC-32 of the learned state and the position: equal on every target after the same tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_state_hash(session: *const Session, hash: *mut u32) -> Status {
    given!(session, hash);
    status(|| {
        hash.place()?.write(session.session()?.inner.state_hash());
        Ok(())
    })
}

/// Bytes of a snapshot of this session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_snapshot_size(
    session: *const Session,
    bytes: *mut usize,
) -> Status {
    given!(session, bytes);
    status(|| {
        let state = session.session()?.inner.state();
        let size = bitttt_core::snapshot::HEADER_BYTES + size_of_val(state);
        bytes.place()?.write(size);
        Ok(())
    })
}

/// Writes what the session has learned into a buffer, from which `bitttt_restore` continues, on this machine or
/// another, to the same bits.
///
/// `buffer`: `buffer_len` bytes, at least `bitttt_snapshot_size`.
/// `written`: set to the bytes used.
///
/// Errors: `BITTTT_STATUS_BUFFER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_snapshot(
    session: *const Session,
    buffer: *mut u8,
    buffer_len: usize,
    written: *mut usize,
) -> Status {
    given!(session, buffer, written);
    status(|| {
        let session = session.session()?;
        let written = written.place()?;
        let buffer = buffer.items(buffer_len, &session.taken())?;
        written.write(session.inner.snapshot(buffer)?);
        Ok(())
    })
}

/// Goes on from a snapshot: `snapshot_len` bytes, exactly those that `bitttt_snapshot` wrote.
///
/// Errors: those of a snapshot; the session is as before then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_restore(
    session: *mut Session,
    snapshot: *const u8,
    snapshot_len: usize,
) -> Status {
    given!(session, snapshot);
    status(|| {
        let session = session.session()?;
        let snapshot = snapshot.items(snapshot_len, &session.taken())?;
        Ok(session.inner.restore(snapshot)?)
    })
}
