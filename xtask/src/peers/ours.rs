//! Our own engine: the command `bitttt`, as anybody runs it.

use super::engine::{Engine, Job, Kind, PROMPT};
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
        let kind = match self.kind {
            Kind::Llama => "",
            Kind::Seed => "-seed",
        };
        let name = format!("{}{kind}-{}.bttt", job.shape.name(), self.weights);
        self.workshop.model(&name)
    }
}

impl Engine for Ours<'_> {
    fn name(&self) -> String {
        "bitttt".to_owned()
    }

    /// A model older than the program is written anew: the format may have changed.
    fn prepare(&mut self, job: &Job) -> Result<()> {
        let age = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
        let model = self.model(job);
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
