//! The test vectors of RFC 8032, section 7.1, but for the long one, and signatures that a strict verifier has to refuse.

use bitttt_sign::{SecretKey, SignError, verify_message};
use sha2::{Digest, Sha512};

/// Secret key, public key, message, signature.
const VECTORS: [[&str; 4]; 4] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
    // "TEST SHA(abc)"
    [
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ],
];

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}

fn vectors() -> impl Iterator<Item = (SecretKey, [u8; 32], Vec<u8>, [u8; 64])> {
    VECTORS
        .iter()
        .enumerate()
        .map(|(i, [secret, public, message, signature])| {
            let message = if i == 3 {
                Sha512::digest(b"abc").to_vec()
            } else {
                bytes(message)
            };
            (
                SecretKey::from_seed(array(secret)),
                array(public),
                message,
                array(signature),
            )
        })
}

#[test]
fn vectors_of_the_standard_are_made_and_verified() {
    for (secret, public, message, signature) in vectors() {
        assert_eq!(secret.public(), public);
        assert_eq!(secret.sign_message(&message), signature);
        assert_eq!(verify_message(&public, &message, &signature), Ok(()));
    }
}

#[test]
fn vectors_with_any_bit_changed_are_refused() {
    for (_, public, message, signature) in vectors() {
        for bit in 0..512 {
            let mut changed = signature;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                verify_message(&public, &message, &changed).is_err(),
                "bit {bit} of the signature"
            );
        }
        for bit in 0..256 {
            let mut changed = public;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                verify_message(&changed, &message, &signature).is_err(),
                "bit {bit} of the key"
            );
        }
        for bit in 0..8 * message.len() {
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                verify_message(&public, &changed, &signature).is_err(),
                "bit {bit} of the message"
            );
        }
    }
}

/// The order of the group, little-endian.
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

#[test]
fn a_scalar_that_is_not_reduced_is_refused() {
    let order = bytes(ORDER);
    for (_, public, message, signature) in vectors() {
        let mut changed = signature;
        let mut carry = 0;
        for (to, add) in changed[32..].iter_mut().zip(&order) {
            let sum = u16::from(*to) + u16::from(*add) + carry;
            *to = sum as u8;
            carry = sum >> 8;
        }
        assert_eq!(
            verify_message(&public, &message, &changed),
            Err(SignError::Mismatch)
        );
    }
}

/// With such a key one signature, of zeros in all but R, would be of every message.
#[test]
fn keys_of_small_order_sign_nothing() {
    for key in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ] {
        for r in [
            key,
            "0100000000000000000000000000000000000000000000000000000000000000",
        ] {
            let signature = array(&format!("{r}{}", "0".repeat(64)));
            for message in 0..32u8 {
                assert!(
                    verify_message(&array(key), &[message], &signature).is_err(),
                    "{key}"
                );
            }
        }
    }
}
