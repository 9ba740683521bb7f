//! A signed model on a board: it runs, and with any bit of it changed it does not.

use super::{EMULATION_LIMIT, binary, cargo_for, emulate};
use crate::boards::{self, Board};
use crate::command::{command, output_within, root, run as run_command};
use crate::elf::Image;
use crate::host::{self, Job};
use crate::report::Report;
use crate::setup::toolchain;
use anyhow::{Context, Result, bail, ensure};
use bitttt_sign::{Kind, SIGNATURE_BYTES, SecretKey, field, sign};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The key of the first test vector of RFC 8032: it is everybody's.
const SEED: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
    0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
";

/// What it says where it refuses; firmware-example/common/src/model.rs has the same.
const REFUSED: &str = "failed: the blob is not signed with our key, or was changed";

/// The one place where verification could panic, as the compiler sees it: curve25519-dalek looks up a digit of a
/// non-adjacent form in a table that is as long as the digits are many.
const UNREACHED: [&str; 3] = ["panic_bounds_check", "panic_fmt", "rust_begin_unwind"];

/// Most bytes of flash that verification may take, signature included, on each family's board.
const FLASH_LIMITS: [u64; 2] = [20_400, 40_800];
/// Places in the blob where a bit is changed.
const PLACES: usize = 24;

/// Runs the firmware of a board of each family with a signed model, measures what that costs, and then with one bit changed,
/// here and there in blob and signature.
pub fn run(blob: &Path) -> Result<()> {
    let job = Job {
        blob,
        prompt: super::PROMPT,
        tokens: super::TOKENS.into(),
    };
    let (files, expected) = (Files::write(blob)?, host::outcome(&job)?);
    for (board, limit) in boards::families().into_iter().zip(FLASH_LIMITS) {
        let (plain, plain_stack) = plain(board, &job)?;
        let elf = build(board, &job, &files)?;
        let image = Image::read(&elf)?;
        let (output, success) = emulated(board, &elf)?;
        let report = Report::parse(&output)?;
        let hashes = (report.hash("tokens_hash")?, report.hash("state_hash")?);
        ensure!(
            success && hashes == (expected.tokens_hash, expected.state_hash),
            "the signed firmware of {} differs from this machine",
            board.name
        );
        check_panics(&image)?;
        let flash = image.flash_bytes.saturating_sub(plain.flash_bytes);
        ensure!(
            flash <= limit,
            "verification takes {flash} bytes of flash on {}, above {limit}",
            board.name
        );
        let tried = tampered(board, &std::fs::read(&elf)?, &files.signed)?;
        eprintln!(
            "signed model on {}: ok; {flash} bytes of flash more, {} instructions to verify {} bytes and open them, \
             stack {} instead of {plain_stack}; {tried} with one bit changed refused",
            board.name,
            report.count("open_instructions")?,
            files.signed.len() - SIGNATURE_BYTES,
            report.count("stack_bytes")?,
        );
    }
    Ok(())
}

/// The firmware that asks for no signature, and its stack.
fn plain(board: &Board, job: &Job<'_>) -> Result<(Image, u64)> {
    let toolchain = toolchain(board.target)?;
    let output = emulate(board, toolchain, job, "generate")?;
    let stack = Report::parse(&output)?.count("stack_bytes")?;
    Ok((Image::read(&binary(board, "generate"))?, stack))
}

/// The firmware that asks for one.
fn build(board: &Board, job: &Job<'_>, files: &Files) -> Result<PathBuf> {
    let arguments = ["build", "--bin", "generate"];
    let mut build = cargo_for(board, toolchain(board.target)?, job, &arguments);
    run_command(files.name_in(&mut build))?;
    Ok(binary(board, "generate"))
}

fn check_panics(image: &Image) -> Result<()> {
    let mut others = image.panics.iter();
    let unreached = |name: &str| UNREACHED.iter().any(|known| name.contains(known));
    match others.find(|name| !unreached(name)) {
        Some(other) => bail!("the signed firmware could panic: {other}"),
        None => Ok(()),
    }
}

/// What the build asks for.
struct Files {
    signature: PathBuf,
    key: PathBuf,
    /// The blob and its signature, as they lie in the flash.
    signed: Vec<u8>,
}

impl Files {
    fn write(blob: &Path) -> Result<Self> {
        let folder = root().join("target/xtask");
        std::fs::create_dir_all(&folder)?;
        let mut signed = std::fs::read(blob)?;
        let signature = sign(Kind::Blob, &SecretKey::from_seed(SEED), &signed);
        signed.extend(signature);
        let files = Self {
            signature: folder.join("signed.sig"),
            key: folder.join("signed.pub"),
            signed,
        };
        bitttt_export::save_atomically(&files.signature, &signature)?;
        bitttt_export::save_atomically(&files.key, PUBLIC_KEY.as_bytes())?;
        Ok(files)
    }

    /// Makes a build one of a signed model.
    fn name_in<'c>(&self, build: &'c mut Command) -> &'c mut Command {
        build
            .args(["--features", "signed", "--config", "../small-hash.toml"])
            .env("BITTTT_SIGNATURE", &self.signature)
            .env("BITTTT_PUBLIC_KEY", &self.key)
    }
}

/// Changes one bit of the flash at a time, in the linked firmware; the number of those that were refused, which are all.
fn tampered(board: &Board, elf: &[u8], signed: &[u8]) -> Result<usize> {
    let mut places = elf.windows(signed.len());
    let start = places.position(|window| window == signed);
    let start = start.context("the firmware does not contain its model")?;
    let path = root().join("target/xtask/tampered.elf");
    let bits = bits(signed.len() - SIGNATURE_BYTES);
    for &bit in &bits {
        let mut elf = elf.to_vec();
        elf[start + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &elf).with_context(|| format!("cannot write {}", path.display()))?;
        let (output, success) = emulated(board, &path)?;
        let last = output.lines().last().unwrap_or_default();
        ensure!(
            !success && last == REFUSED,
            "bit {} of byte {} of {} was changed and not refused on {}: {last}",
            bit % 8,
            bit / 8,
            signed.len(),
            board.name
        );
    }
    Ok(bits.len())
}

/// Bits to change: spread over the blob, and in each field of the signature.
fn bits(blob: usize) -> Vec<usize> {
    let spread = (0..PLACES).map(|i| i * (8 * blob - 1) / (PLACES - 1));
    let header = [4, 8, 20].map(|byte| 8 * byte); // version, length, checksum
    let fields = [
        field::MAGIC,
        field::VERSION,
        field::KIND,
        field::KEY_ID,
        field::SIGNATURE,
        field::SIGNATURE + 32,
        SIGNATURE_BYTES - 1,
    ];
    let record = fields.map(|byte| 8 * (blob + byte) + 1);
    spread.chain(header).chain(record).collect()
}

/// Runs a linked firmware.
fn emulated(board: &Board, elf: &Path) -> Result<(String, bool)> {
    let runner = board.runner()?;
    let (emulator, flags) = runner.split_first().context("a runner is a program")?;
    output_within(command(emulator).args(flags).arg(elf), EMULATION_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_changed_in_all_of_the_blob_and_of_the_signature() {
        let bits = bits(1000);
        assert!(bits.contains(&0) && bits.contains(&7999));
        assert!(bits.iter().all(|&bit| bit < 8 * (1000 + SIGNATURE_BYTES)));
        assert!(bits.contains(&(8 * (1000 + 79) + 1)));
    }

    #[test]
    fn the_public_key_is_that_of_the_secret_one() {
        let key = bitttt_sign::public_key(PUBLIC_KEY).unwrap();
        assert_eq!(SecretKey::from_seed(SEED).public(), key);
    }
}
