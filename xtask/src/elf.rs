//! What a linked firmware says about itself: flash that it takes, and whether anything in it could panic.

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind};
use std::path::Path;

/// Parts of symbol names that are linked only where code may panic.
const PANICS: &[&str] = &[
    "panicking",
    "panic_fmt",
    "unwrap_failed",
    "expect_failed",
    "slice_index_fail",
    "len_mismatch_fail",
    "rust_begin_unwind",
];

/// Beginnings of names of what a firmware has whatever it runs: vectors, start-up, clock, console, report. What is inlined
/// counts where it is used, so the functions that drive the engine are not among them.
const CHIP: &[&str] = &[
    "Default",
    "HardFault",
    "Reset",
    "SysTick",
    "__CORE_INTERRUPTS",
    "__EXCEPTIONS",
    "__INTERRUPTS",
    "__RESET_VECTOR",
    "_start",
    "<bitttt_cortex_m",
    "<bitttt_riscv32",
    "bitttt_cortex_m",
    "bitttt_firmware::chip",
    "bitttt_firmware::finish",
    "bitttt_riscv32",
    "cortex_m",
    "main",
    "riscv",
];

/// A linked firmware.
pub struct Image {
    /// Bytes that go into flash, initial values of statics included.
    pub flash_bytes: u64,
    /// Of them what is the chip's: see [`CHIP`].
    pub chip_bytes: u64,
    /// Symbols of the panic machinery.
    pub panics: Vec<String>,
    /// Names and bytes of functions and statics.
    pub symbols: Vec<(String, u64)>,
}

impl Image {
    /// Reads an ELF file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {file}"))?;
        Self::parse(&bytes).with_context(|| format!("{file} is not a firmware"))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let elf = object::File::parse(bytes)?;
        let names: Vec<&str> = elf
            .symbols()
            .filter_map(|symbol| symbol.name().ok())
            .collect();
        ensure!(
            names.len() > 5,
            "it is stripped: no symbols to look through"
        );
        let symbols: Vec<_> = elf
            .symbols()
            .filter(|symbol| symbol.size() > 0)
            .filter_map(|symbol| sized(&elf, symbol))
            .collect();
        let chip = symbols
            .iter()
            .filter(|(name, _)| CHIP.iter().any(|chip| name.starts_with(chip)));
        Ok(Self {
            flash_bytes: elf.segments().map(|segment| segment.file_range().1).sum(),
            chip_bytes: chip.map(|(_, bytes)| bytes).sum(),
            panics: panics(&names),
            symbols,
        })
    }
}

fn sized(elf: &object::File<'_>, symbol: object::Symbol<'_, '_>) -> Option<(String, u64)> {
    let section = elf.section_by_index(symbol.section_index()?).ok()?;
    let in_flash = section.kind() != SectionKind::UninitializedData;
    let name = symbol.name().ok().filter(|_| in_flash)?;
    Some((
        format!("{:#}", rustc_demangle::demangle(name)),
        symbol.size(),
    ))
}

fn panics(names: &[&str]) -> Vec<String> {
    let found = names
        .iter()
        .filter(|name| PANICS.iter().any(|panic| name.contains(panic)));
    found.map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_machinery_is_found_in_either_mangling() {
        let names = [
            "_ZN4core9panicking9panic_fmt17h9E",
            "_RNvNtCs_4core9panicking5panic",
            "_ZN4core6option13unwrap_failed17hE",
            "_ZN11bitttt_core7session7Session4pass17hE",
        ];
        assert_eq!(panics(&names), names[..3]);
    }

    #[test]
    fn a_std_binary_is_seen_to_panic() {
        let image = Image::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(!image.panics.is_empty() && image.flash_bytes > 10_000);
    }

    #[test]
    fn what_is_not_an_elf_is_refused() {
        assert!(Image::parse(b"BTTT").is_err());
    }
}
