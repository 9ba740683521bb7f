//! `bitttt check-device`: whether a device computes what the CPU computes.

use anyhow::{Result, ensure};

use crate::device;
use crate::engine::device_check::{Outcome, check};
use crate::output::Output;

/// Compare every operation on a device with the CPU: values and gradients
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Example:\n  bitttt check-device --device cuda\n\n\
Distances are Euclidean and relative to the CPU's results; every operation is listed with the limits that it is held to.")]
pub struct Args {
    /// Device to check
    #[arg(long, value_name = "cpu|cuda[:N]", default_value = "cuda")]
    pub device: String,
}

/// Runs the command.
///
/// # Errors
/// No such device, or an operation that differs.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let device = device::open(&args.device)?;
    let outcomes = check(&device, &mut |outcome| out.say(line(outcome)))?;
    out.result(&outcomes)?;
    let failed = outcomes.iter().filter(|outcome| !outcome.passed);
    let names: Vec<_> = failed.map(|outcome| outcome.name.as_str()).collect();
    ensure!(
        names.is_empty(),
        "{} of {} differ from the CPU: {}; train with --device cpu and report this GPU",
        names.len(),
        outcomes.len(),
        names.join(", ")
    );
    Ok(())
}

fn line(o: &Outcome) -> String {
    let worst = o.gradients.iter().copied().fold(0.0, f64::max);
    format!(
        "{} {:32} values {:.1e} (at most {:.0e}), gradients {worst:.1e} (at most {:.0e})",
        if o.passed { "ok    " } else { "DIFFERS" },
        o.name,
        o.values,
        o.values_limit,
        o.gradients_limit
    )
}
