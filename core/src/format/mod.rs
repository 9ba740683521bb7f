//! The `.bttt` blob as bytes: sections, config, tensor table. The layout is specified in docs/FORMAT.md.
//!
//! Everything that comes out of here has been checked: after [`Layout::parse`] no accessor can fail, and no
//! length found in the file has been trusted.

pub mod config;
pub mod error;
pub mod header;
pub mod layer;
pub mod read;
pub mod role;
pub mod tensor;

pub use config::{Activation, Config};
pub use error::BlobError;
pub use header::{Layout, Section};
pub use layer::{LayerConfig, Mixer};
pub use role::Role;
pub use tensor::{DType, Entry};

/// Whether this build has what only models of other projects use.
pub(crate) const IMPORTED: bool = cfg!(feature = "imported");

/// Newest major version that this build reads.
pub const MAJOR: u16 = 1;
/// Newest minor version that this build knows; newer ones load too.
pub const MINOR: u16 = 3;
