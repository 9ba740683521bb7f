//! `bitttt verify`

use super::sign::{beside, cannot_read, kind, shown};
use crate::engine::keys;
use crate::output::Output;
use anyhow::{Context as _, Result, ensure};
use bitttt_sign::{Content, HEAD_BYTES, Kind, PublicKey, SIGNATURE_BYTES, SignError, signer};
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Tell whether a model or a state is signed with one of the given keys
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  bitttt verify model.bttt --public release.key.pub\n\nExit code 1 says that it is not. Where something lies behind the model, that has to be its signature, as in the flash of a device."
)]
pub struct Args {
    /// A .bttt blob or a saved state, with or without the signature behind it
    pub file: PathBuf,
    /// A public key; several times for several, any of which may have signed
    #[arg(long, value_name = "FILE", required = true)]
    pub public: Vec<PathBuf>,
    /// The signature [default: what lies behind the model, else the file's name with .sig behind it]
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    kind: &'static str,
    bytes: u64,
    key_id: String,
    signature: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A file that is not signed with one of the keys, or that cannot be read.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let keys: Vec<PublicKey> = (args.public.iter())
        .map(|path| keys::read_public(path))
        .collect::<Result<_>>()?;
    let kind = kind(&args.file)?;
    let (content, bytes, behind) =
        read(&args.file, kind).with_context(|| format!("{}", args.file.display()))?;
    let (path, record) = match (&args.signature, behind.is_empty()) {
        (Some(path), _) => (path.clone(), read_signature(path)?),
        (None, false) => (args.file.clone(), behind),
        (None, true) => (beside(&args.file), read_signature(&beside(&args.file))?),
    };
    let of = || {
        format!(
            "{} with the signature in {}",
            args.file.display(),
            path.display()
        )
    };
    content.verify(&keys, &record).with_context(of)?;
    let report = Report {
        file: args.file.clone(),
        kind: kind.name(),
        bytes,
        key_id: signer(&record).map(shown).unwrap_or_default(),
        signature: path,
    };
    out.say(format!(
        "{} {}: {} bytes, signed with key {}",
        report.kind,
        report.file.display(),
        report.bytes,
        report.key_id
    ));
    out.result(&report)
}

/// The payload, its length, and the record behind it; nothing where the file ends with the payload. Reads piece by piece:
/// the file may be larger than the memory.
fn read(path: &Path, kind: Kind) -> Result<(Content, u64, Vec<u8>)> {
    let mut file = File::open(path)?;
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head).map_err(|_| SignError::Length)?;
    let length = kind.payload_bytes(&head)?;
    let mut content = Content::new(kind);
    let mut piece = vec![0; 1 << 16];
    let mut rest = head.as_slice().chain(&mut file);
    let mut left = length;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = rest.read(&mut piece[..most])?;
        ensure!(read > 0, SignError::Length);
        content.update(&piece[..read]);
        left -= read as u64;
    }
    let mut behind = Vec::new();
    rest.take(SIGNATURE_BYTES as u64).read_to_end(&mut behind)?;
    Ok((content, length, behind))
}

fn read_signature(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| {
        format!(
            "{} (the signature; `bitttt sign` writes one, --signature names another)",
            cannot_read(path)
        )
    })?;
    let mut record = Vec::new();
    let mut start = file.take(SIGNATURE_BYTES as u64 + 1);
    start
        .read_to_end(&mut record)
        .with_context(|| cannot_read(path))?;
    Ok(record)
}
