//! The boards that firmware runs on, all of them emulated.

use crate::command::root;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// A program that plays boards.
pub struct Emulator {
    /// Its name.
    pub program: &'static str,
    /// Debian's package with it.
    pub package: &'static str,
}

const ARM: Emulator = Emulator {
    program: "qemu-system-arm",
    package: "qemu-system-arm",
};
const RISCV: Emulator = Emulator {
    program: "qemu-system-riscv32",
    package: "qemu-system-misc",
};

/// What of the engine a firmware has; each has what those before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// ttt-linear, alphabets, the most probable token; matrices as `t5` or `i8`, vectors as `f32`.
    Minimal,
    /// Tokenizers with merges, sampling, every way to store a tensor, and the check of the whole blob.
    Linear,
    /// All mixers.
    Full,
}

impl Engine {
    /// Arguments of cargo, which choose the features of a board's crate.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Minimal => &["--no-default-features"],
            Self::Linear => &["--no-default-features", "--features", "text"],
            Self::Full => &[],
        }
    }
}

/// One board and the firmware crate of its family.
pub struct Board {
    /// Name in tables and JSON, and of its cargo configuration in the family's folder, `boards/NAME.toml`.
    pub name: &'static str,
    /// Folder of the crate, with the binaries `generate` and `self-test`.
    pub folder: &'static str,
    /// Compiler target, as in its configuration.
    pub target: &'static str,
    /// What plays it.
    pub emulator: Emulator,
    /// What a model may need.
    pub engine: Engine,
    /// Bytes of flash that it has.
    pub flash: u64,
    /// Bytes of RAM that it has.
    pub ram: u64,
    /// Most bytes of flash that the firmware may take without the blob.
    pub flash_limit: u64,
    /// Most bytes of it that may be the engine's, where that is promised.
    pub core_limit: Option<u64>,
    /// Most bytes of RAM that it may take without the session.
    pub ram_limit: u64,
}

/// The board that the family's crate builds for unless told otherwise; the others are as it is where they say no more.
const CORTEX_M: Board = Board {
    name: "cortex-m4f",
    folder: "firmware-example/cortex-m",
    target: "thumbv7em-none-eabihf",
    emulator: ARM,
    engine: Engine::Full,
    flash: 4 << 20,
    ram: 4 << 20,
    flash_limit: 40_300,
    core_limit: None,
    ram_limit: 2_048,
};
/// The same of the other family.
const RISCV32: Board = Board {
    name: "riscv32imac",
    folder: "firmware-example/riscv32",
    target: "riscv32imac-unknown-none-elf",
    emulator: RISCV,
    flash_limit: 50_300,
    ..CORTEX_M
};

/// All of them, by family. Limits are what was measured, with the models of `cargo xtask test`, rounded up a little.
pub const BOARDS: &[Board] = &[
    Board {
        name: "cortex-m0",
        target: "thumbv6m-none-eabi",
        flash: 256 << 10,
        ram: 16 << 10,
        flash_limit: 41_500,
        ram_limit: 2_300,
        ..CORTEX_M
    },
    Board {
        name: "cortex-m0plus",
        target: "thumbv6m-none-eabi",
        flash_limit: 41_500,
        ram_limit: 2_300,
        ..CORTEX_M
    },
    Board {
        name: "cortex-m3",
        target: "thumbv7m-none-eabi",
        flash_limit: 42_400,
        ram_limit: 2_100,
        ..CORTEX_M
    },
    Board {
        core_limit: Some(40 << 10),
        ..CORTEX_M
    },
    Board {
        name: "cortex-m4f-linear",
        engine: Engine::Linear,
        flash_limit: 32_000,
        ..CORTEX_M
    },
    Board {
        name: "cortex-m4f-minimal",
        engine: Engine::Minimal,
        flash_limit: 26_500,
        core_limit: Some(24 << 10),
        ..CORTEX_M
    },
    Board {
        name: "cortex-m7",
        flash_limit: 41_500,
        ..CORTEX_M
    },
    Board {
        name: "cortex-m33",
        target: "thumbv8m.main-none-eabihf",
        flash_limit: 41_900,
        ..CORTEX_M
    },
    Board {
        name: "cortex-m55",
        target: "thumbv8m.main-none-eabihf",
        flash: 512 << 10,
        ram: 512 << 10,
        flash_limit: 41_500,
        ram_limit: 2_100,
        ..CORTEX_M
    },
    RISCV32,
    Board {
        name: "riscv32imafc",
        target: "riscv32imafc-unknown-none-elf",
        flash_limit: 44_600,
        ..RISCV32
    },
];

impl Board {
    /// The board whose figures are promised.
    pub fn is_cortex_m4(&self) -> bool {
        self.name == CORTEX_M.name
    }

    /// The emulator and its arguments, which the firmware's file follows.
    pub fn runner(&self) -> Result<Vec<String>> {
        let path = root().join(self.folder).join(self.configuration());
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let lines = text.lines();
        let runner = lines
            .filter_map(|line| line.strip_prefix("runner = \""))
            .next();
        let runner = runner.and_then(|line| line.strip_suffix('"'));
        let words = runner.with_context(|| format!("{} has no runner", path.display()))?;
        Ok(words.split_whitespace().map(str::to_owned).collect())
    }

    /// Its cargo configuration: target, flags and how to start the emulator.
    pub fn configuration(&self) -> PathBuf {
        PathBuf::from("boards")
            .join(self.name)
            .with_extension("toml")
    }
}

/// One board of each family.
pub fn families() -> [&'static Board; 2] {
    [&CORTEX_M, &RISCV32]
}

/// The board with the least engine.
pub fn minimal() -> &'static Board {
    let least = BOARDS.iter().min_by_key(|board| board.engine);
    least.unwrap_or(&CORTEX_M)
}

/// Boards on which single products are counted: with and without the DSP extension, and of the other family.
pub fn with_kernels() -> impl Iterator<Item = &'static Board> {
    let names = ["cortex-m3", CORTEX_M.name, RISCV32.name];
    BOARDS
        .iter()
        .filter(move |board| names.contains(&board.name))
}

/// Compiler targets of all boards, each once.
pub fn targets() -> Vec<&'static str> {
    let mut targets: Vec<_> = BOARDS.iter().map(|board| board.target).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_has_a_configuration_for_its_target_and_emulator() {
        for board in BOARDS {
            let path = root().join(board.folder).join(board.configuration());
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.contains(&format!("\"{}", board.target)),
                "{}",
                board.name
            );
            assert_eq!(board.runner().unwrap()[0], board.emulator.program);
        }
    }
}
