//! Keys: what signs, what verifies, and how they are written down.

use crate::SignError;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha512};

/// A public key as RFC 8032 encodes it.
pub type PublicKey = [u8; 32];

/// Bytes of a key's id.
pub const KEY_ID_BYTES: usize = 8;

/// The name of a public key in a record: the first bytes of its SHA-512. It only chooses among keys; nothing rests on it.
pub fn key_id(key: &PublicKey) -> [u8; KEY_ID_BYTES] {
    let hash = Sha512::digest(key);
    let mut id = [0; KEY_ID_BYTES];
    id.iter_mut().zip(&hash).for_each(|(to, from)| *to = *from);
    id
}

/// Whether `signature` is of `message` and by the owner of `key`: Ed25519 as in RFC 8032, without a context. Strict: scalars
/// that are not reduced are refused, as are keys and points of small order.
///
/// # Errors
/// [`SignError::Key`] or [`SignError::Mismatch`].
pub fn verify_message(
    key: &PublicKey,
    message: &[u8],
    signature: &[u8; 64],
) -> Result<(), SignError> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| SignError::Key)?;
    let signature = Signature::from_bytes(signature);
    key.verify_strict(message, &signature)
        .map_err(|_| SignError::Mismatch)
}

/// A secret key. Overwritten with zeros when it is dropped.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key that RFC 8032 makes of a seed, which has to be 32 bytes that nobody can guess.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// What verifies its signatures.
    pub fn public(&self) -> PublicKey {
        self.0.verifying_key().to_bytes()
    }

    /// Signs a message: Ed25519 as in RFC 8032, without a context.
    pub fn sign_message(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// Shows whose it is, not what it is.
impl core::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("SecretKey")
            .field(&key_id(&self.public()))
            .finish()
    }
}

/// The public key in a PEM file, as `bitttt keygen` and OpenSSL write it; at compile time, too.
///
/// Whether it is a point on the curve is seen by [`verify_message`].
///
/// # Errors
/// [`SignError::Pem`].
pub const fn public_key(pem: &str) -> Result<PublicKey, SignError> {
    // 12 bytes that say "a public key of Ed25519" fill the first 16 digits.
    let Some(at) = after(pem.as_bytes(), 0, b"-----BEGIN PUBLIC KEY-----") else {
        return Err(SignError::Pem);
    };
    let at = after_line(pem.as_bytes(), at);
    let Some(at) = after(pem.as_bytes(), at, b"MCowBQYDK2VwAyEA") else {
        return Err(SignError::Pem);
    };
    let end = after_line(pem.as_bytes(), at + DIGITS + 1);
    let ends = after(pem.as_bytes(), end, b"-----END PUBLIC KEY-----");
    match (ends, decode(pem.as_bytes(), at)) {
        (Some(_), Some(key)) => Ok(key),
        _ => Err(SignError::Pem),
    }
}

/// Digits of a key in base 64; the last one has two bits too many, and one `=` follows.
const DIGITS: usize = 43;

const fn decode(text: &[u8], at: usize) -> Option<PublicKey> {
    if after(text, at + DIGITS, b"=").is_none() {
        return None;
    }
    let (mut key, mut bits, mut held, mut done) = ([0; 32], 0u32, 0, 0);
    let mut i = 0;
    while i < DIGITS {
        let Some(digit) = digit(text[at + i]) else {
            return None;
        };
        bits = bits << 6 | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            key[done] = (bits >> held) as u8;
            bits &= (1 << held) - 1;
            done += 1;
        }
        i += 1;
    }
    if bits == 0 { Some(key) } else { None }
}

const fn digit(letter: u8) -> Option<u8> {
    Some(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

/// Where `text` goes on after `word`, which has to be at `at`.
const fn after(text: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    if at > text.len() || word.len() > text.len() - at {
        return None;
    }
    let mut i = 0;
    while i < word.len() {
        if text[at + i] != word[i] {
            return None;
        }
        i += 1;
    }
    Some(at + word.len())
}

/// Where the next line begins, if `text` ends one at `at`; else `at`.
const fn after_line(text: &[u8], at: usize) -> usize {
    if let Some(next) = after(text, at, b"\r\n") {
        return next;
    }
    match after(text, at, b"\n") {
        Some(next) => next,
        None => at,
    }
}
