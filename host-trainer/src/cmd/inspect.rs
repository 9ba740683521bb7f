//! `bitttt inspect`

use crate::engine::blob::Blob;
use crate::engine::text::summary;
use crate::output::Output;
use anyhow::{Context as _, Result};
use bitttt_core::format::{DType, Entry, LayerConfig, Mixer, Role, Section};
use bitttt_core::{Batch, Model, snapshot};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Show what is in a blob or a saved state: config, tensors, sizes, checksums
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Example:\n  bitttt inspect demo/demo.bttt")]
pub struct Args {
    /// A .bttt blob or a saved state
    pub file: PathBuf,
}

/// What a blob holds.
#[derive(Serialize)]
pub struct BlobReport {
    kind: &'static str,
    version: String,
    /// Which model it is.
    pub fingerprint: String,
    /// Length of the file.
    pub bytes: usize,
    /// Ternary weights.
    pub ternary_weights: u64,
    /// Bits of storage for each of them, scales included.
    pub bits_per_ternary_weight: f64,
    /// All parameters.
    pub parameters: u64,
    config: serde_json::Value,
    sections: Vec<SectionReport>,
    tensors: Vec<TensorReport>,
    metadata: serde_json::Value,
}

#[derive(Serialize)]
struct SectionReport {
    name: &'static str,
    bytes: usize,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    dtype: &'static str,
    shape: [u32; 2],
    bytes: u64,
}

#[derive(Serialize)]
struct SnapshotReport {
    kind: &'static str,
    model: String,
    position: u64,
    dropped_updates: u32,
    state_bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// A file that is neither blob nor saved state, or a damaged one.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    if starts_with(&args.file, &snapshot::MAGIC)? {
        return inspect_snapshot(&args.file, out);
    }
    let blob = Blob::open(&args.file)?;
    let report = describe(&blob.model(), blob.bytes().len());
    out.say(format!(
        "blob {}: format {}, fingerprint {}, checksums right",
        args.file.display(),
        report.version,
        report.fingerprint
    ));
    out.say(format!("config {}", report.config));
    if report.metadata.is_object() {
        out.say(format!("imported {}", report.metadata));
    }
    for section in &report.sections {
        out.say(format!(
            "section {:<14} {:>10} bytes",
            section.name, section.bytes
        ));
    }
    for tensor in &report.tensors {
        let [rows, cols] = tensor.shape;
        out.say(format!(
            "tensor  {:<26} {:<4} [{rows}, {cols}] {:>9} bytes",
            tensor.name, tensor.dtype, tensor.bytes
        ));
    }
    out.say(format!(
        "{} parameters, {} of them ternary at {:.3} bits each, {} bytes in all",
        report.parameters, report.ternary_weights, report.bits_per_ternary_weight, report.bytes
    ));
    out.result(&report)
}

/// Everything there is to say about a model.
pub fn describe(model: &Model<'_>, bytes: usize) -> BlobReport {
    let (major, minor) = model.layout().version();
    let packed = |e: &Entry| matches!(e.dtype, DType::T2 | DType::T5);
    let elements = |e: &Entry| u64::from(e.rows) * u64::from(e.cols);
    let ternary: Vec<Entry> = model.tensors().filter(packed).collect();
    let ternary_weights: u64 = ternary.iter().map(elements).sum();
    let ternary_bytes: u64 = ternary
        .iter()
        .map(|e| e.end() - e.offset + if e.row_scales { 0 } else { 4 })
        .sum();
    BlobReport {
        kind: "blob",
        version: format!("{major}.{minor}"),
        fingerprint: format!("{:08x}", model.fingerprint()),
        bytes,
        ternary_weights,
        bits_per_ternary_weight: ternary_bytes as f64 * 8.0 / ternary_weights.max(1) as f64,
        parameters: model.tensors().map(|e| elements(&e)).sum(),
        config: config_json(model),
        sections: Section::ALL
            .map(|s| SectionReport {
                name: s.name(),
                bytes: model.layout().section(s).len(),
            })
            .into(),
        tensors: model.tensors().map(|e| tensor_report(&e)).collect(),
        metadata: summary(model.metadata()),
    }
}

fn tensor_report(entry: &Entry) -> TensorReport {
    let role = Role::GLOBAL
        .into_iter()
        .chain(Role::LAYER)
        .find(|&role| role as u8 == entry.role)
        .unwrap_or(Role::Embed);
    let layer =
        (entry.layer != bitttt_core::format::tensor::NO_LAYER).then_some(u32::from(entry.layer));
    TensorReport {
        name: bitttt_export::blueprint::tensor_name(layer, role),
        dtype: entry.dtype.name(),
        shape: [entry.rows, entry.cols],
        bytes: entry.end() - entry.offset,
    }
}

/// A model's dimensions and layers.
pub fn config_json(model: &Model<'_>) -> serde_json::Value {
    let c = model.config();
    let layers = (0..c.n_layers).filter_map(|l| model.layer_config(l).ok());
    let layers: Vec<_> = layers.map(|l| layer_json(&l)).collect();
    serde_json::json!({
        "vocab_size": c.vocab_size, "d_model": c.d_model, "n_layers": c.n_layers, "n_heads": c.n_heads, "d_ffn": c.d_ffn,
        "mini_batch": c.mini_batch, "activation": format!("{:?}", c.activation).to_lowercase(), "tied": c.tied,
        "norm_eps": c.norm_eps, "rope_theta": c.rope_theta, "ttt_base_lr": c.ttt_base_lr, "layers": layers,
        "context": c.context, "session_bytes": model.memory(Batch::ONE).bytes(),
    })
}

/// What a layer's record says of its kind of mixer.
fn layer_json(layer: &LayerConfig) -> serde_json::Value {
    let mut json = serde_json::json!({"mixer": layer.mixer.name(), "conv": layer.conv, "ffn_conv": layer.ffn_conv, "plain": layer.plain});
    if layer.mixer != Mixer::TttLite {
        json["gate"] = layer.gate.into();
    }
    if layer.mixer == Mixer::Attention {
        json["kv_heads"] = layer.kv_heads.into();
        json["window"] = layer.window.into();
        json["kv_cache"] = if layer.kv_f32 { "f32" } else { "f16" }.into();
    } else {
        json["anchor_decay"] = layer.decay.into();
        json["fast_start"] = if layer.identity {
            "identity"
        } else {
            "learned"
        }
        .into();
        json["inner_rate"] = if layer.head_rates { "head" } else { "token" }.into();
    }
    json
}

fn inspect_snapshot(path: &Path, out: &Output) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let info =
        snapshot::Info::parse(&bytes).with_context(|| format!("state {}", path.display()))?;
    let report = SnapshotReport {
        kind: "state",
        model: format!("{:08x}", info.model),
        position: info.position,
        dropped_updates: info.dropped,
        state_bytes: u64::from(info.words) * 4,
    };
    out.say(format!(
        "state {}: of model {}, after {} tokens, {} bytes, {} updates dropped, checksum right",
        path.display(),
        report.model,
        report.position,
        report.state_bytes,
        report.dropped_updates
    ));
    out.result(&report)
}

fn starts_with(path: &Path, magic: &[u8]) -> Result<bool> {
    use std::io::Read;
    let mut file =
        std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut first = vec![0; magic.len()];
    Ok(file.read_exact(&mut first).is_ok() && first == magic)
}
