//! `bitttt plan`

use crate::engine::blob::Blob;
use crate::output::Output;
use anyhow::{Result, bail};
use bitttt_core::format::LayerConfig;
use bitttt_core::{Batch, MemoryPlan, Model};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Flash of the engine on a Cortex-M4F, as `cargo xtask firmware` measures it, rounded up.
pub const ENGINE_FLASH: usize = 44 * 1024;
/// Stack that a session's calls take on a Cortex-M4F at most, as painted, rounded up.
pub const STACK: usize = 4 * 1024;

/// Tell what a model needs on a device, part by part, and whether it fits
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  bitttt plan --model demo/demo.bttt --flash 512K --ram 128K\n\nExit code 1 says that it does not fit."
)]
pub struct Args {
    /// The model, a .bttt blob
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Flash of the device in bytes; K and M are understood
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub flash: Option<usize>,
    /// RAM of the device in bytes; K and M are understood
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub ram: Option<usize>,
    /// Tokens that prefill takes at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: usize,
    /// Room for N tokens in attention without a window, instead of the model's own figure
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
}

/// A plan in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How many layers have each kind of mixer.
    pub mixers: BTreeMap<&'static str, usize>,
    /// Tokens that attention without a window has room for; absent where there is none.
    pub context: Option<usize>,
    /// The blob.
    pub blob: usize,
    /// Code of the engine, about.
    pub engine: usize,
    /// Blob and engine.
    pub flash: usize,
    /// Fast weights, keys and values: all that survives a token.
    pub state: usize,
    /// Rotary tables.
    pub rope: usize,
    /// Residual stream.
    pub residual: usize,
    /// Intermediates of mixer or network.
    pub hidden: usize,
    /// Quantised activations.
    pub quantised: usize,
    /// Look-up tables of `t5` products on a microcontroller.
    pub tables: usize,
    /// Heads' temporaries.
    pub head: usize,
    /// Logits.
    pub logits: usize,
    /// What a session takes: the sum of the above.
    pub session: usize,
    /// Stack, about.
    pub stack: usize,
    /// Session and stack.
    pub ram: usize,
    /// A saved state.
    pub snapshot: usize,
    /// Whether it fits into what was given.
    pub fits: bool,
}

/// The plan of a model.
pub fn plan(
    model: &Model<'_>,
    blob: usize,
    batch: Batch,
    flash: Option<usize>,
    ram: Option<usize>,
) -> Report {
    let plan: MemoryPlan = model.memory(batch);
    let (needs_flash, needs_ram) = (blob + ENGINE_FLASH, plan.bytes().saturating_add(STACK));
    let layers: Vec<LayerConfig> = (0..model.config().n_layers)
        .filter_map(|l| model.layer_config(l).ok())
        .collect();
    let mut mixers = BTreeMap::new();
    for layer in &layers {
        *mixers.entry(layer.mixer.name()).or_default() += 1;
    }
    let limited = layers.iter().any(LayerConfig::needs_context);
    Report {
        mixers,
        context: limited.then(|| batch.context(model.config())),
        blob,
        engine: ENGINE_FLASH,
        flash: needs_flash,
        state: plan.state * 4,
        rope: (plan.rope + plan.angles) * 4,
        residual: plan.residual * 4,
        hidden: plan.hidden * 4,
        quantised: plan.quantised * 4,
        tables: plan.tables * 4,
        head: plan.head * 4,
        logits: plan.logits * 4,
        session: plan.bytes(),
        stack: STACK,
        ram: needs_ram,
        snapshot: plan.snapshot_bytes(),
        fits: flash.is_none_or(|have| have >= needs_flash)
            && ram.is_none_or(|have| have >= needs_ram),
    }
}

impl Report {
    /// The plan as a table.
    pub fn table(&self) -> String {
        let mixers = self.mixers.iter();
        let mixers: Vec<_> = mixers.map(|(name, n)| format!("{n} {name}")).collect();
        let context = self
            .context
            .map_or(String::new(), |n| format!(", room for {n} tokens"));
        let first = format!("{:<26}{}{context}\n", "layers", mixers.join(", "));
        let parts = [
            ("flash", self.flash),
            ("  model blob", self.blob),
            ("  engine code, at most", self.engine),
            ("RAM", self.ram),
            ("  state", self.state),
            ("  rotary tables", self.rope),
            ("  residual stream", self.residual),
            ("  intermediates", self.hidden),
            ("  quantised activations", self.quantised),
            ("  look-up tables", self.tables),
            ("  head temporaries", self.head),
            ("  logits", self.logits),
            ("  stack, at most", self.stack),
            ("a saved state", self.snapshot),
        ];
        let lines = parts.map(|(name, bytes)| format!("{name:<26}{bytes:>10} bytes"));
        first + &lines.join("\n")
    }
}

/// Runs the command.
///
/// # Errors
/// An unreadable model, or one that does not fit.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let blob = Blob::open(&args.model)?;
    let report = plan(
        &blob.model(),
        blob.bytes().len(),
        match args.context {
            Some(tokens) => Batch::new(args.batch).with_context(tokens),
            None => Batch::new(args.batch),
        },
        args.flash,
        args.ram,
    );
    out.say(report.table());
    out.result(&report)?;
    if let Some(have) = args.flash.filter(|&have| have < report.flash) {
        bail!(
            "it needs {} bytes of flash, the device has {have}; export with --weights t5 or train a smaller model",
            report.flash
        );
    }
    if let Some(have) = args.ram.filter(|&have| have < report.ram) {
        bail!(
            "it needs {} bytes of RAM, the device has {have}; train a narrower model or more, smaller heads, or give attention a window",
            report.ram
        );
    }
    if args.flash.is_some() || args.ram.is_some() {
        out.say("it fits");
    }
    Ok(())
}

fn parse_size(text: &str) -> Result<usize, String> {
    let (number, unit) = match text
        .to_ascii_uppercase()
        .strip_suffix('B')
        .unwrap_or(&text.to_ascii_uppercase())
    {
        t if t.ends_with('K') => (t[..t.len() - 1].to_owned(), 1 << 10),
        t if t.ends_with('M') => (t[..t.len() - 1].to_owned(), 1 << 20),
        t => (t.to_owned(), 1),
    };
    let number: usize = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size; write 131072, 128K or 1M"))?;
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units() {
        assert_eq!(parse_size("128K"), Ok(131_072));
        assert_eq!(parse_size("1mb"), Ok(1 << 20));
        assert_eq!(parse_size("77"), Ok(77));
        assert!(parse_size("much").is_err() && parse_size("K").is_err());
    }
}
