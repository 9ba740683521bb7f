//! Signed is what was signed, to the bit, by a known key, as what it is; anything else is refused.

use bitttt_core::format::DType;
use bitttt_core::{Batch, Model, Session};
use bitttt_export::AlignedCopy;
use bitttt_export::random::{FULL_LAYER, blueprint, small_config};
use bitttt_sign::{
    Content, Kind, PublicKey, SIGNATURE_BYTES, SecretKey, SignError, field, key_id, sign, signed,
    signer, verify,
};
use proptest::prelude::*;

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn blob() -> Vec<u8> {
    let blueprint = blueprint(&small_config(), &[FULL_LAYER; 2], DType::T2, 1);
    blueprint.to_bytes().unwrap()
}

fn snapshot() -> Vec<u8> {
    let blob = AlignedCopy::of(&blob());
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let plan = model.memory(Batch::ONE);
    let mut memory = vec![0.0; plan.words()];
    let mut session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    session.prefill(&[1, 2, 3, 4, 5]).unwrap();
    let mut bytes = vec![0; plan.snapshot_bytes()];
    session.snapshot(&mut bytes).unwrap();
    bytes
}

fn payload(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Blob => blob(),
        Kind::Snapshot => snapshot(),
    }
}

/// Payload and signature, one after the other.
fn image(kind: Kind) -> Vec<u8> {
    let mut image = payload(kind);
    let signature = sign(kind, &key(1), &image);
    image.extend(signature);
    image
}

fn keys() -> [PublicKey; 2] {
    [key(2).public(), key(1).public()]
}

#[test]
fn what_is_signed_comes_back_as_it_was() {
    for kind in Kind::ALL {
        let (payload, image) = (payload(kind), image(kind));
        assert_eq!(Kind::of(&payload), Some(kind));
        assert_eq!(signed(kind, &keys(), &image), Ok(&payload[..]));
        let (payload, signature) = image.split_at(payload.len());
        assert_eq!(verify(kind, &keys(), payload, signature), Ok(()));
        assert_eq!(signer(signature), Some(key_id(&key(1).public())));
    }
}

#[test]
fn what_lies_behind_the_signature_does_not_matter() {
    for kind in Kind::ALL {
        let mut image = image(kind);
        let whole = image.clone();
        image.extend([0xFF; 1000]);
        assert_eq!(signed(kind, &keys(), &image), signed(kind, &keys(), &whole));
    }
}

#[test]
fn a_signature_with_any_bit_changed_is_refused() {
    for kind in Kind::ALL {
        let image = image(kind);
        let start = image.len() - SIGNATURE_BYTES;
        for bit in 0..8 * SIGNATURE_BYTES {
            let mut image = image.clone();
            image[start + bit / 8] ^= 1 << (bit % 8);
            let found = signed(kind, &keys(), &image).expect_err("one bit is wrong");
            match bit / 8 {
                0..field::VERSION => assert_eq!(found, SignError::NotASignature),
                field::VERSION..field::KIND => assert!(matches!(found, SignError::Version(_))),
                field::KIND..field::KEY_ID => assert_eq!(found, SignError::Kind(kind)),
                field::KEY_ID..field::SIGNATURE => {
                    assert!(matches!(found, SignError::UnknownKey(_)))
                }
                _ => assert_eq!(found, SignError::Mismatch),
            }
        }
    }
}

/// Every bit of the header, one of each eleventh byte behind it, and all of the last byte.
#[test]
fn a_payload_with_a_bit_changed_is_refused() {
    for kind in Kind::ALL {
        let mut image = image(kind);
        let bytes = image.len() - SIGNATURE_BYTES;
        let bits = |byte| (0..8).map(move |bit| (byte, bit));
        let whole = (0..32).chain([bytes - 1]).flat_map(bits);
        let rest = (32..bytes).step_by(11).map(|byte| (byte, byte % 8));
        let places: Vec<_> = whole.chain(rest).collect();
        for &(byte, bit) in &places {
            image[byte] ^= 1 << bit;
            assert!(
                signed(kind, &keys(), &image).is_err(),
                "bit {bit} of byte {byte}"
            );
            image[byte] ^= 1 << bit;
        }
        eprintln!("{}: {} changed bits refused", kind.name(), places.len());
    }
}

#[test]
fn what_was_signed_as_one_thing_is_not_signed_as_another() {
    let bytes = blob();
    let signature = sign(Kind::Blob, &key(1), &bytes);
    assert_eq!(
        verify(Kind::Snapshot, &keys(), &bytes, &signature),
        Err(SignError::Kind(Kind::Snapshot))
    );
    // Nor where the record claims it: the message itself says what it is.
    let mut relabelled = signature;
    relabelled[field::KIND] = Kind::Snapshot as u8;
    assert_eq!(
        verify(Kind::Snapshot, &keys(), &bytes, &relabelled),
        Err(SignError::Mismatch)
    );
    let mut image = bytes;
    image.extend(signature);
    assert_eq!(
        signed(Kind::Snapshot, &keys(), &image),
        Err(SignError::Payload(Kind::Snapshot))
    );
}

#[test]
fn another_key_is_refused_even_where_it_takes_the_name_of_ours() {
    let bytes = blob();
    let mut signature = sign(Kind::Blob, &key(3), &bytes);
    let stranger = key_id(&key(3).public());
    assert_eq!(
        verify(Kind::Blob, &keys(), &bytes, &signature),
        Err(SignError::UnknownKey(stranger))
    );
    signature[field::KEY_ID..field::SIGNATURE].copy_from_slice(&key_id(&key(1).public()));
    assert_eq!(
        verify(Kind::Blob, &keys(), &bytes, &signature),
        Err(SignError::Mismatch)
    );
    assert_eq!(
        verify(Kind::Blob, &[], &bytes, &signature),
        Err(SignError::UnknownKey(key_id(&key(1).public())))
    );
}

#[test]
fn a_key_that_is_none_is_refused() {
    let bytes = blob();
    let mut signature = sign(Kind::Blob, &key(1), &bytes);
    let broken = [2; 32]; // no x for this y
    signature[field::KEY_ID..field::SIGNATURE].copy_from_slice(&key_id(&broken));
    assert_eq!(
        verify(Kind::Blob, &[broken], &bytes, &signature),
        Err(SignError::Key)
    );
}

#[test]
fn a_region_that_is_cut_short_is_refused_wherever() {
    for kind in Kind::ALL {
        let image = image(kind);
        for length in 0..image.len() {
            assert!(
                signed(kind, &keys(), &image[..length]).is_err(),
                "{length} bytes"
            );
        }
    }
}

#[test]
fn a_length_beyond_the_region_is_refused() {
    let mut image = image(Kind::Blob);
    for length in [0, 31, u64::MAX, u64::MAX - 79, image.len() as u64, 1 << 32] {
        image[8..16].copy_from_slice(&length.to_le_bytes());
        assert!(signed(Kind::Blob, &keys(), &image).is_err(), "{length}");
    }
}

#[test]
fn pieces_are_signed_as_the_whole_is() {
    let blob = AlignedCopy::of(&blob());
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let plan = model.memory(Batch::ONE);
    let mut memory = vec![0.0; plan.words()];
    let session = Session::new(model, Batch::ONE, &mut memory).unwrap();
    let mut whole = vec![0; plan.snapshot_bytes()];
    session.snapshot(&mut whole).unwrap();
    let mut content = Content::new(Kind::Snapshot);
    let (head, body) = session.snapshot_parts();
    content.update(&head);
    content.update(body);
    assert_eq!(content.sign(&key(1)), sign(Kind::Snapshot, &key(1), &whole));
}

#[test]
fn the_signed_message_is_as_the_format_says() {
    use sha2::{Digest, Sha512};
    let bytes = blob();
    let mut content = Content::new(Kind::Blob);
    content.update(&bytes);
    let mut message = b"bitttt signature 1: blob\0\0\0\0\0\0\0\0".to_vec();
    message.extend(Sha512::digest(&bytes));
    assert_eq!(content.message().as_slice(), &message);
    let signature = sign(Kind::Blob, &key(1), &bytes);
    assert_eq!(signature[..8], *b"BTSG\x01\x00\x01\x00");
    assert_eq!(signature[8..16], Sha512::digest(key(1).public())[..8]);
    assert_eq!(signature[16..], key(1).sign_message(&message));
}

/// By another program, over the message that the format describes: Python's `cryptography`, with the key of the first test
/// vector of RFC 8032.
#[test]
fn signatures_of_another_program_are_the_same() {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let byte = |i| u8::from_str_radix(&seed[2 * i..2 * i + 2], 16).unwrap();
    let key = SecretKey::from_seed(core::array::from_fn(byte));
    for (kind, theirs) in [
        (
            Kind::Blob,
            "1762d98018b30231d1ca3f2d36c48a692b5caed53aa78dc3aebe007cc223a660bcda20a538ea45748dd44cbe05a9736c952888e9718b6ab0966c7b30dfd57108",
        ),
        (
            Kind::Snapshot,
            "e632b89d8f04495386c3a883d1f035745bc011e1fad27bda0c0186528614936a109c78a98c024f37db2b1d9ee534c9a85335306e107029d92902d64a1999e20a",
        ),
    ] {
        let ours = sign(kind, &key, b"abc");
        let hex: String = ours[16..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, theirs);
        assert_eq!(verify(kind, &[key.public()], b"abc", &ours), Ok(()));
    }
}

proptest! {
    #[test]
    fn no_region_whatever_panics_or_passes(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in 0..3usize) {
        let mut bytes = bytes;
        let start = [&b""[..], b"BTTT", b"BTTS"][magic];
        bytes.splice(0..0, start.iter().copied());
        for kind in Kind::ALL {
            prop_assert!(signed(kind, &keys(), &bytes).is_err());
            prop_assert!(verify(kind, &keys(), &bytes, &bytes).is_err());
        }
    }

    #[test]
    fn any_change_of_a_signed_payload_is_refused(
        payload in proptest::collection::vec(any::<u8>(), 1..400),
        at in any::<prop::sample::Index>(),
        change in 1..=255u8,
        cut in any::<prop::sample::Index>(),
        secret in any::<[u8; 32]>(),
    ) {
        let secret = SecretKey::from_seed(secret);
        let keys = [secret.public()];
        for kind in Kind::ALL {
            let signature = sign(kind, &secret, &payload);
            prop_assert_eq!(verify(kind, &keys, &payload, &signature), Ok(()));
            let mut changed = payload.clone();
            changed[at.index(payload.len())] ^= change;
            prop_assert_eq!(verify(kind, &keys, &changed, &signature), Err(SignError::Mismatch));
            let cut = &payload[..cut.index(payload.len())];
            prop_assert_eq!(verify(kind, &keys, cut, &signature), Err(SignError::Mismatch));
            let longer = [payload.as_slice(), &[change]].concat();
            prop_assert_eq!(verify(kind, &keys, &longer, &signature), Err(SignError::Mismatch));
        }
    }
}
