//! nvcc, its headers and the static run-time library, from NVIDIA's Python packages.

use crate::command::{command, root, run};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// 13.0 and nothing newer: a driver refuses code of a later CUDA than its own, and 580 has 13.0.
const PACKAGES: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-runtime==13.0.96",
];

/// A CUDA toolkit.
#[derive(Debug)]
pub struct Toolkit {
    home: PathBuf,
}

/// Downloads the toolkit, once.
///
/// # Errors
/// No Python with pip, or no package registry.
pub fn assemble(folder: &Path) -> Result<Toolkit> {
    let home = folder.join("cuda");
    if !home.join("complete").is_file() {
        download(folder, &home)?;
    }
    Ok(Toolkit { home })
}

fn download(folder: &Path, home: &Path) -> Result<()> {
    eprintln!("downloading nvcc, 105 MB");
    let site = folder.join("site");
    for old in [&site, &home.to_path_buf()] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    run(command("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"])
        .arg(&site)
        .args(PACKAGES))
    .context("nvcc comes with Python's packages: install pip, on Debian as root with `apt-get install python3-pip`")?;
    fs::rename(site.join("nvidia/cu13"), home).context("the packages hold no nvidia/cu13")?;
    fs::remove_dir_all(&site).context("cannot remove what was unpacked")?;
    for programs in ["bin", "nvvm/bin"] {
        make_executable(&home.join(programs))?;
    }
    symlink("lib", home.join("lib64")).context("cannot link lib64")?;
    link_statically(&home.join("lib"))?;
    fs::write(home.join("complete"), "").context("cannot mark the toolkit as complete")
}

fn make_executable(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// Candle's kernels ask for `-lcudart`; with only an archive of that name the linker takes it statically.
fn link_statically(lib: &Path) -> Result<()> {
    for entry in fs::read_dir(lib)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("libcudart.so")
        {
            fs::remove_file(entry.path())?;
        }
    }
    symlink("libcudart_static.a", lib.join("libcudart.a")).context("cannot link libcudart.a")
}

impl Toolkit {
    /// Makes a build use this toolkit.
    pub fn apply(&self, build: &mut Command, capability: u32) {
        for name in [
            "CUDA_HOME",
            "CUDA_PATH",
            "CUDA_ROOT",
            "CUDA_TOOLKIT_ROOT_DIR",
        ] {
            build.env(name, &self.home);
        }
        let paths = |first: PathBuf, name: &str| {
            let rest = std::env::var_os(name).unwrap_or_default();
            let all = std::iter::once(first).chain(std::env::split_paths(&rest));
            std::env::join_paths(all.filter(|path| !path.as_os_str().is_empty()))
                .unwrap_or_default()
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        build
            .env("PATH", paths(self.home.join("bin"), "PATH"))
            .env("LIBRARY_PATH", paths(self.home.join("lib"), "LIBRARY_PATH"))
            .env("CUDA_COMPUTE_CAP", capability.to_string())
            .env("CUDAFORGE_THREADS", threads.to_string());
    }

    /// Compiles our kernels at the shapes of real models and prints what ptxas says of each.
    ///
    /// # Errors
    /// A kernel that is not CUDA, or that spills registers.
    pub fn report_kernels(&self, capability: u32) -> Result<()> {
        let kernels = root().join("host-trainer/src/ops/cuda/kernels");
        let read = |name: &str| {
            let path = kernels.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (common, rows) = (read("common.cuh")?, read("rows.cu")?);
        let ttt = ["ttt.cuh", "ttt_forward.cu", "ttt_backward.cu"].map(read);
        let ttt = ttt.into_iter().collect::<Result<Vec<_>>>()?.concat();
        self.compile("rows", &format!("{common}{rows}"), capability)?;
        for (d_head, threads) in [(16, 64), (32, 128), (48, 256), (64, 256), (96, 256)] {
            let defines = format!(
                "#define D_HEAD {d_head}\n#define MINI_BATCH 16\n#define THREADS {threads}\n"
            );
            let source = format!("{defines}{common}{ttt}");
            self.compile(&format!("ttt, heads {d_head} wide"), &source, capability)?;
        }
        Ok(())
    }

    fn compile(&self, name: &str, source: &str, capability: u32) -> Result<()> {
        let folder = self.home.join("kernels");
        fs::create_dir_all(&folder)?;
        let (input, output) = (folder.join("kernels.cu"), folder.join("kernels.cubin"));
        fs::write(&input, source)?;
        let mut nvcc = command(self.home.join("bin/nvcc"));
        nvcc.args(["-std=c++17", "--fmad=false", "-cubin", "-Xptxas", "-v"])
            .arg(format!("-arch=sm_{capability}"))
            .arg("-o")
            .arg(&output)
            .arg(&input);
        let output = nvcc.output().context("nvcc does not start")?;
        let log = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name} does not compile:\n{log}");
        println!("{name}");
        let mut kernel = "";
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once("entry function '") {
                kernel = rest.split('\'').next().unwrap_or_default();
            } else if line.contains("spill stores") {
                let clean = line.contains("0 bytes spill stores, 0 bytes spill loads");
                ensure!(clean, "{name}: {kernel} spills: {}", line.trim());
            } else if let Some((_, used)) = line.split_once("Used ") {
                println!("  {kernel:24} {used}");
            }
        }
        Ok(())
    }
}
