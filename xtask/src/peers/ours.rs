//! Our own engine: the command `bitttt`, as anybody runs it.

use super::blocks::Quant;
use super::engine::{Engine, Job, Kind, PROMPT};
use super::gguf::Architecture;
use super::llama::file_name;
use super::quiet::Ticks;
use super::shape::Dims;
use super::workshop::Workshop;
use crate::command::{cargo, command, output_within, root, run};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(900);

/// The command, and what it is told beside the job.
pub struct Ours<'a> {
    pub workshop: &'a Workshop,
    pub program: &'a Path,
    pub kind: Kind,
    /// The type of weights of the peer's own file, which is imported; otherwise a model of our own is made.
    pub imports: Option<Quant>,
    /// Packing of the ternary weights.
    pub weights: &'a str,
    /// Backend to force, if any.
    pub backend: Option<&'a str>,
}

/// Builds the command, or takes the one that is named.
///
/// # Errors
/// Where the build fails.
pub fn program(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        let found = named.canonicalize();
        return found.with_context(|| format!("cannot find {}", named.display()));
    }
    eprintln!("building bitttt");
    run(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "bitttt",
    ]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Ok(root().join(target).join("release/bitttt"))
}

impl Ours<'_> {
    fn model(&self, job: &Job) -> PathBuf {
        let kind = match (self.kind, self.imports) {
            (_, Some(quant)) => format!("-of-{}", quant.name()),
            (Kind::Llama, None) => String::new(),
            (Kind::Seed, None) => "-seed".to_owned(),
        };
        let name = format!("{}{kind}-{}.bttt", job.shape.name(), self.weights);
        self.workshop.model(&name)
    }

    /// Imports the peer's file and says how fast that was and how much memory it took.
    fn import(&self, job: &Job, quant: Quant, model: &Path) -> Result<()> {
        let file = file_name(job.shape, Architecture::Bitnet, quant);
        let mut import = command(self.program);
        import.args(["import", "gguf", "--json", "--no-tokenizer"]);
        import.args(["--embedding", "i8", "--weights", self.weights]);
        import.arg(self.workshop.model(&file));
        import.arg("--out").arg(model);
        let before = Ticks::now();
        let (json, well) = output_within(&mut import, LIMIT)?;
        ensure!(well, "`bitttt import` failed");
        let report: Import =
            serde_json::from_str(&json).context("cannot read what `bitttt import` printed")?;
        let others = before.zip(Ticks::now());
        let others = others.map_or(0.0, |(before, after)| after.others_since(before));
        eprintln!(
            "imported {file}: {report}, others took {:.0}% of the cores",
            others * 100.0
        );
        Ok(())
    }
}

impl Engine for Ours<'_> {
    fn name(&self) -> String {
        "bitttt".to_owned()
    }

    /// A model older than the program is written anew: the format may have changed. Imports always are, to be timed.
    fn prepare(&mut self, job: &Job) -> Result<()> {
        let age = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
        let model = self.model(job);
        if let Some(quant) = self.imports {
            return self.import(job, quant, &model);
        }
        if age(&model) > age(self.program) {
            return Ok(());
        }
        let mut synth = command(self.program);
        synth.args(["synth", "--weights", self.weights]);
        let mut shape = job.shape.name().into();
        if self.kind == Kind::Seed {
            shape = model.with_extension("toml").into_os_string();
            std::fs::write(&shape, seed_shape(&job.shape.dims()))?;
            synth.args(["--mixer", "ttt-lite"]);
        }
        run(synth.arg("--shape").arg(shape).arg("--out").arg(&model))
    }

    fn time(&self, job: &Job) -> Result<f64> {
        let mut bench = command(self.program);
        bench.args(["bench", "--json", "--test", job.test.name()]);
        bench.arg("--model").arg(self.model(job));
        bench.args(["--threads", &job.threads.to_string()]);
        bench.args(["--seconds", &job.seconds.to_string()]);
        bench.args(["--prompt", &PROMPT.to_string()]);
        if let Some(backend) = self.backend {
            bench.args(["--backend", backend]);
        }
        let (json, well) = output_within(&mut bench, LIMIT)?;
        ensure!(well, "`bitttt bench` failed");
        rate(&json, job)
    }
}

/// A shape file for the seed's kind of model; the mixer is an option of the command.
fn seed_shape(dims: &Dims) -> String {
    let (width, layers, heads, vocab) = (dims.d_model, dims.layers, dims.heads, dims.vocab);
    format!(
        "vocab_size = {vocab}\nd_model = {width}\nn_layers = {layers}\nn_heads = {heads}\nd_ffn = {}\n\
         conv = false\nanchor_decay = false\ntie_embeddings = false\n",
        4 * width
    )
}

/// What we read of `bitttt import --json`.
#[derive(Deserialize)]
struct Import {
    source_bytes: u64,
    bytes: u64,
    seconds: f64,
    peak_memory_bytes: Option<u64>,
}

impl std::fmt::Display for Import {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peak = self.peak_memory_bytes.unwrap_or_default();
        write!(
            out,
            "{:.2} GB to {:.2} GB in {:.1} s ({:.2} GB/s), peak memory {:.0} MB",
            self.source_bytes as f64 / 1e9,
            self.bytes as f64 / 1e9,
            self.seconds,
            self.source_bytes as f64 / self.seconds / 1e9,
            peak as f64 / 1e6
        )
    }
}

/// What we read of an entry of `bitttt bench --json`.
#[derive(Deserialize)]
struct Entry {
    threads: usize,
    test: String,
    tokens_per_s: f64,
}

/// The entry of the job.
fn rate(json: &str, job: &Job) -> Result<f64> {
    let entries: Vec<Entry> =
        serde_json::from_str(json).context("cannot read what `bitttt bench` printed")?;
    let found = entries
        .iter()
        .find(|entry| entry.threads == job.threads && entry.test == job.test.name());
    let rate = found
        .context("`bitttt bench` did not report the job")?
        .tokens_per_s;
    ensure!(
        rate > 0.0 && rate.is_finite(),
        "`bitttt bench` reported {rate} tokens/s"
    );
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::engine::Test;
    use crate::peers::shape::Shape;

    const JOB: Job = Job {
        shape: Shape::Tiny,
        threads: 2,
        test: Test::Prefill,
        seconds: 0.1,
    };

    #[test]
    fn the_entry_of_the_job_is_read() {
        let entry = |threads, test, rate| {
            format!(
                r#"{{"backend": "x", "threads": {threads}, "test": "{test}", "tokens_per_s": {rate}}}"#
            )
        };
        let entries = [
            entry(1, "prefill", 1.0),
            entry(2, "decode", 2.0),
            entry(2, "prefill", 3.5),
        ];
        assert_eq!(
            rate(&format!("[{}]", entries.join(",")), &JOB).unwrap(),
            3.5
        );
        assert!(rate(&format!("[{}]", entries[..2].join(",")), &JOB).is_err());
        assert!(rate(&format!("[{}]", entry(2, "prefill", 0.0)), &JOB).is_err());
        assert!(rate("", &JOB).is_err());
    }
}
