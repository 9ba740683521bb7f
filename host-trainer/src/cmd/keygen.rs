//! `bitttt keygen`

use crate::engine::keys;
use crate::output::Output;
use anyhow::Result;
use bitttt_sign::key_id;
use serde::Serialize;
use std::path::PathBuf;

/// Make a key that signs models and states
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  bitttt keygen --out release.key\n\nWrites release.key, which signs and which nobody else may have, and release.key.pub, which goes into the firmware."
)]
pub struct Args {
    /// The secret key; the public one gets the same name with .pub behind it
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    secret: PathBuf,
    public: PathBuf,
    key_id: String,
}

/// Runs the command.
///
/// # Errors
/// A file that exists or cannot be written.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let key = keys::generate(&args.out)?;
    let report = Report {
        secret: args.out.clone(),
        public: keys::public_beside(&args.out),
        key_id: super::sign::shown(key_id(&key)),
    };
    out.say(format!(
        "key {}: {} signs, keep it to yourself; {} verifies, give it to the firmware",
        report.key_id,
        report.secret.display(),
        report.public.display()
    ));
    out.result(&report)
}
