//! The core as this command runs it: blobs from files, text in and out, measuring.

pub mod blob;
pub mod by_position;
pub mod chat;
pub mod device_check;
pub mod documents;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod graph;
pub mod history;
pub mod keys;
pub mod machine;
pub mod measure;
pub mod parity;
pub mod stream;
pub mod text;

pub use blob::Blob;
