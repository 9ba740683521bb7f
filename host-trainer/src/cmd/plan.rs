//! `bitttt plan`

use crate::engine::blob::Blob;
use crate::output::Output;
use anyhow::{Result, bail};
use bitttt_core::format::LayerConfig;
use bitttt_core::{Batch, MemoryPlan, Model};
use bitttt_export::device::{self, Device, Measured};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The board that is planned for unless another one is named.
pub const BOARD: &str = "cortex-m4f";

/// Tell what a model needs on a device, part by part, and whether it fits
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  bitttt plan --model demo/demo.bttt --board cortex-m33 --flash 512K --ram 128K\n\nExit code 1 says that it does not fit."
)]
pub struct Args {
    /// The model, a .bttt blob
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Board whose firmware the engine's flash and the stack are of, as `cargo xtask firmware` measures them
    #[arg(long, value_name = "NAME", default_value = BOARD)]
    pub board: String,
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
    /// Board of `engine`, `statics` and `stack`.
    pub board: String,
    /// The blob, in whole lines of 64 bytes.
    pub blob: usize,
    /// The firmware without it: engine, start-up, console, report.
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
    /// Statics besides the session.
    pub statics: usize,
    /// Deepest stack that was measured with a model of such mixers and weights.
    pub stack: usize,
    /// Session, statics and stack.
    pub ram: usize,
    /// A saved state.
    pub snapshot: usize,
    /// Whether it fits into what was given.
    pub fits: bool,
}

/// A board's firmware.
///
/// # Errors
/// A board that was never measured.
pub fn device(board: &str) -> Result<Device> {
    let mut measured = Measured::checked_in()?;
    match measured.boards.remove(board) {
        Some(device) => Ok(device),
        None => {
            let known: Vec<_> = measured.boards.into_keys().collect();
            bail!(
                "--board {board} is none that was measured: {}",
                known.join(", ")
            )
        }
    }
}

/// The plan of a model.
pub fn plan(
    model: &Model<'_>,
    blob: usize,
    batch: Batch,
    (board, device): (&str, Device),
    flash: Option<usize>,
    ram: Option<usize>,
) -> Report {
    let plan: MemoryPlan = model.memory(batch);
    let plain = device::is_plain(model);
    let needs_flash = device.flash(blob as u64) as usize;
    let needs_ram = device.ram(&plan, plain) as usize;
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
        board: board.to_owned(),
        blob: Device::blob(blob as u64) as usize,
        engine: device.flash as usize,
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
        statics: device.statics as usize,
        stack: device.stack(plain) as usize,
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
        let first = format!(
            "{:<26}{}{context}\n{:<26}{}\n",
            "layers",
            mixers.join(", "),
            "board",
            self.board
        );
        let parts = [
            ("flash", self.flash),
            ("  model blob", self.blob),
            ("  firmware besides", self.engine),
            ("RAM", self.ram),
            ("  state", self.state),
            ("  rotary tables", self.rope),
            ("  residual stream", self.residual),
            ("  intermediates", self.hidden),
            ("  quantised activations", self.quantised),
            ("  look-up tables", self.tables),
            ("  head temporaries", self.head),
            ("  logits", self.logits),
            ("  other statics", self.statics),
            ("  stack", self.stack),
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
        (&args.board, device(&args.board)?),
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
    use bitttt_core::format::DType;

    #[test]
    fn a_plan_adds_up_and_is_of_the_board() {
        let config = bitttt_export::random::small_config();
        let layers = [bitttt_export::random::FULL_LAYER];
        let blob = bitttt_export::random::blueprint(&config, &layers, DType::T5, 1);
        let blob = blob.to_bytes().unwrap();
        let blob = bitttt_export::AlignedCopy::of(&blob);
        let model = Model::from_bytes(blob.bytes()).unwrap();
        let board = device(BOARD).unwrap();
        let plan = plan(
            &model,
            blob.bytes().len(),
            Batch::ONE,
            (BOARD, board),
            None,
            None,
        );
        assert_eq!(plan.flash, plan.blob + plan.engine);
        assert_eq!(plan.ram, plan.session + plan.statics + plan.stack);
        assert_eq!(plan.stack as u64, board.stack);
        assert!(plan.blob.is_multiple_of(64) && plan.blob >= blob.bytes().len());
        assert!(device("cortex-m9").unwrap_err().to_string().contains(BOARD));
    }

    #[test]
    fn sizes_take_units() {
        assert_eq!(parse_size("128K"), Ok(131_072));
        assert_eq!(parse_size("1mb"), Ok(1 << 20));
        assert_eq!(parse_size("77"), Ok(77));
        assert!(parse_size("much").is_err() && parse_size("K").is_err());
    }
}
