//! llama.cpp, built from the sources that its Python package carries.

use super::blocks::Quant;
use super::engine::{DECODED, Engine, Job, PROMPT, Test};
use super::gguf::{self, Architecture};
use super::results::median;
use super::shape::Shape;
use super::workshop::{Workshop, compilers};
use crate::command::{command, output_within, run};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of the Python package.
const VERSION: &str = "0.3.36";

/// A process that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(900);

/// One type of weights in llama.cpp.
pub struct Llama<'a> {
    workshop: &'a Workshop,
    bench: &'a Path,
    quant: Quant,
    architecture: Architecture,
    settings: Option<Settings>,
}

/// The better setting of flash attention for a job, and how often to repeat.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Settings {
    flash_attention: bool,
    repetitions: usize,
}

impl<'a> Llama<'a> {
    /// Times weights of one type with the `llama-bench` that [`build`] gave.
    pub fn new(
        workshop: &'a Workshop,
        bench: &'a Path,
        quant: Quant,
        architecture: Architecture,
    ) -> Self {
        Self {
            workshop,
            bench,
            quant,
            architecture,
            settings: None,
        }
    }

    fn model(&self, job: &Job) -> PathBuf {
        self.workshop
            .model(&file_name(job.shape, self.architecture, self.quant))
    }

    /// Runs `llama-bench`: tokens per second of every repetition, for each setting of flash attention.
    fn bench(&self, job: &Job, flash_attention: &str, repetitions: usize) -> Result<Vec<Report>> {
        let (prompt, decoded) = match job.test {
            Test::Decode => (0, DECODED),
            Test::Prefill => (PROMPT, 0),
        };
        let mut bench = command(self.bench);
        bench.arg("-m").arg(self.model(job));
        bench.args(["-o", "json", "-fa", flash_attention]);
        for (name, value) in [
            ("-p", prompt),
            ("-n", decoded),
            ("-t", job.threads),
            ("-r", repetitions),
        ] {
            bench.args([name, &value.to_string()]);
        }
        let (json, well) = output_within(&mut bench, LIMIT)?;
        ensure!(well, "llama-bench failed");
        parse(&json)
    }
}

/// Name of a model's file.
pub fn file_name(shape: Shape, architecture: Architecture, quant: Quant) -> String {
    let kind = match architecture {
        Architecture::Llama => "",
        Architecture::Bitnet => "-bitnet",
    };
    format!("{}{kind}-{}.gguf", shape.name(), quant.name())
}

impl Engine for Llama<'_> {
    fn name(&self) -> String {
        format!("llama.cpp {}", self.quant.name())
    }

    fn prepare(&mut self, job: &Job) -> Result<()> {
        let model = self.model(job);
        if !model.is_file() {
            eprintln!("writing {}", model.display());
            gguf::write(&model, self.architecture, &job.shape.dims(), self.quant)?;
        }
        let tokens = match job.test {
            Test::Decode => DECODED,
            Test::Prefill => PROMPT,
        };
        let tried = self.bench(job, "0,1", 2)?;
        self.settings = Some(choose(&tried, tokens as f64, job.seconds)?);
        Ok(())
    }

    fn time(&self, job: &Job) -> Result<f64> {
        let settings = self.settings.context("the job was not prepared")?;
        let flash_attention = if settings.flash_attention { "1" } else { "0" };
        let reports = self.bench(job, flash_attention, settings.repetitions)?;
        let rates = reports.first().map(|report| median(&report.samples_ts));
        rates.flatten().context("llama-bench reported no samples")
    }
}

/// What we read of a result of `llama-bench -o json`.
#[derive(Debug, Deserialize)]
struct Report {
    #[serde(deserialize_with = "flag")]
    flash_attn: bool,
    samples_ts: Vec<f64>,
}

/// Versions write `true`, `1` or the name of the setting.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value == true || value == 1 || value == "on")
}

fn parse(json: &str) -> Result<Vec<Report>> {
    serde_json::from_str(json).context("cannot read what llama-bench printed")
}

/// The setting with the higher median, and repetitions that fill the time.
fn choose(tried: &[Report], tokens: f64, seconds: f64) -> Result<Settings> {
    let rate = |report: &Report| median(&report.samples_ts).unwrap_or(0.0);
    let best = tried.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)));
    let best = best.context("llama-bench reported nothing")?;
    let repetitions = (seconds * rate(best) / tokens).ceil();
    ensure!(repetitions.is_finite(), "llama-bench reported no speed");
    Ok(Settings {
        flash_attention: best.flash_attn,
        repetitions: repetitions.clamp(1.0, 1000.0) as usize,
    })
}

/// Path of `llama-bench`, built for this machine, or for AVX2 and no more.
///
/// # Errors
/// Where a tool is missing or the build fails.
pub fn build(workshop: &Workshop, avx2: bool) -> Result<PathBuf> {
    let folder = workshop.path(format!("llama.cpp-{VERSION}"));
    let build = folder.join(if avx2 { "build-avx2" } else { "build-native" });
    let bench = build.join("bin/llama-bench");
    if bench.is_file() {
        return Ok(bench);
    }
    compilers()?;
    let cmake = workshop.python("cmake", &["cmake", "ninja", "scikit-build-core"])?;
    if !folder.is_dir() {
        unpack(workshop, &folder)?;
    }
    eprintln!("building llama.cpp (some ten minutes on two cores)");
    let mut configure = command(&cmake);
    configure.arg("-S").arg(&folder).arg("-B").arg(&build);
    configure.args(["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]);
    configure.arg(format!(
        "-DCMAKE_MAKE_PROGRAM={}",
        cmake.with_file_name("ninja").display()
    ));
    configure.args(if avx2 { AVX2 } else { &["-DGGML_NATIVE=ON"] });
    run(configure.args(PARTS))?;
    run(command(&cmake)
        .arg("--build")
        .arg(&build)
        .args(["--target", "llama-bench"]))?;
    Ok(bench)
}

/// Instruction sets of the AVX2 build.
const AVX2: &[&str] = &[
    "-DGGML_NATIVE=OFF",
    "-DGGML_AVX2=ON",
    "-DGGML_FMA=ON",
    "-DGGML_F16C=ON",
    "-DGGML_BMI2=ON",
    "-DGGML_AVX512=OFF",
];

/// What of llama.cpp is built.
const PARTS: &[&str] = &[
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
];

/// Downloads the package's sources and puts llama.cpp's in `folder`, patched.
fn unpack(workshop: &Workshop, folder: &Path) -> Result<()> {
    eprintln!("downloading llama-cpp-python {VERSION}");
    let python = workshop.python("python", &["scikit-build-core"])?;
    let downloads = workshop.path("downloads");
    let mut download = command(&python);
    download.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]);
    download
        .args(["--no-binary", "llama-cpp-python", "--dest"])
        .arg(&downloads);
    run(download.arg(format!("llama-cpp-python=={VERSION}")))
        .context("a package registry of Python must be reachable")?;
    let name = format!("llama_cpp_python-{VERSION}");
    let archive = downloads.join(format!("{name}.tar.gz"));
    run(command(&python)
        .args(["-m", "tarfile", "-e"])
        .arg(&archive)
        .arg(&downloads))?;
    let sources = downloads.join(name).join("vendor/llama.cpp");
    patch(&sources.join("ggml/src/ggml-cpu/amx/mmq.cpp"))?;
    std::fs::rename(&sources, folder).with_context(|| format!("cannot move {}", sources.display()))
}

/// Where the AMX path sets its tiles up.
const LOAD: &str = "_tile_loadconfig(&tc);";

/// GCC 12 takes the stores to `tc` for dead, and the AMX path crashes. This costs nothing and keeps them, on every
/// compiler; the comparison would be worth nothing without that path where the machine has it.
const KEEP: &str = "__asm__ volatile(\"\" :: \"r\"(&tc) : \"memory\");";

fn patch(file: &Path) -> Result<()> {
    let context = || format!("cannot patch {}", file.display());
    let source = std::fs::read_to_string(file).with_context(context)?;
    let patched = patched(&source).with_context(context)?;
    std::fs::write(file, patched).with_context(context)
}

fn patched(source: &str) -> Result<String> {
    ensure!(source.contains(LOAD), "`{LOAD}` is not there");
    Ok(source.replace(LOAD, &format!("{KEEP} {LOAD}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"[
        {"n_prompt": 0, "n_gen": 128, "flash_attn": false, "avg_ts": 7.0, "samples_ts": [6.0, 8.0]},
        {"n_prompt": 0, "n_gen": 128, "flash_attn": true, "avg_ts": 9.0, "samples_ts": [8.0, 256.0, 9.0]}
    ]"#;

    #[test]
    fn the_faster_setting_is_kept_and_repeated_for_the_time_given() {
        let tried = parse(JSON).unwrap();
        let expected = Settings {
            flash_attention: true,
            repetitions: 2, // 128 tokens at 9 a second take 14.2 s
        };
        assert_eq!(choose(&tried, 128.0, 20.0).unwrap(), expected);
        assert_eq!(choose(&tried[..1], 128.0, 0.1).unwrap().repetitions, 1);
        assert!(choose(&[], 128.0, 1.0).is_err());
    }

    #[test]
    fn output_that_is_no_report_is_an_error() {
        assert!(parse("").is_err());
        assert!(parse(r#"[{"flash_attn": 1}]"#).is_err());
    }

    #[test]
    fn the_patch_keeps_the_stores_and_fails_loudly_where_the_line_is_gone() {
        let patched = patched("a;\n  _tile_loadconfig(&tc);\n").unwrap();
        assert_eq!(patched, format!("a;\n  {KEEP} {LOAD}\n"));
        assert!(super::patched("a;\n").is_err());
    }
}
