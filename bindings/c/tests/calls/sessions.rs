//! Sessions: where they may live, what they read, what they keep.

use crate::support::*;
use bitttt_c::pointer::{BITTTT_ALIGN, BITTTT_SESSION_BYTES};
use bitttt_c::session::*;
use bitttt_c::status::Status;
use bitttt_core::format::Config;
use std::ptr::{null, null_mut};

#[test]
fn what_is_no_session_or_a_moved_one_is_refused() {
    let live = Live::new(learner(1));
    let mut zeros = vec![0u64; BITTTT_SESSION_BYTES / 8];
    let reset = |at: *mut Session| {
        // SAFETY: as C must; memory that is no session is as long as one.
        unsafe { bitttt_reset(at) }
    };
    assert_eq!(reset(null_mut()), Status::Null);
    assert_eq!(reset(zeros.as_mut_ptr().cast()), Status::Session);
    assert_eq!(reset(live.session.wrapping_byte_add(1)), Status::Misaligned);
    assert_eq!(reset(live.session), Status::Ok);
    let mut copy = live.memory.clone(); // reading the memory ends its use by the session
    assert_eq!(reset(copy.as_mut_ptr().cast()), Status::Session);
}

#[test]
fn memory_that_is_short_misaligned_or_the_blobs_makes_no_session() {
    let blob = learner(1);
    let (at, len) = (blob.bytes().as_ptr(), blob.bytes().len());
    let needed = memory_size(&blob, null()).unwrap();
    let mut memory = vec![0u64; needed.div_ceil(8) + 1];
    let start = memory.as_mut_ptr().cast::<u8>();
    let begin = |memory: *mut u8, bytes| {
        let mut session = std::ptr::dangling_mut();
        // SAFETY: as C must.
        let status =
            unsafe { bitttt_session_init(at, len, null(), memory.cast(), bytes, &raw mut session) };
        assert_eq!(session.is_null(), status != Status::Ok);
        status
    };
    assert_eq!(begin(start, needed), Status::Ok);
    assert_eq!(begin(start, needed - 1), Status::Memory);
    assert_eq!(begin(start, 3), Status::Memory);
    assert_eq!(begin(start, 0), Status::Memory);
    assert_eq!(begin(null_mut(), needed), Status::Null);
    assert_eq!(begin(start, usize::MAX), Status::Length);
    assert_eq!(begin(at.cast_mut(), needed), Status::Overlap);
    for shift in 1..BITTTT_ALIGN {
        assert_eq!(begin(start.wrapping_add(shift), needed), Status::Misaligned);
    }
}

#[test]
fn tokens_that_cannot_be_read_are_refused_and_nothing_is_read() {
    let mut live = Live::new(learner(1));
    let fresh = live.state_hash();
    assert_eq!(live.prefill(&[1, 257]), Err(Status::Token));
    assert_eq!(live.prefill(&[]), Err(Status::Empty));
    let (session, at) = (live.session, [1u32; 4].as_ptr());
    let (mut logits, mut count) = (null_mut(), 0usize);
    let (logits, count) = (&raw mut logits, &raw mut count);
    // SAFETY: as C must.
    unsafe {
        assert_eq!(
            bitttt_prefill(session, null(), 4, logits, count),
            Status::Null
        );
        assert_eq!(
            bitttt_prefill(session, at, 4, null_mut(), count),
            Status::Null
        );
        assert_eq!(
            bitttt_prefill(session, at, 4, logits, null_mut()),
            Status::Null
        );
        assert_eq!(
            bitttt_prefill(session, at, usize::MAX, logits, count),
            Status::Length
        );
        assert_eq!(
            bitttt_prefill(session, at, isize::MAX as usize, logits, count),
            Status::Length
        );
        let odd = at.wrapping_byte_add(1);
        assert_eq!(
            bitttt_prefill(session, odd, 2, logits, count),
            Status::Misaligned
        );
        assert_eq!(
            bitttt_prefill(session, session.cast(), 2, logits, count),
            Status::Overlap
        );
        assert_eq!(bitttt_step(session, 257, logits, count), Status::Token);
    }
    assert_eq!(live.state_hash(), fresh);
}

#[test]
fn a_full_context_is_refused_until_the_session_is_reset() {
    let config = Config {
        context: 2,
        ..tiny()
    };
    let mut live = Live::new(blob(&config, ATTENTION, 1));
    assert!(live.prefill(&[1, 2]).is_ok());
    assert_eq!(live.prefill(&[3]), Err(Status::Context));
    // SAFETY: as C must.
    assert_eq!(unsafe { bitttt_reset(live.session) }, Status::Ok);
    assert!(live.prefill(&[3]).is_ok());
}

#[test]
fn learning_can_be_turned_off_and_on() {
    let tokens: Vec<u32> = (1..12).collect(); // more than a mini-batch
    let hash = |learning: Option<i32>| {
        let mut live = Live::new(learner(1));
        if let Some(learning) = learning {
            // SAFETY: as C must.
            let turned = unsafe { bitttt_set_learning(live.session, learning) };
            assert_eq!(turned, Status::Ok);
        }
        live.prefill(&tokens).unwrap();
        live.state_hash()
    };
    assert_eq!(hash(None), hash(Some(1)));
    assert_eq!(hash(None), hash(Some(-7)));
    assert_ne!(hash(None), hash(Some(0)));
}

#[test]
fn a_snapshot_brings_the_state_back_and_each_fault_of_one_has_its_name() {
    let mut live = Live::new(learner(1));
    live.prefill(&[1, 2, 3]).unwrap();
    let (snapshot, hash) = (live.snapshot(), live.state_hash());
    live.prefill(&[4]).unwrap();
    let later = live.state_hash();
    let changed = |at: usize| {
        let mut changed = snapshot.clone();
        changed[at] ^= 0x10;
        changed
    };
    assert_eq!(live.restore(b"something else"), Status::NotASnapshot);
    assert_eq!(live.restore(&changed(4)), Status::SnapshotVersion);
    assert_eq!(
        live.restore(&snapshot[..snapshot.len() - 1]),
        Status::SnapshotLength
    );
    assert_eq!(
        live.restore(&changed(snapshot.len() - 1)),
        Status::SnapshotDamaged
    );
    assert_eq!(
        Live::new(learner(2)).restore(&snapshot),
        Status::SnapshotModel
    );
    assert_eq!(live.state_hash(), later);
    assert_eq!(live.restore(&snapshot), Status::Ok);
    assert_eq!(live.state_hash(), hash);
    // SAFETY: as C must.
    let position = result(|to| unsafe { bitttt_position(live.session, to) });
    assert_eq!(position, Ok(3));
    // SAFETY: as C must.
    let dropped = result(|to| unsafe { bitttt_dropped_updates(live.session, to) });
    assert_eq!(dropped, Ok(0));
}

#[test]
fn a_snapshot_fits_its_buffer_or_is_refused() {
    let live = Live::new(learner(1));
    let mut buffer = live.snapshot();
    let (at, len) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: as C must; the session's own memory is refused before it is followed.
    let take = |at, len| result(|to| unsafe { bitttt_snapshot(live.session, at, len, to) });
    assert_eq!(take(at, len - 1), Err(Status::Buffer));
    assert_eq!(take(null_mut(), len), Err(Status::Null));
    assert_eq!(take(live.session.cast(), len), Err(Status::Overlap));
    assert_eq!(take(at, len), Ok(len));
}
