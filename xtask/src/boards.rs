//! The boards that firmware runs on.

/// One emulated board and the firmware crate of its family.
pub struct Board {
    /// Name in tables and JSON.
    pub name: &'static str,
    /// Folder of the crate, with the binaries `generate` and `self-test`.
    pub folder: &'static str,
    /// Compiler target.
    pub target: &'static str,
    /// Emulator, also the name of its Debian package.
    pub emulator: &'static str,
    /// Its arguments, up to the ELF file.
    pub arguments: &'static [&'static str],
    /// Most bytes of flash that the firmware may take without the blob.
    pub flash_limit: u64,
    /// Most bytes of RAM that it may take without the session.
    pub ram_limit: u64,
}

/// All of them.
pub const BOARDS: &[Board] = &[Board {
    name: "cortex-m4f",
    folder: "firmware-example/cortex-m4f",
    target: "thumbv7em-none-eabihf",
    emulator: "qemu-system-arm",
    arguments: &[
        "-machine",
        "mps2-an386",
        "-cpu",
        "cortex-m4",
        "-icount",
        "shift=6",
        "-semihosting-config",
        "enable=on,target=native",
        "-nographic",
        "-monitor",
        "none",
        "-serial",
        "null",
        "-kernel",
    ],
    flash_limit: 102_000,
    ram_limit: 8_000,
}];
