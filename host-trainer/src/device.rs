//! `--device`: what training and the trainer's model run on.

use anyhow::{Context as _, bail, ensure};
use candle_core::Device;

use crate::config::{Mixer, ModelConfig, WeightType};

/// Opens `cpu` or `cuda[:N]`.
///
/// # Errors
/// One line: another name, a build without CUDA, no driver, no such GPU, or libraries of CUDA that are missing.
pub fn open(name: &str) -> anyhow::Result<Device> {
    let cuda = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => Some(0),
        Some(("cuda", number)) => number.parse().ok(),
        _ => None,
    };
    let ordinal = cuda.with_context(|| format!("--device {name} is neither cpu nor cuda[:N]"))?;
    open_cuda(ordinal)
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> anyhow::Result<Device> {
    crate::ops::cuda::device::open(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_ordinal: usize) -> anyhow::Result<Device> {
    bail!("this build has no CUDA; build one with `cargo xtask gpu`, or use --device cpu")
}

/// Refuses what a GPU has no kernels for.
///
/// # Errors
/// Names the mixer, or what is too large, and the way out.
pub fn check(device: &Device, config: &ModelConfig) -> anyhow::Result<()> {
    if device.is_cpu() {
        return Ok(());
    }
    ensure!(
        config.weights == WeightType::Ternary,
        "model.weights other than \"ternary\" have no CUDA kernels; use --device cpu"
    );
    for layer in 0..config.n_layers {
        let mixer = config.mixer_of(layer);
        if mixer != Mixer::TttLinear {
            let name = serde_json::to_value(mixer)?;
            bail!(
                "mixer {} has no CUDA kernels; use --device cpu",
                name.as_str().unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// Refuses segments on a GPU.
///
/// # Errors
/// Says the way out.
pub fn check_segment(device: &Device, segment: usize) -> anyhow::Result<()> {
    ensure!(
        segment == 0 || device.is_cpu(),
        "train.segment = {segment}: segments have no CUDA kernels; use --device cpu, or leave it out"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_read_and_others_refused() {
        assert!(open("cpu").unwrap().is_cpu());
        for name in ["gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1"] {
            let error = open(name).unwrap_err().to_string();
            assert!(
                error.contains("neither cpu nor cuda[:N]"),
                "{name}: {error}"
            );
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so_and_what_to_do() {
        let error = open("cuda:1").unwrap_err().to_string();
        assert!(
            error.contains("no CUDA") && error.contains("--device cpu"),
            "{error}"
        );
    }
}
