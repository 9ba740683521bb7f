//! What a firmware takes of a board besides its model: figures that `cargo xtask firmware --record` measured and wrote to
//! `firmware-example/measured.json`. `bitttt plan` and the comparison with a board's own measurement read them here.
//!
//! Invariant: a firmware's code is the same whatever the model, so its flash is a constant and the blob's.

use bitttt_core::MemoryPlan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file's content.
const MEASURED: &str = include_str!("../../firmware-example/measured.json");

/// Bytes on which a firmware lays its blob.
const LINE: u64 = 64;

/// All boards, as one compiler built for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// `rustc --version`: another one makes other code.
    pub compiler: String,
    /// By the name of the board.
    pub boards: BTreeMap<String, Device>,
}

/// One board's firmware, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Flash without the blob: engine, start-up, console, report.
    pub flash: u64,
    /// Statics besides the session.
    pub statics: u64,
    /// Deepest stack with a model of `ttt-linear` layers, as the demo is.
    pub stack: u64,
    /// The same with other mixers or `t2` weights.
    pub stack_of_others: u64,
}

impl Measured {
    /// What is checked in.
    ///
    /// # Errors
    /// A file that is not of this form.
    pub fn checked_in() -> Result<Self, serde_json::Error> {
        serde_json::from_str(MEASURED)
    }
}

impl Device {
    /// What a blob of `bytes` takes: whole lines.
    pub fn blob(bytes: u64) -> u64 {
        bytes.next_multiple_of(LINE)
    }

    /// Flash of the firmware with a blob of `blob` bytes in it.
    pub fn flash(&self, blob: u64) -> u64 {
        self.flash + Self::blob(blob)
    }

    /// Deepest stack.
    pub fn stack(&self, plain: bool) -> u64 {
        if plain {
            self.stack
        } else {
            self.stack_of_others
        }
    }

    /// RAM with a session of this plan; `plain` where all layers are `ttt-linear` and no weights `t2`.
    pub fn ram(&self, plan: &MemoryPlan, plain: bool) -> u64 {
        plan.bytes() as u64 + self.statics + self.stack(plain)
    }
}

/// Whether a model is of the kind that [`Device::stack`] is of.
pub fn is_plain(model: &bitttt_core::Model<'_>) -> bool {
    use bitttt_core::format::{DType, Mixer};
    let mut layers = (0..model.config().n_layers).filter_map(|l| model.layer_config(l).ok());
    layers.all(|layer| layer.mixer == Mixer::TttLinear)
        && model.tensors().all(|tensor| tensor.dtype != DType::T2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_checked_in_has_the_board_that_is_promised() {
        let measured = Measured::checked_in().unwrap();
        let board = measured.boards["cortex-m4f"];
        assert!(measured.compiler.starts_with("rustc "));
        assert!(board.flash > 10_000 && board.stack <= board.stack_of_others);
    }

    #[test]
    fn a_blob_takes_whole_lines() {
        let board = Device {
            flash: 1000,
            ..Device::default()
        };
        assert_eq!(
            [1, 64, 65].map(|blob| board.flash(blob)),
            [1064, 1064, 1128]
        );
    }
}
