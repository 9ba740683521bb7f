//! Files that are whole or not there: written under a temporary name, synced, renamed.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use tempfile::NamedTempFile;

/// A temporary file in the directory of `path`, so that it can be renamed to it.
///
/// # Errors
/// When the directory cannot be written to.
pub fn temporary_beside(path: &Path) -> anyhow::Result<NamedTempFile> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    NamedTempFile::new_in(dir).with_context(|| cannot_write(path))
}

/// Syncs a temporary file and gives it its name, in place of what had it.
///
/// # Errors
/// When the disk is full or the name cannot be taken; the old file then stays.
pub fn persist(file: NamedTempFile, path: &Path) -> anyhow::Result<()> {
    file.as_file()
        .sync_all()
        .with_context(|| cannot_write(path))?;
    file.persist(path).with_context(|| cannot_write(path))?;
    Ok(())
}

/// Writes a whole file.
///
/// # Errors
/// As [`persist`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = temporary_beside(path)?;
    file.write_all(bytes).with_context(|| cannot_write(path))?;
    persist(file, path)
}

/// The message for a file that could not be written.
pub fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {} (nothing half-written is left; free some space or choose another place)",
        path.display()
    )
}
