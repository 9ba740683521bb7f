//! Files that are whole or absent.

use crate::ExportError;
use std::io::Write;
use std::path::Path;

/// Writes `bytes` to a temporary file beside `path`, syncs it and renames it: readers see the old file or the new one,
/// and a full disk leaves the old one.
///
/// # Errors
/// [`ExportError::Write`].
pub fn save_atomically(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let fault = |source| ExportError::Write {
        path: path.display().to_string(),
        source,
    };
    if path.exists() && !path.is_file() {
        return Err(fault(std::io::Error::other(
            "it exists and is not a regular file",
        )));
    }
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .suffix(".tmp")
        .tempfile_in(folder)
        .map_err(fault)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(fault)?;
    file.persist(path).map_err(|e| fault(e.error))?;
    make_readable(path);
    Ok(())
}

/// Temporary files are private; what they become has the usual permissions.
fn make_readable(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = path;
}
