//! Which files a run is trained on.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// A text, or a token file of `bitttt prepare`, and its weight among the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// The file; relative to the directory in which the command runs.
    pub path: PathBuf,
    /// Share of the rows in proportion to the other files' weights; none for as much as the file has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub weight: Option<f64>,
}

/// `FILE` or `FILE=WEIGHT`; a file that has such a name is meant itself.
impl FromStr for DataFile {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let pair = text.rsplit_once('=').filter(|_| !Path::new(text).exists());
        let weighted = pair.and_then(|(path, weight)| Some((path, weight.parse().ok()?)));
        let (path, weight) = match weighted {
            Some((path, weight)) => (path, Some(weight)),
            None => (text, None),
        };
        Ok(Self {
            path: path.into(),
            weight,
        })
    }
}

/// Checks that all files have a weight, or none, and that weights are positive.
pub(super) fn validate(files: &[DataFile]) -> anyhow::Result<()> {
    for DataFile { path, weight } in files {
        let Some(weight) = weight else { continue };
        ensure!(
            weight.is_finite() && *weight > 0.0,
            "data: {} has weight {weight}; give it a positive number, or leave the file out",
            path.display()
        );
    }
    let without = files.iter().find(|f| f.weight.is_none());
    if let (Some(without), true) = (without, files.iter().any(|f| f.weight.is_some())) {
        anyhow::bail!(
            "data: {} has no weight, but others have; give every file a weight, or none",
            without.path.display()
        );
    }
    Ok(())
}
