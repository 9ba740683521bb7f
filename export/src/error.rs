//! What can go wrong while a blob is written.

use bitttt_core::BlobError;

/// Why no blob was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The config calls for a tensor that was not given.
    #[error("tensor `{0}` is missing: the checkpoint does not fit its config")]
    MissingTensor(String),
    /// A tensor has the wrong number of elements.
    #[error("tensor `{name}` has {found} elements, the config calls for {expected}")]
    Shape {
        /// Its name.
        name: String,
        /// Elements given.
        found: usize,
        /// Elements expected.
        expected: usize,
    },
    /// A tensor was given as another number of bytes than its shape and type take.
    #[error("tensor `{name}` was given as {found} bytes, its shape and type take {expected}")]
    Bytes {
        /// Its name.
        name: String,
        /// Bytes given.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// A tensor was begun or ended out of turn.
    #[error("tensors are begun and ended one after the other; out of turn: {0:?}")]
    Order(Option<String>),
    /// An element or a scale is no valid value of its type.
    #[error("tensor `{0}` holds a value that is not finite, or an invalid code")]
    Value(String),
    /// A weight is not -1, 0 or 1.
    #[error("tensor `{0}` holds a weight that is not ternary")]
    NotTernary(String),
    /// The tokenizer cannot be represented.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The finished blob does not pass the core's own checks.
    #[error("the blob would be refused: {0}")]
    Refused(#[from] BlobError),
    /// The file could not be written.
    #[error(
        "cannot write {path} (nothing half-written is left; free some space or choose another place): {source}"
    )]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}
