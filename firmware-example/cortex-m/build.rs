//! Writes the memory map and the clock of the machine that `BITTTT_MACHINE` names; `boards/*.toml` do.

use std::path::PathBuf;
use std::{env, fs};

/// What differs from machine to machine.
struct Machine {
    /// As QEMU calls it.
    name: &'static str,
    /// Origin and length, as the linker takes them.
    flash: [&'static str; 2],
    ram: [&'static str; 2],
    /// What SysTick counts, in MHz.
    clock: u32,
}

const MACHINES: &[Machine] = &[
    machine("microbit", ["0", "256K"], ["0x20000000", "16K"], 16),
    machine("mps2-an385", ["0", "4M"], ["0x20000000", "4M"], 25), // SSRAM stands in for flash
    machine("mps2-an386", ["0", "4M"], ["0x20000000", "4M"], 25),
    machine("mps2-an500", ["0", "4M"], ["0x20000000", "4M"], 25),
    // Secure aliases, because the core starts in the secure state.
    machine("mps2-an505", ["0x10000000", "4M"], ["0x38000000", "4M"], 20),
    machine("mps3-an547", ["0", "512K"], ["0x20000000", "512K"], 32), // the core's own memories
];

const fn machine(
    name: &'static str,
    flash: [&'static str; 2],
    ram: [&'static str; 2],
    clock: u32,
) -> Machine {
    Machine {
        name,
        flash,
        ram,
        clock,
    }
}

fn main() {
    println!("cargo:rerun-if-env-changed=BITTTT_MACHINE");
    let name = env::var("BITTTT_MACHINE").expect("boards/*.toml set BITTTT_MACHINE");
    let machine = MACHINES.iter().find(|machine| machine.name == name);
    let machine = machine.unwrap_or_else(|| panic!("BITTTT_MACHINE={name}: no such machine here"));
    let memory = format!(
        "MEMORY\n{{\n  FLASH : ORIGIN = {}, LENGTH = {}\n  RAM : ORIGIN = {}, LENGTH = {}\n}}\n",
        machine.flash[0], machine.flash[1], machine.ram[0], machine.ram[1]
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("memory.x"), memory).expect("OUT_DIR can be written to");
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg-bins=-Tlink.x");
    println!("cargo:rustc-link-arg-bins=--nmagic");
    println!("cargo:rustc-env=CLOCK_MHZ={}", machine.clock);
}
