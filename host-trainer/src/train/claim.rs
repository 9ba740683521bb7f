//! A run's directory belongs to one process at a time.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context as _, bail};

/// Locked while a process trains into the directory.
const LOCK: &str = "train.lock";

/// Locks `dir` for as long as the result lives, a kill included, and removes temporary files that a killed process left.
///
/// # Errors
/// When another process trains there, or nothing can be written.
pub fn claim(dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot create directory {}", dir.display()))?;
    let path = dir.join(LOCK);
    let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match lock.try_lock() {
        // A file system without locks is no reason not to train.
        Ok(()) | Err(TryLockError::Error(_)) => {}
        Err(TryLockError::WouldBlock) => bail!(
            "another process trains into {}; wait for it, or choose another --out",
            dir.display()
        ),
    }
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .flatten();
    for entry in entries.filter(|e| is_temporary(&e.file_name().to_string_lossy())) {
        let path = entry.path();
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(lock)
}

/// The names that `bitttt_export::save` gives.
fn is_temporary(name: &str) -> bool {
    name.starts_with(".tmp") && name.ends_with(".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_claimed_once_at_a_time_and_swept() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let left = bitttt_export::save::temporary_beside(&at("checkpoint")).unwrap();
        let left = left.into_temp_path();
        std::fs::write(at("notes.tmp"), "mine").unwrap();
        let first = claim(dir.path()).unwrap();
        assert!(!left.exists() && at("notes.tmp").exists());
        let error = claim(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another process trains"), "{error}");
        drop(first);
        claim(dir.path()).unwrap();
    }
}
