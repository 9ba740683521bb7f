//! The program that goes to a GPU, run here: its driver and libraries are pretended (`pretend.cpp`), its kernels run on the
//! CPU. What is left to be seen on a card are the card, NVIDIA's libraries and Candle's kernels.

use crate::command::{command, root, run};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIBRARIES: &[&str] = &[
    "libcuda.so.1",
    "libcublas.so",
    "libcurand.so",
    "libnvrtc.so",
];

/// A model that has every operation with kernels, and rows that no block of theirs divides.
/// A run that stops validates first: it is validated every 3 steps so that one stopped at 6 has no loss that others lack.
const CONFIG: &str = "[model]
d_model = 24
n_layers = 2
n_heads = 2
d_ffn = 40
mini_batch = 8
gate = true
tie_embeddings = false
[train]
batch = 3
context = 50
checkpoint_every = 6
log_every = 1
eval_every = 3
";

/// Most that a loss may differ between the devices: gradients are rounded to bfloat16 on one of them.
const LOSS_LIMIT: f64 = 0.01;

/// Checks the device, trains on it and goes on with its checkpoint on the CPU.
///
/// # Errors
/// Whatever differs.
pub fn check(folder: &Path, program: &Path) -> Result<()> {
    let pretended = Pretended::build(folder, program)?;
    run(pretended
        .command()
        .args(["check-device", "--device", "cuda"]))
    .context("the pretended GPU computes something else than the CPU")?;
    pretended.train()
}

struct Pretended {
    folder: PathBuf,
    program: PathBuf,
}

impl Pretended {
    fn build(folder: &Path, program: &Path) -> Result<Self> {
        let folder = folder.join("pretend");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let library = folder.join(LIBRARIES[0]);
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        run(command(compiler)
            .args([
                "-std=c++17",
                "-O2",
                "-march=native",
                "-fPIC",
                "-shared",
                "-o",
            ])
            .arg(&library)
            .arg(root().join("xtask/src/gpu/pretend.cpp"))
            .arg("-ldl"))?;
        for other in &LIBRARIES[1..] {
            fs::copy(&library, folder.join(other))?;
        }
        Ok(Self {
            folder,
            program: program.to_path_buf(),
        })
    }

    fn command(&self) -> Command {
        let mut command = command(&self.program);
        let shim = root().join("host-trainer/src/ops/cuda/emulator/shim.h");
        command
            .env("LD_LIBRARY_PATH", &self.folder)
            .env("PRETEND_SHIM", shim);
        command
    }

    /// The same run on both devices; and half of it on one, the rest on the other.
    fn train(&self) -> Result<()> {
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = self.folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        let data =
            "Ada Varga lives by the mill. The mill is old.<|endoftext|>Bo Kim reads.<|endoftext|>";
        let data = write("data.txt", &data.repeat(40))?;
        let config = write("train.toml", CONFIG)?;
        let run_on = |name: &str, device: &str, more: &[&str]| {
            run(self
                .command()
                .args(["train", "--steps", "12", "--device", device])
                .arg("--data")
                .arg(&data)
                .arg("--config")
                .arg(&config)
                .arg("--out")
                .arg(self.folder.join(name))
                .args(more))
        };
        run_on("cpu", "cpu", &[])?;
        run_on("cuda", "cuda", &[])?;
        run_on("again", "cuda", &[])?;
        run_on("both", "cuda", &["--stop-after", "6"])?;
        run_on("both", "cpu", &["--resume"])?;
        run_on("resumed", "cuda", &["--stop-after", "6"])?;
        run_on("resumed", "cuda", &["--resume"])?;
        let expected = self.losses("cpu")?;
        for name in ["cuda", "both"] {
            self.close(name, &expected)?;
        }
        for name in ["again", "resumed"] {
            ensure!(
                self.losses(name)? == self.losses("cuda")?,
                "a run on the pretended GPU does not repeat to the bit ({name})"
            );
        }
        run(self
            .command()
            .args([
                "eval",
                "--device",
                "cuda",
                "--context",
                "40",
                "--checkpoint",
            ])
            .arg(self.folder.join("cuda"))
            .arg("--data")
            .arg(&data))?;
        println!("a run on the pretended GPU learns what a run on the CPU learns");
        Ok(())
    }

    fn close(&self, name: &str, expected: &[f64]) -> Result<()> {
        let losses = self.losses(name)?;
        ensure!(
            losses.len() == expected.len(),
            "{name} has another number of steps"
        );
        for (step, (got, wanted)) in losses.iter().zip(expected).enumerate() {
            if (got - wanted).abs() > LOSS_LIMIT || got.is_nan() {
                bail!(
                    "{name}: the loss of line {} is {got}, on the CPU {wanted}",
                    step + 1
                );
            }
        }
        Ok(())
    }

    /// Training and held-out losses of a run, in the order of its lines.
    fn losses(&self, name: &str) -> Result<Vec<f64>> {
        let path = self.folder.join(name).join("metrics.jsonl");
        let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        let mut losses = Vec::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line)?;
            losses.extend(
                ["loss", "val_loss"]
                    .iter()
                    .filter_map(|field| line[field].as_f64()),
            );
        }
        Ok(losses)
    }
}
