//! What can be wrong with a blob.

use super::{Mixer, Role, Section};
use core::fmt;

/// Why a blob was refused. Names the field; `Display` says what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlobError {
    /// Shorter than the fixed header or the section table it announces.
    Truncated,
    /// The first bytes are not `BTTT`.
    NotABlob,
    /// The bytes do not start on a 4-byte boundary.
    Misaligned,
    /// Written for a newer major version of the format.
    Version {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// `file_bytes` in the header is not the number of bytes given.
    Length {
        /// What the header says.
        header: u64,
        /// What was given.
        given: u64,
    },
    /// A section is missing, doubled, misaligned, overlapping or outside the file.
    Section(Section),
    /// The checksum of a section does not match its bytes.
    Checksum(Section),
    /// A config field has an impossible value.
    Config(&'static str),
    /// A layer's record has an impossible value.
    Layer {
        /// Which layer.
        layer: u16,
        /// The field of its record.
        field: &'static str,
    },
    /// A layer has a mixer that this build leaves out.
    MixerLeftOut {
        /// Which layer.
        layer: u16,
        /// Its mixer, whose name is that of the feature to enable.
        mixer: Mixer,
    },
    /// The model has something else that this build leaves out.
    LeftOut {
        /// What it is.
        what: &'static str,
        /// The feature to enable.
        feature: &'static str,
    },
    /// A tensor table entry is wrong.
    Tensor {
        /// The tensor that belongs at this place of the table.
        role: Role,
        /// Its layer; `0xFFFF` for tensors of the whole model.
        layer: u16,
        /// What is wrong with it.
        field: &'static str,
    },
    /// The tensor table has entries beyond those that the config calls for.
    ExtraTensors,
    /// The tokenizer section is inconsistent.
    Tokenizer(&'static str),
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated => f.write_str("blob is cut short: copy or export the file again"),
            Self::NotABlob => f.write_str("not a .bttt blob (magic bytes are not BTTT): give a file written by `bitttt export`"),
            Self::Misaligned => f.write_str("blob does not start on a 4-byte boundary: align it (64 bytes is best)"),
            Self::Version { major, minor } => write!(
                f,
                "blob has format version {major}.{minor}, this build reads {}.x: update the engine or export again",
                super::MAJOR
            ),
            Self::Length { header, given } => {
                write!(f, "blob says file_bytes = {header} but {given} bytes were given: copy the file again")
            }
            Self::Section(section) => write!(f, "section `{}` is missing, doubled or out of place: export again", section.name()),
            Self::Checksum(section) => write!(f, "checksum of section `{}` does not match: the blob is damaged, copy it again", section.name()),
            Self::Config(field) => write!(f, "config field `{field}` is impossible: export again"),
            Self::Layer { layer, field } => write!(f, "layer {layer}: field `{field}` is impossible or not supported: export again"),
            Self::MixerLeftOut { layer, mixer } => {
                let mixer = mixer.name();
                write!(f, "layer {layer} has the mixer `{mixer}`, which this build leaves out: enable the feature `{mixer}` of bitttt-core")
            }
            Self::LeftOut { what, feature } => {
                write!(f, "the model has {what}, which this build leaves out: enable the feature `{feature}` of bitttt-core")
            }
            Self::Tensor { role, layer: 0xFFFF, field } => write!(f, "tensor `{}`: {field} is wrong: export again", role.name()),
            Self::Tensor { role, layer, field } => {
                write!(f, "tensor `{}` of layer {layer}: {field} is wrong: export again", role.name())
            }
            Self::ExtraTensors => f.write_str("tensor table is longer than the config calls for: export again"),
            Self::Tokenizer(field) => write!(f, "tokenizer field `{field}` is impossible: export again"),
        }
    }
}

impl core::error::Error for BlobError {}
