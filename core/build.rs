//! Tells the kernels what a microcontroller's instruction set has: stable Rust has no name for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(bitttt_micro, bitttt_thumb2, bitttt_dsp, bitttt_fpu)");
    let get = |name| std::env::var(name).unwrap_or_default();
    let target = get("TARGET");
    if matches!(&*get("CARGO_CFG_TARGET_ARCH"), "arm" | "riscv32") {
        println!("cargo::rustc-cfg=bitttt_micro");
    }
    let mainline = target.starts_with("thumbv8m.main");
    if target.starts_with("thumbv7") || mainline {
        println!("cargo::rustc-cfg=bitttt_thumb2");
    }
    if target.starts_with("thumb") && target.ends_with("hf") {
        println!("cargo::rustc-cfg=bitttt_fpu");
    }
    // The extension is part of ARMv7E-M and an option of ARMv8-M, which the flags have to name.
    let flags = get("CARGO_ENCODED_RUSTFLAGS");
    let named = [
        "cortex-m33",
        "cortex-m35p",
        "cortex-m55",
        "cortex-m85",
        "+dsp",
    ];
    if target.starts_with("thumbv7em")
        || (mainline && named.iter().any(|name| flags.contains(name)))
    {
        println!("cargo::rustc-cfg=bitttt_dsp");
    }
}
