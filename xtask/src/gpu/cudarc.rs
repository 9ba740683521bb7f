//! cudarc, changed in two places. Candle asks it to link CUDA's libraries, and a program so linked does not start where
//! they are missing; changed, the same request loads them at run time. The manifests of this project stay as they are:
//! the changed copy is given to cargo on its command line.

use crate::command::{cargo, output, run};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// What is replaced, by file.
const CHANGES: &[(&str, &str, &str)] = &[
    (
        "Cargo.toml",
        "dynamic-linking = []",
        "dynamic-linking = [\"dynamic-loading\"]",
    ),
    (
        "build.rs",
        "    #[cfg(all(feature = \"dynamic-loading\", feature = \"dynamic-linking\"))]\n    panic!(\"Both `dynamic-loading` \
         and `dynamic-linking` features are active, this is a bug\");\n",
        "",
    ),
    (
        "build.rs",
        "    #[cfg(feature = \"dynamic-linking\")]\n    dynamic_linking(major, minor);\n",
        "",
    ),
];

/// The changed copy, made anew where cargo has another version now.
///
/// # Errors
/// A version in which the places are others.
pub fn patched(folder: &Path) -> Result<PathBuf> {
    let (original, version) = original()?;
    let copy = folder.join(format!("cudarc-{version}"));
    if copy.join("complete").is_file() {
        return Ok(copy);
    }
    copy_folder(&original, &copy)?;
    for (file, from, to) in CHANGES {
        let path = copy.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        ensure!(
            text.contains(from),
            "cudarc {version} is another than the one this was written for: {file} has no {from:?}"
        );
        fs::write(&path, text.replace(from, to))?;
    }
    fs::write(copy.join("complete"), "").context("cannot mark the copy as complete")?;
    Ok(copy)
}

/// Where cargo has the package, and its version.
fn original() -> Result<(PathBuf, String)> {
    run(&mut cargo(&["fetch"]))?;
    let metadata = output(&mut cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--all-features",
    ]));
    let metadata: Value = serde_json::from_str(&metadata.context("`cargo metadata` failed")?)?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages.find(|package| package["name"] == "cudarc");
    let package = package.context("cudarc is no dependency")?;
    let field = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
    let manifest = PathBuf::from(field("manifest_path"));
    let folder = manifest.parent().context("a manifest is in a folder")?;
    Ok((folder.to_path_buf(), field("version")))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("no {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
