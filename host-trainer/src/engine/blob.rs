//! Blobs and snapshots as files.

use super::text::TextTokenizer;
use anyhow::{Context as _, Result, bail, ensure};
use bitttt_core::{Batch, Model, Session, snapshot};
use std::fs::File;
use std::path::Path;

/// A mapped `.bttt` file. Replacing it by renaming is safe: the old one stays mapped. Writing into it while it is open is not:
/// what is read then is memory-safe and wrong, [`save_state`] refuses to keep what was learned from it, and a file cut short ends
/// the process.
#[derive(Debug)]
pub struct Blob {
    map: memmap2::Mmap,
}

/// Tokens that prefill takes through a layer at once on a host. A weight is then read once for so many, which makes reading
/// it cheap, while the activations of a large model still fit into a cache.
pub const HOST_BATCH: Batch = Batch::new(128);

impl Blob {
    /// Maps a file and checks it, every byte included.
    ///
    /// # Errors
    /// A file that cannot be read, or what is wrong with the blob; both name the file.
    pub fn open(path: &Path) -> Result<Self> {
        let blob = Self::open_unverified(path)?;
        let verified = blob.model().verify();
        verified.with_context(|| format!("model {}", path.display()))?;
        Ok(blob)
    }

    /// Maps a file and checks its structure, which makes running it safe; weights and checksums are not looked at.
    ///
    /// # Errors
    /// As [`Blob::open`].
    pub fn open_unverified(path: &Path) -> Result<Self> {
        Self::of_file(&open(path)?).with_context(|| format!("model {}", path.display()))
    }

    /// Maps an open file and checks its structure.
    ///
    /// # Errors
    /// What is wrong with the blob.
    pub fn of_file(file: &File) -> Result<Self> {
        let map = map(file).context("cannot map the file")?;
        Model::from_bytes(&map)?;
        Ok(Self { map })
    }

    /// The model.
    pub fn model(&self) -> Model<'_> {
        Model::from_bytes(&self.map).expect("checked when opened")
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// A blob without one.
    pub fn tokenizer(&self) -> Result<TextTokenizer<'_>> {
        TextTokenizer::of(&self.model())
    }
}

/// Opens a file that is not empty.
fn open(path: &Path) -> Result<File> {
    let name = path.display();
    let cannot = || format!("cannot read model {name}");
    let file = File::open(path).with_context(cannot)?;
    let kind = file.metadata().with_context(cannot)?;
    ensure!(
        kind.is_file(),
        "model {name} is not a file; give a .bttt written by `bitttt export`"
    );
    ensure!(kind.len() > 0, "model {name} is empty; export it again");
    Ok(file)
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is read only; that nobody writes into the file is the documented condition of `Blob`.
    unsafe { memmap2::Mmap::map(file) }
}

/// [`HOST_BATCH`] with room for at least `tokens` in attention without a window: the model's own figure is meant for
/// devices, the host has the memory.
pub fn host_batch(model: &Model<'_>, tokens: usize) -> Batch {
    HOST_BATCH.with_context(tokens.max(HOST_BATCH.context(model.config())))
}

/// Memory for a session on the host.
///
/// # Errors
/// More than there is.
pub fn memory_for(model: &Model<'_>, batch: Batch) -> Result<Vec<f32>> {
    let plan = model.memory(batch);
    let mut memory = Vec::new();
    let fits = available_memory().is_none_or(|bytes| plan.bytes() as u64 <= bytes);
    if !fits || memory.try_reserve_exact(plan.words()).is_err() {
        bail!(
            "this model needs {} MB of memory for a session, {} of it for its state, more than there is; use a smaller \
             model or less context",
            plan.bytes() / 1_000_000,
            plan.state * 4 / 1_000_000
        );
    }
    memory.resize(plan.words(), 0.0);
    Ok(memory)
}

/// Bytes that the system can give without swapping, where it says so. Linux grants more than it has, and ends the process
/// when that is used.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
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
/// Where the file cannot be written, or the model's bytes are no longer those that the session began with.
pub fn save_state(session: &Session<'_, '_>, path: &Path) -> Result<()> {
    session.model().verify().with_context(|| {
        format!(
            "state {} is not saved: the model's file was written to while it was in use; start again with it",
            path.display()
        )
    })?;
    let mut bytes = vec![0; snapshot::HEADER_BYTES + 4 * session.state().len()];
    session.snapshot(&mut bytes)?;
    Ok(bitttt_export::save_atomically(path, &bytes)?)
}
