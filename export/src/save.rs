//! Files that are whole or absent.

use crate::ExportError;
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

/// Writes `bytes` to a temporary file beside `path`, syncs it and renames it: readers see the old file or the new one,
/// and a full disk leaves the old one.
///
/// # Errors
/// [`ExportError::Write`].
pub fn save_atomically(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let mut file = temporary_beside(path)?;
    file.write_all(bytes)
        .map_err(|source| write_fault(path, source))?;
    persist(file, path)
}

/// A temporary file in the folder of `path`, so that [`persist`] can rename it.
///
/// # Errors
/// [`ExportError::Write`], also where `path` is something that a rename must not replace, like a device.
pub fn temporary_beside(path: &Path) -> Result<NamedTempFile, ExportError> {
    if path.exists() && !path.is_file() {
        let source = std::io::Error::other("it exists and is not a regular file");
        return Err(write_fault(path, source));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.suffix(".tmp");
    // Temporary files are private by default; what they become has the usual permissions.
    #[cfg(unix)]
    let permissions = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    builder
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(|source| write_fault(path, source))
}

/// Syncs a temporary file and gives it its name, in place of what had it.
///
/// # Errors
/// [`ExportError::Write`]; the old file then stays.
pub fn persist(file: NamedTempFile, path: &Path) -> Result<(), ExportError> {
    file.as_file()
        .sync_all()
        .map_err(|source| write_fault(path, source))?;
    file.persist(path).map_err(|e| write_fault(path, e.error))?;
    Ok(())
}

/// The error for a file that could not be written.
pub fn write_fault(path: &Path, source: std::io::Error) -> ExportError {
    ExportError::Write {
        path: path.display().to_string(),
        source,
    }
}
