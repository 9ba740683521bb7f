//! The record that a signature is stored as. Layout in docs/FORMAT.md, section "Signature".

use crate::key::{KEY_ID_BYTES, PublicKey, key_id};
use crate::{Kind, SignError};
use bitttt_core::format::read::u16_at;

/// First bytes of every record.
pub const MAGIC: [u8; 4] = *b"BTSG";
/// Version that this build writes and reads.
pub const VERSION: u16 = 1;
/// Size of a record.
pub const SIGNATURE_BYTES: usize = 80;

/// Byte offsets of the record's fields.
pub mod field {
    #![allow(missing_docs)]
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 4;
    pub const KIND: usize = 6;
    pub const KEY_ID: usize = 8;
    pub const SIGNATURE: usize = 16;
}

/// A record with this signature by the owner of `key`.
pub(crate) fn build(kind: Kind, key: &PublicKey, signature: &[u8; 64]) -> [u8; SIGNATURE_BYTES] {
    let mut record = [0; SIGNATURE_BYTES];
    let parts: [&[u8]; 5] = [
        &MAGIC,
        &VERSION.to_le_bytes(),
        &(kind as u16).to_le_bytes(),
        &key_id(key),
        signature,
    ];
    let bytes = parts.into_iter().flatten();
    record
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    record
}

/// Key id and signature of a record.
///
/// # Errors
/// One that is not of this kind, or not a record of this version.
pub(crate) fn parse(
    kind: Kind,
    record: &[u8],
) -> Result<([u8; KEY_ID_BYTES], &[u8; 64]), SignError> {
    if !record.starts_with(&MAGIC) {
        return Err(SignError::NotASignature);
    }
    let (Some(id), Some(signature)) = (
        record.get(field::KEY_ID..field::SIGNATURE),
        record.get(field::SIGNATURE..),
    ) else {
        return Err(SignError::SignatureLength(record.len()));
    };
    let (Ok(id), Ok(signature)) = (id.try_into(), signature.try_into()) else {
        return Err(SignError::SignatureLength(record.len()));
    };
    match u16_at(record, field::VERSION) {
        VERSION => {}
        other => return Err(SignError::Version(other)),
    }
    match u16_at(record, field::KIND) {
        found if found == kind as u16 => Ok((id, signature)),
        _ => Err(SignError::Kind(kind)),
    }
}

/// Who signed, as a record says, which is not believed until it is verified; `None` where it is no record.
pub fn signer(record: &[u8]) -> Option<[u8; KEY_ID_BYTES]> {
    let parsed = Kind::ALL.map(|kind| parse(kind, record));
    parsed.into_iter().flatten().next().map(|(id, _)| id)
}
