//! Keys that sign, as files: PEM, as OpenSSL and most other programs read and write it.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bitttt_sign::{PublicKey, SecretKey};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use ed25519_dalek::pkcs8::{KeypairBytes, PublicKeyBytes};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Makes a key from the operating system's randomness and writes both halves, over nothing: the secret one to `path`, which
/// only its owner may read, the public one beside it.
///
/// # Errors
/// Files that exist or cannot be written; then neither is left.
pub fn generate(path: &Path) -> Result<PublicKey> {
    let public_path = public_beside(path);
    for path in [path, &public_path] {
        let taken = std::fs::symlink_metadata(path).is_ok();
        ensure!(
            !taken,
            "{} exists and is kept; choose another name for the key",
            path.display()
        );
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow!("the system gives no random bytes: {e}"))?;
    let public = SecretKey::from_seed(seed).public();
    let pair = KeypairBytes {
        secret_key: seed,
        public_key: None, // with it OpenSSL does not read the file
    };
    let secret_text = pair
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|e| anyhow!("cannot write a key: {e}"))?;
    let public_text = PublicKeyBytes(public).to_public_key_pem(LineEnding::LF);
    let public_text = public_text.map_err(|e| anyhow!("cannot write a key: {e}"))?;
    save_new(path, secret_text.as_bytes(), 0o600)?;
    if let Err(error) = save_new(&public_path, public_text.as_bytes(), 0o644) {
        let _ = std::fs::remove_file(path); // nobody has seen it
        return Err(error);
    }
    Ok(public)
}

/// Where the public half of the secret key at `path` is.
pub fn public_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Reads a secret key.
///
/// # Errors
/// A file that cannot be read or holds none; the text is not repeated.
pub fn read_secret(path: &Path) -> Result<SecretKey> {
    let text = read(path)?;
    match SigningKey::from_pkcs8_pem(text.trim()) {
        Ok(key) => Ok(SecretKey::from_seed(key.to_bytes())),
        Err(_) if text.contains("PUBLIC KEY") => {
            bail!(
                "{} is a public key; give the secret one to sign",
                path.display()
            )
        }
        Err(_) if text.contains("ENCRYPTED") => bail!(
            "{} is encrypted; decrypt it first: openssl pkey -in {0} -out plain",
            path.display()
        ),
        Err(_) => bail!(
            "{} is not a secret key of Ed25519 in PEM; give a file that `bitttt keygen` wrote",
            path.display()
        ),
    }
}

/// Reads a public key.
///
/// # Errors
/// A file that cannot be read or holds none.
pub fn read_public(path: &Path) -> Result<PublicKey> {
    let text = read(path)?;
    ensure!(
        !text.contains("PRIVATE KEY"),
        "{} is a secret key; give the public one, and keep this to yourself",
        path.display()
    );
    bitttt_sign::public_key(&text).with_context(|| format!("key {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    let bytes =
        std::fs::read(path).with_context(|| format!("cannot read key {}", path.display()))?;
    String::from_utf8(bytes)
        .map_err(|_| anyhow!("{} is not text: keys are PEM files", path.display()))
}

/// Writes a file, whole or not at all, and never over another.
fn save_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = builder
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .with_context(cannot)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .with_context(cannot)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "{} exists and is kept; choose another name for the key",
                path.display()
            )
        }
        Err(e) => Err(e.error).with_context(cannot),
    }
}
