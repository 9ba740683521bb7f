//! `bitttt sign`

use crate::engine::blob::Blob;
use crate::engine::keys;
use crate::output::Output;
use anyhow::{Context as _, Result, bail, ensure};
use bitttt_core::snapshot;
use bitttt_sign::{HEAD_BYTES, KEY_ID_BYTES, Kind, key_id};
use serde::Serialize;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Sign a model or a state, so that a device can tell that it is yours
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  bitttt sign model.bttt --key release.key\n  cat model.bttt model.bttt.sig > image\n\nThe signature may lie in its own file, or behind the model, as the second line puts it."
)]
pub struct Args {
    /// A .bttt blob or a saved state
    pub file: PathBuf,
    /// The secret key, as `bitttt keygen` or `openssl genpkey -algorithm ed25519` writes it
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The signature [default: the file's name with .sig behind it]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    kind: &'static str,
    key_id: String,
    signature: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A file that is damaged or neither blob nor state, a key that is none, a signature that cannot be written.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let key = keys::read_secret(&args.key)?;
    let signature_path = args.out.clone().unwrap_or_else(|| beside(&args.file));
    for input in [&args.file, &args.key] {
        ensure!(
            !is_same(input, &signature_path),
            "--out {} would replace what is read; choose another name for the signature",
            signature_path.display()
        );
    }
    let kind = kind(&args.file)?;
    let signature = match kind {
        Kind::Blob => bitttt_sign::sign(kind, &key, Blob::open(&args.file)?.bytes()),
        Kind::Snapshot => {
            let bytes = std::fs::read(&args.file).with_context(|| cannot_read(&args.file))?;
            snapshot::Info::parse(&bytes)
                .with_context(|| format!("state {}", args.file.display()))?;
            bitttt_sign::sign(kind, &key, &bytes)
        }
    };
    let report = Report {
        file: args.file.clone(),
        kind: kind.name(),
        key_id: shown(key_id(&key.public())),
        signature: signature_path,
    };
    bitttt_export::save_atomically(&report.signature, &signature)?;
    out.say(format!(
        "{} {} signed with key {}: {}",
        report.kind,
        report.file.display(),
        report.key_id,
        report.signature.display()
    ));
    out.result(&report)
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// Where a file's signature is unless somebody says otherwise.
pub fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// A key's id as it is shown.
pub fn shown(id: [u8; KEY_ID_BYTES]) -> String {
    format!("{:016x}", u64::from_be_bytes(id))
}

/// What a file is, by its first bytes.
///
/// # Errors
/// A file that cannot be read, or is neither.
pub fn kind(path: &Path) -> Result<Kind> {
    let file = File::open(path).with_context(|| cannot_read(path))?;
    let mut head = Vec::new();
    let mut start = file.take(HEAD_BYTES as u64);
    start
        .read_to_end(&mut head)
        .with_context(|| cannot_read(path))?;
    let Some(kind) = Kind::of(&head) else {
        bail!(
            "{} is neither a .bttt blob nor a saved state; give one of them",
            path.display()
        );
    };
    Ok(kind)
}

/// What could not be done.
pub fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}
