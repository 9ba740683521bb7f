//! Project chores: `cargo xtask test` is the whole test run, `cargo xtask firmware` runs the boards.

mod api;
mod blob;
mod boards;
mod c;
mod command;
mod dependencies;
mod elf;
mod firmware;
mod gpu;
mod harden;
mod host;
mod machines;
mod peers;
mod python;
mod report;
mod setup;
mod tables;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Project chores of bitttt")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Sets up what it needs, then runs every check and test there is
    ///
    /// Example: cargo xtask test --only WebAssembly
    Test(test::Options),
    /// Builds the firmware of every board, runs it in an emulator and compares it with this machine
    ///
    /// Example: cargo xtask firmware --prompt "Once upon" --tokens 64
    Firmware(firmware::Options),
    /// Times other engines beside ours, on the same shapes in the same run
    ///
    /// Example: cargo xtask peers --shape tiny
    Peers(peers::Options),
    /// Builds the trainer with CUDA and packs it for a machine with a GPU
    ///
    /// Example: cargo xtask gpu
    Gpu(gpu::Options),
    /// Writes the code that fills the look-up tables of microcontrollers
    Tables,
    /// Miri and AddressSanitizer over the unsafe code; needs a nightly compiler
    ///
    /// Example: cargo xtask harden --toolchain nightly
    Harden(harden::Options),
    /// Writes the texts that changes of the public interfaces are seen by
    Api,
    /// Installs emulators and compiler targets, or says how to
    Setup,
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Test(options) => test::run(&options),
        Chore::Firmware(options) => firmware::run(&options),
        Chore::Peers(options) => peers::run(&options),
        Chore::Gpu(options) => gpu::run(&options),
        Chore::Harden(options) => harden::run(&options),
        Chore::Api => api::write(),
        Chore::Tables => tables::run(),
        Chore::Setup => setup::everything(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
