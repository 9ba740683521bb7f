//! What the project is built from: licences that it may be given away under, sources that everybody can reach, and no crate
//! in two versions unless we know of it. Goes by `Cargo.lock` and the crates' own manifests; asks no server for more than a
//! build does. Optional features and other platforms count.

use crate::command::{cargo, output, root};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a crate's licence must allow to choose from.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MPL-2.0", // cbindgen, which writes the C header and is part of nothing that is built
    "NCSA",    // LLVM's fuzzer, the same
    "Unicode-3.0",
    "Zlib",
];

/// Crates that come in two versions, and why.
const TWICE: &[&str] = &[
    // fancy-regex 0.18, of tokenizers, is behind proptest
    "bit-set",
    "bit-vec",
    // Candle and what it draws random numbers and opens libraries with
    "getrandom",
    "hashbrown",
    "libloading",
    "r-efi",
    "rand",
    "rand_core",
    "thiserror",
    "thiserror-impl",
    // cbindgen is behind our own
    "toml",
    "toml_datetime",
    "winnow",
    // derive macros are on their way to 3
    "syn",
    // Candle's builder of CUDA kernels, and the SHA-512 of our signatures
    "block-buffer",
    "crypto-common",
    "digest",
    "sha2",
    // what makes bindings to MPI
    "cpufeatures",
    "itertools",
    "shlex",
];

/// The same of the firmware: cortex-m's interfaces of embedded-hal 0.2, what builds its bare-metal, and derive macros.
const TWICE_IN_FIRMWARE: &[&str] = &["embedded-hal", "nb", "rustc_version", "semver", "syn"];

/// Where crates may come from, besides this repository.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// Checks the workspace and the firmware.
pub fn check() -> Result<()> {
    let mut faults = Vec::new();
    for (folder, twice) in [(".", TWICE), ("firmware-example", TWICE_IN_FIRMWARE)] {
        let packages = packages(folder)?;
        eprintln!("{folder}: {} crates", packages.len());
        faults.extend(packages.iter().filter_map(fault));
        faults.extend(duplicates(&packages, twice));
    }
    if faults.is_empty() {
        return Ok(());
    }
    faults.iter().for_each(|fault| eprintln!("{fault}"));
    bail!(
        "{} of what the project is built from is not as it should be",
        faults.len()
    )
}

fn packages(folder: &str) -> Result<Vec<Package>> {
    let arguments = [
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--all-features",
    ];
    let metadata = output(cargo(&arguments).current_dir(root().join(folder)));
    let metadata = metadata.with_context(|| format!("`cargo metadata` failed in {folder}"))?;
    Ok(serde_json::from_str::<Metadata>(&metadata)?.packages)
}

/// What is wrong with a crate by itself.
fn fault(package: &Package) -> Option<String> {
    let Package {
        name,
        version,
        license,
        source,
    } = package;
    let source = source.as_deref()?;
    if source != REGISTRY {
        return Some(format!(
            "{name} {version} comes from {source}, not from crates.io"
        ));
    }
    let Some(licence) = license else {
        return Some(format!("{name} {version} names no licence"));
    };
    (!is_allowed(licence)).then(|| format!("{name} {version} has the licence {licence}"))
}

fn is_allowed(licence: &str) -> bool {
    let parsed = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX);
    parsed.is_ok_and(|any| any.evaluate(|one| LICENCES.contains(&one.to_string().as_str())))
}

/// Crates in more than one version that are not in the list, and those of the list that are not.
fn duplicates(packages: &[Package], known: &[&str]) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    let unknown = versions.iter().filter(|(name, _)| !known.contains(name));
    let unknown = unknown.map(|(name, versions)| {
        format!(
            "{name} comes as {}: update what needs the older one, or note it in TWICE",
            versions.join(" and ")
        )
    });
    let gone = known.iter().filter(|name| !versions.contains_key(**name));
    let gone = gone.map(|name| format!("{name} comes once: take it out of TWICE"));
    unknown.chain(gone).collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    fn package(name: &str, version: &str, license: Option<&str>, source: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: license.map(str::to_owned),
            source: Some(source.to_owned()),
        }
    }

    #[test]
    fn a_licence_must_leave_a_choice_that_is_allowed() {
        for good in [
            "MIT/Apache-2.0",
            "GPL-2.0-only OR Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "Apache-2.0 WITH Classpath-exception-2.0",
            "none",
            "",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_crate_without_licence_or_from_elsewhere_is_named() {
        assert_eq!(fault(&package("a", "1.0.0", Some("MIT"), REGISTRY)), None);
        let nameless = fault(&package("a", "1.0.0", None, REGISTRY)).unwrap();
        assert_eq!(nameless, "a 1.0.0 names no licence");
        let elsewhere = fault(&package(
            "a",
            "1.0.0",
            Some("MIT"),
            "git+https://example.org/a",
        ))
        .unwrap();
        assert!(elsewhere.contains("example.org"));
    }

    #[test]
    fn a_second_version_is_named_unless_known_and_a_known_one_that_is_gone_too() {
        let twice = ["1.0.0", "2.0.0"].map(|version| package("a", version, None, REGISTRY));
        assert!(duplicates(&twice, &["a"]).is_empty());
        assert!(duplicates(&twice, &[])[0].contains("1.0.0 and 2.0.0"));
        assert!(duplicates(&twice[..1], &["a"])[0].contains("once"));
    }
}
