//! Why something is not signed, and the way out of it.

use crate::Kind;
use crate::key::KEY_ID_BYTES;
use core::fmt;

/// Why nothing of a payload may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignError {
    /// The payload is not of this kind.
    Payload(Kind),
    /// The region ends before the payload or its signature does.
    Length,
    /// The first bytes of the record are not `BTSG`.
    NotASignature,
    /// The record is not as long as one.
    SignatureLength(usize),
    /// Written by another version.
    Version(u16),
    /// The signature is not of this kind.
    Kind(Kind),
    /// Signed with a key that was not given; its id.
    UnknownKey([u8; KEY_ID_BYTES]),
    /// The public key is not one: not on the curve.
    Key,
    /// The signature is of something else, or damaged.
    Mismatch,
    /// The text is not a public key in PEM.
    Pem,
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Payload(kind) => write!(f, "not a {}: give the file that was signed", kind.name()),
            Self::Length => f.write_str(
                "cut short: blob or snapshot and the signature behind it have to be whole, copy both again",
            ),
            Self::NotASignature => f.write_str(
                "not a signature (magic bytes are not BTSG): give a file written by `bitttt sign`",
            ),
            Self::SignatureLength(found) => write!(
                f,
                "signature has {found} bytes instead of {}: copy it again",
                crate::SIGNATURE_BYTES
            ),
            Self::Version(found) => write!(
                f,
                "signature has version {found}, this build reads {}: sign again",
                crate::record::VERSION
            ),
            Self::Kind(kind) => write!(f, "signature is not one of a {}: sign again", kind.name()),
            Self::UnknownKey(id) => write!(
                f,
                "signed with key {:016x}, which is not among those given: use its public key, or sign again",
                u64::from_be_bytes(id)
            ),
            Self::Key => f.write_str("the public key is not a point on the curve: copy it again"),
            Self::Mismatch => f.write_str(
                "signature does not match: the file or its signature was changed after it was signed, use neither",
            ),
            Self::Pem => f.write_str(
                "not a public key of Ed25519 in PEM: give the .pub file that `bitttt keygen` wrote",
            ),
        }
    }
}

impl core::error::Error for SignError {}
