//! What a store does while the power stays on, and with damaged bytes.

mod common;

use bitttt_core::{Session, SnapshotError, crc32};
use bitttt_store::{Store, StoreError};
use common::nor::{Fault, Nor, TEARS, Tear};
use common::{model, session, snapshot_bytes};
use proptest::prelude::*;

type Flash = Nor<4, 256, 1>;

fn slot() -> usize {
    Store::<Flash>::slot_for(snapshot_bytes(&session(model(7), 0)))
}

/// A flash that is all store.
fn flash() -> Flash {
    Nor::new(2 * slot() / 256)
}

fn store(flash: &mut Flash) -> Store<&mut Flash> {
    let end = flash.bytes.len() as u32;
    Store::new(flash, 0..end).unwrap()
}

fn snapshot(session: &Session<'_, '_>) -> Vec<u8> {
    let (head, state) = session.snapshot_parts();
    [&head, state].concat()
}

/// Puts a record in a slot, as documented.
fn put(flash: &mut Flash, slot_index: usize, sequence: u32, snapshot: &[u8]) {
    let fields = [sequence, snapshot.len() as u32, crc32(snapshot)].map(u32::to_le_bytes);
    let mut record = [b"BTTR".as_slice(), &fields.concat()].concat();
    record.extend(crc32(&record).to_le_bytes());
    record.extend(snapshot);
    flash.bytes[slot_index * slot()..][..record.len()].copy_from_slice(&record);
}

/// A snapshot with other bytes, which is not damaged otherwise.
fn altered(session: &Session<'_, '_>, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut snapshot = snapshot(session);
    snapshot[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = crc32(&[&snapshot[..28], &snapshot[32..]].concat());
    snapshot[28..32].copy_from_slice(&sum.to_le_bytes());
    snapshot
}

#[test]
fn where_nothing_was_saved_there_is_none() {
    let (mut noise, mut erased) = (flash(), flash());
    erased.bytes.fill(0xFF);
    for flash in [&mut noise, &mut erased] {
        let mut session = session(model(7), 5);
        let before = session.state_hash();
        assert_eq!(store(flash).load(&mut session), Ok(None));
        assert_eq!(session.state_hash(), before);
    }
}

#[test]
fn a_loaded_session_goes_on_as_if_never_stopped() {
    let (mut flash, mut first) = (flash(), session(model(7), 30));
    let saved = store(&mut flash).save(&first).unwrap();
    assert_eq!(saved.bytes, 20 + snapshot_bytes(&first));
    let mut second = session(model(7), 4);
    let loaded = store(&mut flash).load(&mut second).unwrap().unwrap();
    assert_eq!(
        (loaded.sequence, loaded.newer_damaged),
        (saved.sequence, false)
    );
    let tokens = [5, 250, 17, 17, 3];
    assert_eq!(first.prefill(&tokens), second.prefill(&tokens));
    assert_eq!(first.state_hash(), second.state_hash());
}

#[test]
fn a_state_of_another_model_is_refused_and_changes_nothing() {
    let (mut flash, ours, theirs) = (flash(), model(7), model(8));
    store(&mut flash).save(&session(ours, 9)).unwrap();
    store(&mut flash).save(&session(theirs, 9)).unwrap();
    let (bytes, mut session) = (flash.bytes.clone(), session(ours, 5));
    let before = session.state_hash();
    let error = StoreError::OtherModel {
        saved: theirs.fingerprint(),
        model: ours.fingerprint(),
    };
    assert_eq!(store(&mut flash).load(&mut session), Err(error));
    assert_eq!(session.state_hash(), before);
    assert_eq!(flash.bytes, bytes);
}

#[test]
fn a_state_of_another_version_is_refused_and_not_passed_over() {
    let (mut flash, mut session) = (flash(), session(model(7), 5));
    store(&mut flash).save(&session).unwrap();
    put(&mut flash, 0, 9, &altered(&session, 4, &[2, 0]));
    let error = StoreError::Snapshot(SnapshotError::Version(2));
    assert_eq!(store(&mut flash).load(&mut session), Err(error));
}

#[test]
fn a_state_that_is_not_finite_is_passed_over() {
    let (mut flash, mut session) = (flash(), session(model(7), 5));
    put(&mut flash, 0, 8, &snapshot(&session));
    put(
        &mut flash,
        1,
        9,
        &altered(&session, 32, &f32::NAN.to_le_bytes()),
    );
    let loaded = store(&mut flash).load(&mut session).unwrap().unwrap();
    assert_eq!((loaded.sequence, loaded.newer_damaged), (8, true));
}

#[test]
fn a_slot_too_small_is_refused_before_anything_is_erased() {
    let mut flash = flash();
    let (bytes, end) = (flash.bytes.clone(), flash.bytes.len() as u32 - 512);
    let mut store = Store::new(&mut flash, 0..end).unwrap();
    let error = store.save(&session(model(7), 5)).unwrap_err();
    let (needed, given) = (slot(), slot() - 256);
    assert_eq!(error, StoreError::TooSmall { needed, given });
    let text = error.to_string();
    assert!(
        text.contains(&format!("range of {} bytes", 2 * needed)),
        "{text}"
    );
    assert_eq!(flash.bytes, bytes);
}

#[test]
fn a_range_that_does_not_fit_is_refused() {
    let end = flash().bytes.len() as u32;
    for range in [1..end, 0..end - 1, 0..256, 0..0, end..0, 0..end + 256] {
        let error = Store::new(flash(), range.clone()).map(|_| ());
        assert!(matches!(error, Err(StoreError::Range { .. })), "{range:?}");
    }
    let odd = Store::new(flash(), 256..256 * 6).unwrap();
    assert_eq!(odd.slot_bytes(), 512);
}

#[test]
fn words_that_do_not_fit_the_buffer_or_the_sector_are_refused() {
    let sizes = |error| matches!(error, StoreError::Sizes { .. });
    let new = |result: Result<(), StoreError<Fault>>| result.is_err_and(sizes);
    assert!(new(
        Store::new(Nor::<512, 1024, 1>::new(2), 0..2048).map(|_| ())
    ));
    assert!(new(
        Store::new(Nor::<4, 1024, 512>::new(2), 0..2048).map(|_| ())
    ));
    assert!(new(
        Store::new(Nor::<4, 1022, 1>::new(2), 0..2044).map(|_| ())
    ));
    assert!(new(
        Store::new(Nor::<4, 1024, 3>::new(2), 0..2048).map(|_| ())
    ));
}

#[test]
fn a_worn_sector_is_noticed_and_the_state_before_is_kept() {
    let (old, mut new) = (session(model(7), 9), session(model(7), 20));
    for at in [3, 20 + 32 + 3] {
        let mut flash = flash();
        store(&mut flash).save(&old).unwrap();
        let victim = if flash.wear[0] > 0 { slot() } else { 0 };
        flash.stuck = Some(victim + at);
        assert_eq!(store(&mut flash).save(&new), Err(StoreError::Verify));
        store(&mut flash).load(&mut new).unwrap().unwrap();
        assert_eq!(new.state_hash(), old.state_hash());
        new = session(model(7), 20);
    }
}

#[test]
fn a_flash_that_changes_between_two_readings_resets_the_session() {
    let (mut flash, mut session) = (flash(), session(model(7), 9));
    put(&mut flash, 0, 1, &snapshot(&session));
    flash.drifts = Some((20 + 100, 2));
    assert_eq!(
        store(&mut flash).load(&mut session),
        Err(StoreError::Unsteady)
    );
    let fresh = common::session(model(7), 0);
    assert_eq!(session.state_hash(), fresh.state_hash());
}

#[test]
fn the_store_goes_on_after_an_error_of_the_flash() {
    let (old, new) = (session(model(7), 9), session(model(7), 20));
    let mut target = session(model(7), 3);
    for (step, tear) in (0..300).step_by(7).flat_map(|n| TEARS.map(|t| (n, t))) {
        let mut flash = flash();
        store(&mut flash).save(&old).unwrap();
        flash.cut_at(step, tear);
        assert_eq!(
            store(&mut flash).save(&new),
            Err(StoreError::Flash(Fault::Off))
        );
        let mut unread = store(&mut flash);
        assert_eq!(unread.load(&mut target), Err(StoreError::Flash(Fault::Off)));
        flash.power_on();
        let mut store = store(&mut flash);
        store.save(&new).unwrap();
        store.load(&mut target).unwrap().unwrap();
        assert_eq!(target.state_hash(), new.state_hash());
    }
}

#[test]
fn a_forgotten_state_is_gone_and_the_one_before_does_not_come_back() {
    let (old, new) = (session(model(7), 9), session(model(7), 20));
    let mut saved = flash();
    store(&mut saved).save(&old).unwrap();
    store(&mut saved).save(&new).unwrap();
    for (step, tear) in (0..2 * slot() / 256).flat_map(|n| TEARS.map(|t| (n, t))) {
        let (mut flash, mut target) = (saved.clone(), session(model(7), 3));
        flash.cut_at(step, tear);
        store(&mut flash).erase().unwrap_err();
        flash.power_on();
        match store(&mut flash).load(&mut target) {
            Ok(Some(_)) => assert_eq!(target.state_hash(), new.state_hash()),
            Ok(None) | Err(StoreError::Damaged) => {}
            Err(error) => panic!("{error}"),
        }
        store(&mut flash).erase().unwrap();
        assert_eq!(store(&mut flash).load(&mut target), Ok(None));
        assert!(flash.bytes.iter().all(|&byte| byte == 0xFF));
    }
}

#[test]
fn the_number_after_the_largest_is_newer() {
    let (mut flash, old, new) = (flash(), session(model(7), 9), session(model(7), 20));
    put(&mut flash, 0, u32::MAX - 1, &snapshot(&old));
    put(&mut flash, 1, u32::MAX, &snapshot(&old));
    let mut target = session(model(7), 3);
    for expected in [0, 1, 2] {
        assert_eq!(store(&mut flash).save(&new).unwrap().sequence, expected);
        let loaded = store(&mut flash).load(&mut target).unwrap().unwrap();
        assert_eq!(loaded.sequence, expected);
        assert_eq!(target.state_hash(), new.state_hash());
    }
}

#[test]
fn saving_overwrites_the_damaged_state_and_not_the_whole_one() {
    for damaged in 0..2 {
        let (mut flash, session) = (flash(), session(model(7), 9));
        put(&mut flash, damaged, 6, &snapshot(&session));
        put(&mut flash, 1 - damaged, 5, &snapshot(&session));
        flash.bytes[damaged * slot() + 20 + 77] ^= 8;
        let whole = (1 - damaged) * slot()..(2 - damaged) * slot();
        let before = flash.bytes[whole.clone()].to_vec();
        assert_eq!(store(&mut flash).save(&session).unwrap().sequence, 7);
        assert_eq!(flash.bytes[whole], before);
    }
}

#[test]
fn two_damaged_states_are_an_error_that_leaves_the_session_alone() {
    let (mut flash, mut session) = (flash(), session(model(7), 9));
    for index in 0..2 {
        put(&mut flash, index, 5 + index as u32, &snapshot(&session));
        flash.bytes[index * slot() + 20 + 77] ^= 8;
    }
    session.prefill(&[1]).unwrap();
    let before = session.state_hash();
    assert_eq!(
        store(&mut flash).load(&mut session),
        Err(StoreError::Damaged)
    );
    assert_eq!(session.state_hash(), before);
    store(&mut flash).save(&session).unwrap();
    assert!(store(&mut flash).load(&mut session).unwrap().is_some());
}

#[test]
fn a_cut_while_a_damaged_state_is_overwritten_leaves_the_whole_one() {
    let (old, new) = (session(model(7), 9), session(model(7), 20));
    let mut target = session(model(7), 3);
    let mut rotten = flash();
    put(&mut rotten, 0, 5, &snapshot(&old));
    put(&mut rotten, 1, 6, &snapshot(&new));
    rotten.bytes[slot() + 20 + 77] ^= 8;
    for step in 0..300 {
        let mut flash = rotten.clone();
        flash.cut_at(step, Tear::AnyBits);
        store(&mut flash).save(&new).unwrap_err();
        flash.power_on();
        store(&mut flash).load(&mut target).unwrap().unwrap();
        assert_eq!(target.state_hash(), old.state_hash());
    }
}

#[test]
fn a_word_that_cannot_be_read_leaves_the_other_state() {
    let (old, new) = (session(model(7), 9), session(model(7), 20));
    let mut target = session(model(7), 3);
    for at in (0..2 * slot()).step_by(4) {
        let mut flash = flash();
        put(&mut flash, 0, 5, &snapshot(&new));
        put(&mut flash, 1, 4, &snapshot(&old));
        flash.spoil(at);
        let loaded = store(&mut flash).load(&mut target).unwrap().unwrap();
        let (used, body) = (20 + snapshot_bytes(&new), 20..20 + snapshot_bytes(&new));
        let expected = if at < used { &old } else { &new };
        assert_eq!(target.state_hash(), expected.state_hash());
        assert_eq!(loaded.newer_damaged, body.contains(&at));
    }
}

#[test]
fn a_state_that_reads_badly_once_is_kept_while_there_is_an_empty_slot() {
    let (old, new) = (session(model(7), 9), session(model(7), 20));
    let (mut flash, mut target) = (flash(), session(model(7), 3));
    put(&mut flash, 0, 5, &snapshot(&old));
    flash.drifts = Some((20 + 100, 0));
    flash.cut_at(100, Tear::Before);
    store(&mut flash).save(&new).unwrap_err();
    flash.power_on();
    flash.drifts = None;
    store(&mut flash).load(&mut target).unwrap().unwrap();
    assert_eq!(target.state_hash(), old.state_hash());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn one_damaged_byte_never_gives_a_state_that_was_not_saved(at in any::<prop::sample::Index>(), change in 1u8..=255, both in any::<bool>()) {
        let (old, new) = (session(model(7), 9), session(model(7), 20));
        let (mut flash, mut target) = (flash(), session(model(7), 3));
        let mut states = vec![new.state_hash()];
        if both {
            store(&mut flash).save(&old).unwrap();
            states.push(old.state_hash());
        }
        store(&mut flash).save(&new).unwrap();
        let at = at.index(flash.bytes.len());
        flash.bytes[at] ^= change;
        let before = target.state_hash();
        match store(&mut flash).load(&mut target) {
            Ok(Some(_)) => prop_assert!(states.contains(&target.state_hash())),
            Ok(None) | Err(StoreError::Damaged) if !both => prop_assert_eq!(target.state_hash(), before),
            other => prop_assert!(false, "{other:?}"),
        }
        store(&mut flash).save(&old).unwrap();
        store(&mut flash).load(&mut target).unwrap();
        prop_assert_eq!(target.state_hash(), old.state_hash());
    }
}
