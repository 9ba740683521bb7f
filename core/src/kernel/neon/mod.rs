//! NEON: registers of 16 bytes. Three backends differ in how they multiply ([`multiply`]): the baseline of AArch64 widens
//! to 16 bits and adds pairs, `sdot` adds four products to a sum, and with I8MM prefill multiplies pairs of rows with pairs
//! of tokens ([`i8mm`]).
//!
//! Stable Rust has no intrinsics for the dot products: they are inline assembly, in functions that
//! `kernel::Backend` calls only where the instructions are present.

mod i8mm;
mod multiply;
mod registers;

use super::{Product, simd};
use core::ops::Range;
use multiply::{Sdot, Smmla, Widening};
use registers::Neon;

/// The instructions that a machine has. A value is the proof; `kernel::Backend` makes it from [`Level::all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Baseline,
    Dotprod,
    I8mm,
}

impl Level {
    /// What this machine has, slowest first.
    pub fn all() -> [Option<Self>; 3] {
        let dotprod = machine::has_dotprod();
        [
            Some(Self::Baseline),
            dotprod.then_some(Self::Dotprod),
            (dotprod && machine::has_i8mm()).then_some(Self::I8mm),
        ]
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "neon",
            Self::Dotprod => "neon-dotprod",
            Self::I8mm => "neon-i8mm",
        }
    }

    /// `out[t, r]` for `rows`, see [`super::Backend::matmul`].
    pub fn product(self, p: &Product<'_>, rows: Range<usize>) {
        // SAFETY: the target has NEON, and the value says that the machine has the rest.
        unsafe {
            match self {
                Self::Baseline => simd::product::<Neon<Widening>>(p, rows),
                Self::Dotprod => product_dotprod(p, rows),
                Self::I8mm => product_i8mm(p, rows),
            }
        }
    }
}

#[target_feature(enable = "dotprod")]
fn product_dotprod(p: &Product<'_>, rows: Range<usize>) {
    // SAFETY: this function has the instructions.
    unsafe { simd::product::<Neon<Sdot>>(p, rows) }
}

#[target_feature(enable = "dotprod,i8mm")]
fn product_i8mm(p: &Product<'_>, rows: Range<usize>) {
    // SAFETY: this function has the instructions.
    unsafe { simd::product::<Neon<Smmla>>(p, rows) }
}

/// What goes beyond the baseline, asked without std.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod machine {
    use core::ffi::c_ulong;

    unsafe extern "C" {
        /// The kernel's word on the machine; every C library has it, and every Linux binary has one.
        safe fn getauxval(kind: c_ulong) -> c_ulong;
    }

    pub fn has_dotprod() -> bool {
        const AT_HWCAP: c_ulong = 16;
        const ASIMDDP: c_ulong = 1 << 20;
        getauxval(AT_HWCAP) & ASIMDDP != 0
    }

    pub fn has_i8mm() -> bool {
        const AT_HWCAP2: c_ulong = 26;
        const I8MM: c_ulong = 1 << 13;
        getauxval(AT_HWCAP2) & I8MM != 0
    }
}

/// Elsewhere (Apple, Windows, no system at all): what the compiler was told, by the target or by `-C target-feature`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod machine {
    pub fn has_dotprod() -> bool {
        cfg!(target_feature = "dotprod")
    }

    pub fn has_i8mm() -> bool {
        cfg!(target_feature = "i8mm")
    }
}
