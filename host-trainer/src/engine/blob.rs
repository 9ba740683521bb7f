//! Blobs and snapshots as files.

use anyhow::{Context as _, Result, bail, ensure};
use bitttt_core::{Batch, Model, Session, Tokenizer};
use std::fs::File;
use std::path::Path;

/// A mapped `.bttt` file. Replacing it by renaming is safe; writing into it while it is open is not.
#[derive(Debug)]
pub struct Blob {
    map: memmap2::Mmap,
}

/// Tokens that prefill takes through a layer at once on a host.
pub const HOST_BATCH: Batch = Batch::new(32);

impl Blob {
    /// Maps a file and checks it, every byte included.
    ///
    /// # Errors
    /// A file that cannot be read, or what is wrong with the blob; both name the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file =
            File::open(path).with_context(|| format!("cannot read model {}", path.display()))?;
        let length = file
            .metadata()
            .with_context(|| format!("cannot read model {}", path.display()))?;
        ensure!(
            length.is_file(),
            "model {} is not a file; give a .bttt written by `bitttt export`",
            path.display()
        );
        ensure!(
            length.len() > 0,
            "model {} is empty; export it again",
            path.display()
        );
        let map = map(&file).with_context(|| format!("cannot map model {}", path.display()))?;
        let blob = Self { map };
        blob.checked()
            .with_context(|| format!("model {}", path.display()))?;
        Ok(blob)
    }

    fn checked(&self) -> Result<()> {
        Ok(Model::from_bytes(&self.map)?.verify()?)
    }

    /// The model.
    pub fn model(&self) -> Model<'_> {
        Model::from_bytes(&self.map).expect("checked when opened")
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The built-in tokenizer.
    ///
    /// # Errors
    /// A blob without one.
    pub fn tokenizer(&self) -> Result<Tokenizer<'_>> {
        self.model()
            .tokenizer()
            .context("this model has no built-in tokenizer; export it with one")
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is read only; that nobody writes into the file is the documented condition of `Blob`.
    unsafe { memmap2::Mmap::map(file) }
}

/// Memory for a session on the host.
pub fn memory_for(model: &Model<'_>) -> Result<Vec<f32>> {
    let words = model.memory(HOST_BATCH).words();
    let mut memory = Vec::new();
    if memory.try_reserve_exact(words).is_err() {
        bail!(
            "this model needs {words} words of memory for a session, more than there is; use a smaller model"
        );
    }
    memory.resize(words, 0.0);
    Ok(memory)
}

/// Takes up a snapshot from a file.
///
/// # Errors
/// An unreadable file or a snapshot that does not fit; the session is left as it was.
pub fn load_state(session: &mut Session<'_, '_>, path: &Path) -> Result<()> {
    let bytes =
        std::fs::read(path).with_context(|| format!("cannot read state {}", path.display()))?;
    session
        .restore(&bytes)
        .with_context(|| format!("state {}", path.display()))
}

/// Writes a snapshot, whole or not at all.
///
/// # Errors
/// Where the file cannot be written.
pub fn save_state(session: &Session<'_, '_>, path: &Path) -> Result<()> {
    let mut bytes = vec![0; session.model().memory(HOST_BATCH).snapshot_bytes()];
    session.snapshot(&mut bytes)?;
    Ok(bitttt_export::save_atomically(path, &bytes)?)
}
