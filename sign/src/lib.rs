//! Signatures of blobs and snapshots: a device that holds a public key runs only what the owner of the secret one released.
//!
//! A signature is a [record](SIGNATURE_BYTES) of 80 bytes beside the file or behind it, so that blob and snapshot stay as they
//! are. Invariant: what [`verify`] and [`signed`] let through is, to the bit, what was signed, by one of the given keys, and
//! as what it is asked for: a signature of a snapshot is none of a blob. Each bit of the record counts.
//!
//! What is signed, byte by byte, is in `docs/FORMAT.md`; how to handle keys, and what a signature does not give, is in
//! `docs/SECURITY.md`.
//!
//! ```
//! use bitttt_core::Model;
//! use bitttt_sign::{Kind, SecretKey, public_key, sign, signed};
//! # use bitttt_export::{AlignedCopy, random::{FULL_LAYER, blueprint, small_config}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let blob = blueprint(&small_config(), &[FULL_LAYER; 2], bitttt_core::format::DType::T2, 1).to_bytes()?;
//! // In the firmware: `include_str!("release.pub")`, which `bitttt keygen` wrote.
//! const KEYS: [[u8; 32]; 1] = [match public_key(
//!     "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n",
//! ) {
//!     Ok(key) => key,
//!     Err(_) => panic!("not a public key"), // then it does not compile
//! }];
//!
//! // On the workstation, as `bitttt sign` does.
//! # let seed = [
//! #     0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
//! #     0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
//! # ];
//! let signature = sign(Kind::Blob, &SecretKey::from_seed(seed), &blob);
//! let image = [blob.as_slice(), &signature].concat(); // goes into the flash
//!
//! // On the device: the blob, or nothing.
//! # let image = AlignedCopy::of(&image);
//! # let region = image.bytes();
//! let model = Model::from_bytes(signed(Kind::Blob, &KEYS, region)?)?;
//! # let _ = model;
//! # Ok(())
//! # }
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod content;
mod error;
mod key;
mod kind;
mod record;

pub use content::Content;
pub use error::SignError;
pub use key::{KEY_ID_BYTES, PublicKey, SecretKey, key_id, public_key, verify_message};
pub use kind::{HEAD_BYTES, Kind};
pub use record::{SIGNATURE_BYTES, field, signer};

/// Signs `payload` as what it is; the record goes beside it or behind it.
pub fn sign(kind: Kind, key: &SecretKey, payload: &[u8]) -> [u8; SIGNATURE_BYTES] {
    let mut content = Content::new(kind);
    content.update(payload);
    content.sign(key)
}

/// Whether `signature`, a record that lies somewhere else, is of `payload` and by one of the `keys`.
///
/// # Errors
/// Why it is not; nothing of the payload may then be used.
pub fn verify(
    kind: Kind,
    keys: &[PublicKey],
    payload: &[u8],
    signature: &[u8],
) -> Result<(), SignError> {
    let mut content = Content::new(kind);
    content.update(payload);
    content.verify(keys, signature)
}

/// The blob or snapshot at the start of `region`, if the record behind it is its signature by one of the `keys`.
///
/// Where it ends, its own header says, which is signed too; what lies behind the record, as erased flash does, does not
/// matter.
///
/// # Errors
/// Why it is not; nothing of the region may then be used.
pub fn signed<'a>(kind: Kind, keys: &[PublicKey], region: &'a [u8]) -> Result<&'a [u8], SignError> {
    let length = usize::try_from(kind.payload_bytes(region)?).map_err(|_| SignError::Length)?;
    let (payload, rest) = region.split_at_checked(length).ok_or(SignError::Length)?;
    let signature = rest.get(..SIGNATURE_BYTES).ok_or(SignError::Length)?;
    verify(kind, keys, payload, signature)?;
    Ok(payload)
}
