//! Checkpoints: `DIR/checkpoint.safetensors` (weights, moments, and the configuration and the step
//! as metadata) and `DIR/tokenizer.json`, unless the model was trained on tokens alone. A checkpoint is replaced at once
//! or not at all.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use bitttt_export::save_atomically;
use candle_core::{Device, Tensor, Var};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::adamw::Moments;
use crate::config::Config;
use crate::data::batch::SourceInfo;
use crate::tokenizer::Tokenizer;

/// Name of the checkpoint in its directory.
pub const FILE: &str = "checkpoint.safetensors";
/// Name of the tokenizer in the checkpoint's directory.
pub const TOKENIZER: &str = "tokenizer.json";

/// Name of the held-out rows that an export is checked on.
pub const HELD_OUT: &str = "held_out.json";

/// In the metadata's `tokenizer`: the model was trained on tokens alone.
const NO_TOKENIZER: &str = "none";

const FIRST: &str = "adamw.first.";
const SECOND: &str = "adamw.second.";

/// Keeps rows of held-out tokens, so that an export can be checked without the data.
///
/// # Errors
/// When the file cannot be written.
pub fn save_held_out(dir: &Path, rows: &[Vec<u32>]) -> anyhow::Result<()> {
    Ok(save_atomically(
        &dir.join(HELD_OUT),
        &serde_json::to_vec(rows)?,
    )?)
}

/// Keeps the tokenizer of a run that begins. A checkpoint that another tokenizer belongs to goes first: a kill before the new
/// run's first checkpoint must not leave the two side by side.
///
/// # Errors
/// When a file cannot be written or removed.
pub fn save_tokenizer(dir: &Path, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let (path, older) = (dir.join(TOKENIZER), dir.join(FILE));
    let same = || Tokenizer::load(&path).is_ok_and(|t| t.fingerprint() == tokenizer.fingerprint());
    if older.exists() && path.exists() && !same() {
        std::fs::remove_file(&older)
            .with_context(|| format!("cannot remove {}", older.display()))?;
    }
    tokenizer.save(&path)
}

/// Rows that [`save_held_out`] kept.
///
/// # Errors
/// When the file is missing or damaged.
pub fn held_out(dir: &Path) -> anyhow::Result<Vec<Vec<u32>>> {
    let path = dir.join(HELD_OUT);
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is damaged; pass --data instead", path.display()))
}

/// A checkpoint as read.
pub struct Checkpoint {
    /// The run that wrote it, with `vocab_size` resolved.
    pub config: Config,
    /// Latent weights by name.
    pub weights: HashMap<String, Tensor>,
    /// The tokenizer of the model, if it has one.
    pub tokenizer: Option<Tokenizer>,
    /// Steps done.
    pub step: u64,
    /// Seconds trained.
    pub seconds: f64,
    /// What it was trained on; nothing in checkpoints that do not tell.
    pub data: Vec<SourceInfo>,
    moments: HashMap<String, Moments>,
}

impl Checkpoint {
    /// Reads the checkpoint in `dir`.
    ///
    /// # Errors
    /// When a file is missing, damaged, or holds something else.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let bytes = std::fs::read(&path).with_context(|| {
            format!(
                "cannot read {}; is {} the --out of `bitttt train`?",
                path.display(),
                dir.display()
            )
        })?;
        let damaged = || format!("{} is not a whole checkpoint of bitttt", path.display());
        let (mut checkpoint, has_tokenizer) = Self::parse(&bytes).with_context(damaged)?;
        if has_tokenizer {
            checkpoint.tokenizer = Some(Tokenizer::load(&dir.join(TOKENIZER))?);
        }
        Ok(checkpoint)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// A model that was trained on tokens alone.
    pub fn tokenizer(&self) -> anyhow::Result<&Tokenizer> {
        self.tokenizer
            .as_ref()
            .context("the checkpoint has no tokenizer: it was trained on tokens alone")
    }

    /// The checkpoint, and whether a tokenizer belongs to it.
    fn parse(bytes: &[u8]) -> anyhow::Result<(Self, bool)> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().as_ref().context("it has no metadata")?;
        let field = |name: &str| {
            metadata
                .get(name)
                .with_context(|| format!("it has no {name}"))
        };
        let mut checkpoint = Self {
            config: serde_json::from_str(field("config")?)?,
            step: field("step")?.parse()?,
            seconds: field("seconds")?.parse()?,
            data: match metadata.get("data") {
                Some(data) => serde_json::from_str(data)?,
                None => Vec::new(),
            },
            weights: HashMap::new(),
            moments: HashMap::new(),
            tokenizer: None,
        };
        checkpoint.config.validate()?;
        ensure!(
            checkpoint.seconds.is_finite() && checkpoint.seconds >= 0.0,
            "its seconds are no time"
        );
        for (name, view) in SafeTensors::deserialize(bytes)?.tensors() {
            checkpoint.take(name, &view)?;
        }
        let alone = metadata.get("tokenizer").is_some_and(|t| t == NO_TOKENIZER);
        Ok((checkpoint, !alone))
    }

    fn take(&mut self, name: String, view: &TensorView<'_>) -> anyhow::Result<()> {
        ensure!(view.dtype() == Dtype::F32, "tensor {name} is not f32");
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        if let Some(name) = name.strip_prefix(FIRST) {
            self.moments.entry(name.to_owned()).or_default().first = values;
        } else if let Some(name) = name.strip_prefix(SECOND) {
            self.moments.entry(name.to_owned()).or_default().second = values;
        } else {
            let tensor = Tensor::from_vec(values, view.shape(), &Device::Cpu)?;
            self.weights.insert(name, tensor);
        }
        Ok(())
    }

    /// Copies weights into a run's own and returns the moments in the order of the variables.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn restore(&self, vars: &[(String, Var)]) -> anyhow::Result<Vec<Moments>> {
        let restore = |(name, var): &(String, Var)| {
            let weight = self.weights.get(name);
            let weight = weight.with_context(|| format!("the checkpoint has no {name}"))?;
            var.set(&weight.to_device(var.device())?)
                .with_context(|| format!("tensor {name}"))?;
            let saved = self.moments.get(name);
            let saved =
                saved.with_context(|| format!("the checkpoint has no moments of {name}"))?;
            let len = var.elem_count();
            ensure!(
                saved.first.len() == len && saved.second.len() == len,
                "the checkpoint's moments of {name} have another shape"
            );
            Ok(saved.clone())
        };
        vars.iter().map(restore).collect()
    }
}

/// What is saved besides weights and moments.
pub struct Progress<'a> {
    /// The run's configuration.
    pub config: &'a Config,
    /// Steps done.
    pub step: u64,
    /// Seconds trained.
    pub seconds: f64,
    /// What it is trained on.
    pub data: &'a [SourceInfo],
    /// Whether `DIR/tokenizer.json` belongs to it.
    pub tokenizer: bool,
}

/// Writes the checkpoint in `dir`, replacing the one before.
///
/// # Errors
/// When the disk is full; the one before stays whole.
pub fn save(
    dir: &Path,
    progress: &Progress<'_>,
    vars: &[(String, Var)],
    moments: &[Moments],
) -> anyhow::Result<()> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for ((name, var), moments) in vars.iter().zip(moments) {
        let shape = var.dims().to_vec();
        let weights = le_bytes(&var.flatten_all()?.to_vec1::<f32>()?);
        tensors.push((name.clone(), shape.clone(), weights));
        tensors.push((
            format!("{FIRST}{name}"),
            shape.clone(),
            le_bytes(&moments.first),
        ));
        tensors.push((format!("{SECOND}{name}"), shape, le_bytes(&moments.second)));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let mut metadata = HashMap::from([
        ("format".to_owned(), "bitttt-checkpoint-1".to_owned()),
        ("config".to_owned(), serde_json::to_string(progress.config)?),
        ("step".to_owned(), progress.step.to_string()),
        ("seconds".to_owned(), progress.seconds.to_string()),
        ("data".to_owned(), serde_json::to_string(progress.data)?),
    ]);
    if !progress.tokenizer {
        metadata.insert("tokenizer".to_owned(), NO_TOKENIZER.to_owned());
    }
    let bytes = safetensors::serialize(views, Some(metadata))?;
    Ok(save_atomically(&dir.join(FILE), &bytes)?)
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
