//! Imports a checkpoint and runs it through the core.
#![allow(dead_code)] // each test file uses its part

use bitttt_core::{Batch, Model, Session};
use bitttt_export::import::{Foreign, ImportError, KvCache, Options, Summary};
use bitttt_export::{AlignedCopy, ExportError};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// A folder of `tests/fixtures/import`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/import")
        .join(name)
}

/// Options for checkpoints without text whose reference keeps keys and values as f32.
pub fn options() -> Options {
    Options {
        needs_tokenizer: false,
        kv: Some(KvCache::F32),
        ..Options::default()
    }
}

/// What a reference answered: `tokens` and `logits` `[tokens, vocabulary]`.
pub struct Reference {
    pub tokens: Vec<u32>,
    pub logits: Vec<f32>,
}

impl Reference {
    /// Reads `reference.safetensors` of a folder.
    pub fn of(folder: &Path) -> Self {
        let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name| {
            file.tensor(name)
                .unwrap()
                .data()
                .as_chunks::<4>()
                .0
                .to_vec()
        };
        Self {
            tokens: words("tokens")
                .into_iter()
                .map(u32::from_le_bytes)
                .collect(),
            logits: words("logits")
                .into_iter()
                .map(f32::from_le_bytes)
                .collect(),
        }
    }
}

/// Why an import failed, whole.
#[derive(Debug)]
pub struct Fault(pub String);

impl From<ImportError> for Fault {
    fn from(fault: ImportError) -> Self {
        Self(fault.to_string())
    }
}

impl From<ExportError> for Fault {
    fn from(fault: ExportError) -> Self {
        Self(fault.to_string())
    }
}

/// The blob of a foreign model, checked.
pub fn blob(model: &Foreign<'_>, options: &Options) -> Result<(AlignedCopy, Summary), Fault> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bttt");
    let mut read = 0;
    let (summary, ()) =
        model.save::<_, Fault>(&path, options, |bytes| read += bytes, |_| Ok(()))?;
    assert!(read <= model.source.bytes() && read * 10 >= summary.source_bytes * 9);
    let blob = AlignedCopy::of(&std::fs::read(&path).unwrap());
    Model::from_bytes(blob.bytes()).unwrap().verify().unwrap();
    Ok((blob, summary))
}

/// Logits after every token, by prefill in batches of `batch`.
pub fn logits(blob: &AlignedCopy, tokens: &[u32], batch: usize) -> Vec<f32> {
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let batch = Batch::new(batch);
    let mut memory = vec![0.0; model.memory(batch).words()];
    let mut session = Session::new(model, batch, &mut memory).unwrap();
    let mut all = Vec::new();
    session
        .prefill_with(tokens, &mut |_, logits| all.extend_from_slice(logits))
        .unwrap();
    all
}

/// Largest difference of two runs of logits.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(
        0.0,
        |l: f32, x| if x.is_nan() { f32::NAN } else { l.max(x) },
    )
}

/// Share of positions at which both have the same likeliest token.
pub fn agreement(a: &[f32], b: &[f32], vocabulary: usize) -> f64 {
    let top = |row: &[f32]| (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j]));
    let rows = a.chunks(vocabulary).zip(b.chunks(vocabulary));
    let same = rows.clone().filter(|(a, b)| top(a) == top(b)).count();
    same as f64 / rows.count() as f64
}
