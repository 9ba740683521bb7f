//! What is being signed or verified, as it is read.

use crate::key::{PublicKey, SecretKey, key_id, verify_message};
use crate::record::{self, SIGNATURE_BYTES};
use crate::{Kind, SignError};
use sha2::{Digest as _, Sha512};

/// A payload in pieces: one that is nowhere whole, like the snapshot that [`bitttt_core::Session::snapshot_parts`] gives, or
/// one in a flash that is read by a driver.
///
/// What is read again after it was verified may have changed: use the same bytes, or trust what they lie in.
#[derive(Clone)]
pub struct Content {
    kind: Kind,
    hash: Sha512,
}

/// The signed message: a context, and a hash of the payload.
const MESSAGE_BYTES: usize = 32 + 64;

impl Content {
    /// Nothing yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            hash: Sha512::new(),
        }
    }

    /// The payload goes on with these bytes.
    pub fn update(&mut self, piece: &[u8]) {
        self.hash.update(piece);
    }

    /// Signs it.
    pub fn sign(self, key: &SecretKey) -> [u8; SIGNATURE_BYTES] {
        let kind = self.kind;
        record::build(kind, &key.public(), &key.sign_message(&self.message()))
    }

    /// Whether `signature`, a record, is of it and by one of the `keys`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(self, keys: &[PublicKey], signature: &[u8]) -> Result<(), SignError> {
        let (id, signature) = record::parse(self.kind, signature)?;
        let key = keys.iter().find(|key| key_id(key) == id);
        let key = key.ok_or(SignError::UnknownKey(id))?;
        verify_message(key, &self.message(), signature)
    }

    /// What Ed25519 signs. Short, so that a token or a service that holds the key can sign it, too.
    pub fn message(self) -> [u8; MESSAGE_BYTES] {
        let mut message = [0; MESSAGE_BYTES];
        let hash = self.hash.finalize();
        let bytes = self.kind.context().iter().chain(&hash);
        message
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        message
    }
}

impl core::fmt::Debug for Content {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Content")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
