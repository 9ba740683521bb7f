//! What can go wrong while a foreign model is read: one line each, with the file and the way out.

use crate::ExportError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a model was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file is absent or cannot be read.
    #[error("{}", one_line(format_args!("cannot read {}: {fault}; {hint}", path.display())))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        fault: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A file is not what its name says.
    #[error("{}", one_line(format_args!("{}: {what}", path.display())))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// A field of a config has a value that cannot be represented, or none.
    #[error("{}", one_line(format_args!("{}: `{field}` {what}", path.display())))]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// A tensor is missing or not as the config has it.
    #[error("{}", one_line(format_args!("{}: tensor `{name}` {what}", path.display())))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Its name there.
        name: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// A tensor of the blob was to be f16, and has values that do not fit.
    #[error("tensor `{0}` holds values above 65504, which f16 cannot: use --embedding f32 or i8")]
    BeyondF16(String),
    /// The blob could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Names out of foreign files may hold anything: control characters are escaped, so that a line stays one.
fn one_line(text: fmt::Arguments<'_>) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.to_string().chars().map(escape).collect()
}

impl ImportError {
    /// A file that cannot be read.
    pub fn read(path: &Path, fault: std::io::Error, hint: &'static str) -> Self {
        Self::Read {
            path: path.to_owned(),
            fault,
            hint,
        }
    }

    /// A file that is not what its name says.
    pub fn file(path: &Path, what: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    /// A field that cannot be represented.
    pub fn field(path: &Path, field: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Field {
            path: path.to_owned(),
            field: field.into(),
            what: what.into(),
        }
    }

    /// A tensor that is not as the config has it.
    pub fn tensor(path: &Path, name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Tensor {
            path: path.to_owned(),
            name: name.into(),
            what: what.into(),
        }
    }
}
