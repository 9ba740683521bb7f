//! Peers that are Rust crates: each has a small program under `xtask/peers`, a workspace of its own.

use super::blocks::Quant;
use super::engine::{DECODED, Engine, Job, Kind, PROMPT, Test};
use super::gguf::{self, Architecture};
use super::results::median;
use super::shape::Shape;
use super::workshop::Workshop;
use crate::command::{cargo, command, output, output_within, root, run};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A process that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(900);

/// Candle's quantised llama. It knows no ternary type; the weights are ternary all the same.
pub struct Candle<'a> {
    workshop: &'a Workshop,
    program: PathBuf,
}

impl<'a> Candle<'a> {
    /// Builds it.
    ///
    /// # Errors
    /// Where the build fails.
    pub fn build(workshop: &'a Workshop) -> Result<Self> {
        let folder = root().join("xtask/peers/candle");
        let program = build(workshop, &folder, "peer-candle")?;
        Ok(Self { workshop, program })
    }

    fn model(&self, job: &Job) -> PathBuf {
        let name = format!("{}-{}.gguf", job.shape.name(), Quant::Q4_0.name());
        self.workshop.model(&name)
    }
}

impl Engine for Candle<'_> {
    fn name(&self) -> String {
        "candle".to_owned()
    }

    fn prepare(&mut self, job: &Job) -> Result<()> {
        let model = self.model(job);
        if !model.is_file() {
            eprintln!("writing {}", model.display());
            gguf::write(&model, Architecture::Llama, &job.shape.dims(), Quant::Q4_0)?;
        }
        Ok(())
    }

    fn time(&self, job: &Job) -> Result<f64> {
        let test = match job.test {
            Test::Decode => format!("decode:{DECODED}"),
            Test::Prefill => format!("prefill:{PROMPT}"),
        };
        let mut peer = command(&self.program);
        peer.arg(self.model(job))
            .arg(job.seconds.to_string())
            .arg(test);
        rate(&mut peer, job)
    }
}

/// How the seed's engine is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As shipped, f32 weights as its loader makes them.
    Shipped,
    /// As shipped, packed to two bits as its Python class does.
    Packed,
    /// With the copy of every transposed weight at every token that releases before 0.6.0 made.
    Copying,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Shipped, Self::Packed, Self::Copying];

    /// Its name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shipped => "cortex_rust",
            Self::Packed => "cortex_rust (packed)",
            Self::Copying => "cortex_rust (copying)",
        }
    }
}

/// The seed's engine, with models of its own kind.
pub struct Cortex {
    program: PathBuf,
    variant: Variant,
}

impl Cortex {
    /// Builds one variant.
    ///
    /// # Errors
    /// Where the build fails.
    pub fn build(workshop: &Workshop, variant: Variant) -> Result<Self> {
        let sources = root().join("xtask/peers/cortex");
        let folder = match variant {
            Variant::Shipped | Variant::Packed => sources,
            Variant::Copying => copying_sources(workshop, &sources)?,
        };
        let program = build(workshop, &folder, "peer-cortex").context(
            "cortex_rust needs OpenSSL's headers, on Debian as root `apt-get install libssl-dev pkg-config`",
        )?;
        Ok(Self { program, variant })
    }
}

impl Engine for Cortex {
    fn name(&self) -> String {
        self.variant.name().to_owned()
    }

    fn kind(&self) -> Kind {
        Kind::Seed
    }

    fn refuses(&self, shape: Shape) -> Option<&'static str> {
        let large = matches!(shape, Shape::OneB | Shape::TwoB4T);
        large.then_some("its models are f32: this shape takes gigabytes and minutes a run")
    }

    fn prepare(&mut self, _: &Job) -> Result<()> {
        Ok(())
    }

    fn time(&self, job: &Job) -> Result<f64> {
        let dims = job.shape.dims();
        let mut peer = command(&self.program);
        peer.args([dims.d_model, dims.layers, dims.vocab].map(|len| len.to_string()));
        peer.arg(job.seconds.to_string());
        peer.arg(match job.test {
            Test::Decode => "decode".to_owned(),
            Test::Prefill => format!("prefill:{PROMPT}"),
        });
        if self.variant == Variant::Packed {
            peer.arg("packed");
        }
        rate(&mut peer, job)
    }
}

#[derive(Deserialize)]
struct Report {
    tokens_per_s: Vec<f64>,
}

/// Runs a peer's program with the job's threads.
fn rate(peer: &mut Command, job: &Job) -> Result<f64> {
    peer.env("RAYON_NUM_THREADS", job.threads.to_string());
    let (json, well) = output_within(peer, LIMIT)?;
    ensure!(well, "the program failed");
    let report: Report = serde_json::from_str(&json).context("cannot read what it printed")?;
    median(&report.tokens_per_s).context("it reported no samples")
}

/// Builds the program of a folder for this machine's own instruction set. Variants share what they depend on: they build
/// in one folder, and the program is copied out of it.
fn build(workshop: &Workshop, folder: &Path, name: &str) -> Result<PathBuf> {
    let target = workshop.path("cargo").join(name);
    let mut build = cargo(&["build", "--release", "--locked", "--quiet"]);
    build.arg("--manifest-path").arg(folder.join("Cargo.toml"));
    build.arg("--target-dir").arg(&target);
    build.env("RUSTFLAGS", "-C target-cpu=native");
    eprintln!("building {name} (minutes, the first time)");
    run(&mut build)?;
    let program = workshop
        .path("bin")
        .join(folder.file_name().context("no folder")?);
    let built = target.join("release").join(name);
    let copied = std::fs::copy(&built, &program);
    copied.with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(program)
}

/// The places where releases before 0.6.0 copied, and what they did there.
const COPIES: [(&str, &str, &str); 2] = [
    (
        "src/layers/bit_linear.rs",
        "input.matmul(&self.weight.t()?)?",
        "input.matmul(&self.weight.t()?.contiguous()?)?",
    ),
    (
        "src/model/llama/bitllama.rs",
        "self.lm_head.forward(&h_norm)?",
        "h_norm.broadcast_matmul(&self.lm_head.weight().t()?.contiguous()?)?",
    ),
];

/// A copy of the peer's program that depends on a patched copy of the crate.
fn copying_sources(workshop: &Workshop, sources: &Path) -> Result<PathBuf> {
    let folder = workshop.path("cortex-copying");
    let crate_copy = folder.join("cortex_rust");
    let context = || format!("cannot make {}", folder.display());
    copy_folder(&crate_folder(sources)?, &crate_copy).with_context(context)?;
    for (file, line, copying) in COPIES {
        let file = crate_copy.join(file);
        let source = std::fs::read_to_string(&file).with_context(context)?;
        ensure!(
            source.contains(line),
            "`{line}` is not in {}",
            file.display()
        );
        std::fs::write(&file, source.replace(line, copying)).with_context(context)?;
    }
    copy_folder(&sources.join("src"), &folder.join("src")).with_context(context)?;
    let manifest = std::fs::read_to_string(sources.join("Cargo.toml")).with_context(context)?;
    let patch = "\n[patch.crates-io]\ncortex_rust = { path = \"cortex_rust\" }\n";
    std::fs::write(folder.join("Cargo.toml"), manifest + patch).with_context(context)?;
    std::fs::copy(sources.join("Cargo.lock"), folder.join("Cargo.lock")).with_context(context)?;
    // The lock file names the registry as the crate's source; all other versions stay as locked.
    let mut relock = cargo(&["update", "--quiet", "--package", "cortex_rust"]);
    run(relock.arg("--manifest-path").arg(folder.join("Cargo.toml")))?;
    Ok(folder)
}

/// Where cargo has unpacked the sources of `cortex_rust`.
fn crate_folder(sources: &Path) -> Result<PathBuf> {
    let mut metadata = cargo(&["metadata", "--format-version=1", "--locked"]);
    metadata
        .arg("--manifest-path")
        .arg(sources.join("Cargo.toml"));
    let json = output(&mut metadata).context("cannot download the sources of cortex_rust")?;
    let metadata: serde_json::Value = serde_json::from_str(&json)?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages.find(|package| package["name"] == "cortex_rust");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let Some(folder) = manifest.and_then(|manifest| Path::new(manifest).parent()) else {
        bail!("cargo does not say where the sources of cortex_rust are");
    };
    Ok(folder.to_path_buf())
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Job = Job {
        shape: Shape::Tiny,
        threads: 3,
        test: Test::Decode,
        seconds: 0.1,
    };

    fn shell(script: &str) -> Result<f64> {
        rate(command("sh").args(["-c", script]), &JOB)
    }

    #[test]
    fn a_program_is_given_the_threads_and_its_median_counts() {
        let script = r#"echo "{\"tokens_per_s\": [1.0, $RAYON_NUM_THREADS, 900.0]}""#;
        assert_eq!(shell(script).unwrap(), 3.0);
    }

    #[test]
    fn a_program_that_fails_or_says_nothing_is_an_error() {
        assert!(shell(r#"echo '{"tokens_per_s": [1.0]}'; exit 1"#).is_err());
        assert!(shell(r#"echo '{"tokens_per_s": []}'"#).is_err());
        assert!(shell("echo fast").is_err());
    }

    #[test]
    fn large_shapes_are_refused_with_a_reason() {
        let cortex = Cortex {
            program: PathBuf::new(),
            variant: Variant::Shipped,
        };
        assert!(cortex.refuses(Shape::OneB).is_some());
        assert!(cortex.refuses(Shape::Small).is_none());
    }
}
