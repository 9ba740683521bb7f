//! The arithmetic, and the choice of who does it.
//!
//! Down the folder: `scalar` (integer dot products, the reference), `lanes`, `attention`, `halves`, `ttt`, `ttt_mlp`
//! and `lite` (float kernels, one body for all).
//! Across: one file an instruction set. Every backend gives the same bits (docs/NUMERICS.md); which one runs
//! is decided once, by [`Backend::detect`].

#[macro_use]
mod table;
#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod halves;
pub(crate) mod lanes;
pub(crate) mod lite;
#[cfg(any(bitttt_micro, test))]
mod micro;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod neon;
#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_feature = "neon"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod panel;
pub(crate) mod parallel;
#[cfg(feature = "probe")]
pub mod probe;
mod scalar;
#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_feature = "neon"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod simd;
#[cfg(test)]
mod tests;
pub(crate) mod ttt;
mod ttt_mlp;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
mod wide;

use crate::format::IMPORTED;
use crate::model::{Floats, Matrix};
use crate::pieces::Cut;
use core::ops::Range;
use parallel::Shared;
pub use parallel::{Alone, Parallel};

/// A set of kernels that this machine can run. A value is the proof that the instructions exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    Neon(neon::Level),
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Wasm,
}

#[cfg(target_arch = "x86_64")]
cpufeatures::new!(has_avx2, "avx2");
#[cfg(target_arch = "x86_64")]
cpufeatures::new!(has_avx512, "avx512f", "avx512bw", "avx512vl");

/// AVX-512 with VNNI, which `cpufeatures` does not know: bit 11 of ECX of leaf 7.
#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    has_avx512::get() && core::arch::x86_64::__cpuid_count(7, 0).ecx >> 11 & 1 == 1
}

/// The name in `--cfg bitttt_backend="NAME"`.
const FORCED: Option<&str> = forced(&[
    (cfg!(bitttt_backend = "scalar"), "scalar"),
    (cfg!(bitttt_backend = "avx2"), "avx2"),
    (cfg!(bitttt_backend = "avx512"), "avx512"),
    (cfg!(bitttt_backend = "amx"), "amx"),
    (cfg!(bitttt_backend = "neon"), "neon"),
    (cfg!(bitttt_backend = "neon-dotprod"), "neon-dotprod"),
    (cfg!(bitttt_backend = "neon-i8mm"), "neon-i8mm"),
    (cfg!(bitttt_backend = "wasm-simd128"), "wasm-simd128"),
]);

const fn forced(names: &[(bool, &'static str)]) -> Option<&'static str> {
    match names {
        [(true, name), ..] => Some(name),
        [_, rest @ ..] => forced(rest),
        [] => None,
    }
}

#[cfg(any(
    all(
        any(
            bitttt_backend = "avx2",
            bitttt_backend = "avx512",
            bitttt_backend = "amx"
        ),
        not(target_arch = "x86_64")
    ),
    all(
        any(
            bitttt_backend = "neon",
            bitttt_backend = "neon-dotprod",
            bitttt_backend = "neon-i8mm"
        ),
        not(all(target_arch = "aarch64", target_feature = "neon"))
    ),
    all(
        bitttt_backend = "wasm-simd128",
        not(all(target_arch = "wasm32", target_feature = "simd128"))
    ),
))]
compile_error!(
    "--cfg bitttt_backend names a backend that this target cannot have; wasm-simd128 also needs -C target-feature=+simd128"
);

impl Backend {
    /// Plain Rust, everywhere.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest backend of this machine. `--cfg bitttt_backend="NAME"` chooses another one when the core is compiled:
    /// that of the name where the machine has it, scalar where not, and no other.
    pub fn detect() -> Self {
        let chosen = match FORCED {
            Some(name) => Self::by_name(name),
            None => Self::all().last(),
        };
        chosen.unwrap_or(Self::SCALAR)
    }

    /// Every backend that this machine can run, slowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let found = [
            Some(Self::SCALAR),
            has_avx2::get().then_some(Self(Kind::Avx2)),
            has_vnni().then_some(Self(Kind::Avx512)),
            (has_vnni() && amx::is_permitted()).then_some(Self(Kind::Amx)),
        ];
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        let found = {
            let [a, b, c] =
                neon::Level::all().map(|level| level.map(|level| Self(Kind::Neon(level))));
            [Some(Self::SCALAR), a, b, c]
        };
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        let found = [Some(Self::SCALAR), Some(Self(Kind::Wasm))];
        #[cfg(not(any(
            target_arch = "x86_64",
            all(target_arch = "aarch64", target_feature = "neon"),
            all(target_arch = "wasm32", target_feature = "simd128")
        )))]
        let found = [Some(Self::SCALAR)];
        found.into_iter().flatten()
    }

    /// Asks the operating system for the use of AMX, once a process and before it has threads; false where there is none
    /// or it is refused. Without it [`Backend::all`] does not have the backend.
    pub fn request_amx() -> bool {
        #[cfg(target_arch = "x86_64")]
        return !cfg!(miri) && amx::request(); // Miri has no assembly
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// The backend of this name, if the machine can run it.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::all().find(|backend| backend.name() == name)
    }

    /// `scalar`; `avx2`, `avx512`, `amx`; `neon`, `neon-dotprod`, `neon-i8mm`; `wasm-simd128`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "amx",
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Kind::Neon(level) => level.name(),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Wasm => "wasm-simd128",
        }
    }

    /// Matrices times the same activations: `out[t, r]` for tokens `t` and rows `r` of each. Integer weights take the
    /// quantised activations; float weights, and all where activations stay wide, the activations themselves,
    /// `x [n, cols]`. One hand-off to the threads for all of them.
    pub(crate) fn matmul<const N: usize>(
        self,
        parallel: &dyn Parallel,
        q: &Quantised<'_>,
        x: &[f32],
        products: [(&Matrix<'_>, &mut [f32]); N],
    ) {
        let products = products.map(|(m, out)| Product {
            m,
            q,
            x,
            out: Shared::new(out),
        });
        self.multiply(parallel, &products);
    }

    /// Cuts the rows of all products into parts.
    fn multiply(self, parallel: &dyn Parallel, products: &[Product<'_>]) {
        let units = |p: &Product<'_>| p.m.rows.div_ceil(UNIT);
        let total: usize = products.iter().map(units).sum();
        let work: usize = products.iter().map(Product::work).sum();
        let parallel = parallel::helpers(parallel);
        let worth = (work / self.min_part()).min(total);
        let parts = parallel.width().min(worth).max(1);
        let run = |part: usize| {
            let own = parallel::share(part, parts, total);
            let (mut from, mut to) = (own.start, own.end);
            for product in products {
                let rows = from * UNIT..(to * UNIT).min(product.m.rows);
                if rows.start < rows.end {
                    self.product(product, rows);
                }
                from = from.saturating_sub(units(product));
                to = to.saturating_sub(units(product));
            }
        };
        if parts == 1 {
            run(0);
        } else {
            parallel.run(parts, &run);
        }
    }

    /// Weights times tokens that a part should have: about a microsecond, several times a hand-off.
    fn min_part(self) -> usize {
        match self.0 {
            #[cfg(bitttt_micro)]
            Kind::Scalar => usize::MAX, // a product's rows share its tables
            #[cfg(not(bitttt_micro))]
            Kind::Scalar => 1 << 12,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Amx => 1 << 17,
            #[allow(unreachable_patterns)] // where there is nothing but scalar
            _ => 1 << 16,
        }
    }

    /// The rows `rows` of a product.
    fn product(self, product: &Product<'_>, rows: Range<usize>) {
        if IMPORTED && product.q.wide {
            return self.product_wide(product, rows);
        }
        match self.0 {
            #[cfg(bitttt_micro)]
            Kind::Scalar => micro::product(product, rows),
            #[cfg(not(bitttt_micro))]
            Kind::Scalar => scalar::product(product, rows),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Kind::Avx2` exists only where `all` found AVX2.
            Kind::Avx2 => unsafe { avx2::product(product, rows) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Kind::Avx512` exists only where `all` found AVX-512 and VNNI.
            Kind::Avx512 => unsafe { avx512::product(product, rows) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Kind::Amx` exists only where `all` found that too, int8 tiles and the permission to use them.
            Kind::Amx => unsafe { amx::product(product, rows) },
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Kind::Neon(level) => level.product(product, rows),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Wasm => wasm::product(product, rows),
        }
    }
}

/// Words of the tables that `micro` works with: eight of 256 halves.
pub(crate) const TABLE_WORDS: usize = 8 * 128;

/// Rows that are not cut: a multiple of every backend's group of rows.
const UNIT: usize = 16;

/// `out[t, r]`: a matrix, the activations and where the results go. Parts write to rows of their own.
pub(crate) struct Product<'a> {
    m: &'a Matrix<'a>,
    q: &'a Quantised<'a>,
    x: &'a [f32],
    out: Shared<'a, f32>,
}

impl Product<'_> {
    fn work(&self) -> usize {
        let tokens = self.x.len() / self.m.cols.max(1);
        self.m.rows * self.m.cols * tokens
    }

    /// Results of `rows` for token `t`. Only the part that owns the rows asks for them.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // disjoint by the rule above
    fn out(&self, t: usize, rows: Range<usize>) -> &mut [f32] {
        let start = t * self.m.rows;
        // SAFETY: `Backend::matmul` gives each row to one part, and a part holds one piece at a time.
        unsafe { self.out.piece(start + rows.start..start + rows.end) }
    }
}

/// Quantised activations of `n` tokens: codes `[n, stride]` padded with zeros, `a / 127` and `sum q` a token; and where
/// `micro` may put its tables.
pub(crate) struct Quantised<'a> {
    pub stride: usize,
    pub codes: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [i32],
    /// Activations are not quantised: the codes mean nothing.
    pub wide: bool,
    #[cfg_attr(not(any(bitttt_micro, test)), allow(dead_code))]
    pub tables: Shared<'a, f32>,
}

/// Rows outside, in groups of `R`, tokens inside: each weight is read once for all tokens, each activation once for
/// `R` rows. `dot(r, codes, sum)` gives the sums of rows `r..r + R`.
#[inline(always)]
fn rows<const R: usize>(
    range: Range<usize>,
    p: &Product<'_>,
    scale: impl Fn(usize) -> f32,
    dot: impl Fn(usize, &[i8], i32) -> [i32; R],
) {
    let mut r = range.start;
    while r + R <= range.end {
        for (t, (&token, &sum)) in p.q.scales.iter().zip(p.q.sums).enumerate() {
            let codes = row(p.q.codes, t, p.q.stride);
            let sums = dot(r, codes, sum);
            for (i, (out, sum)) in p.out(t, r..r + R).iter_mut().zip(sums).enumerate() {
                *out = sum as f32 * (token * scale(r + i));
            }
        }
        r += R;
    }
}

/// Bytes of a matrix's row.
#[inline(always)]
fn row_width<W>(data: &[W], m: &Matrix<'_>) -> usize {
    data.len().checked_div(m.rows).unwrap_or(0)
}

/// Row `r` of `width` elements.
#[cfg_attr(bitttt_micro, inline(never))]
#[cfg_attr(not(bitttt_micro), inline(always))]
pub(crate) fn row<W>(data: &[W], r: usize, width: usize) -> &[W] {
    data.get(r * width..)
        .and_then(|data| data.get(..width))
        .unwrap_or(&[])
}

#[inline(always)]
fn float_rows(data: Floats<'_>, p: &Product<'_>, rows: Range<usize>) {
    for (t, x) in p.x.pieces(p.m.cols).enumerate() {
        for (out, r) in p.out(t, rows.clone()).iter_mut().zip(rows.clone()) {
            *out = lanes::dot_stored(data.row(r, p.m.cols), x);
        }
    }
}

#[inline(always)]
fn at(scales: &[f32], row: usize) -> f32 {
    scales.get(row).copied().unwrap_or(0.0)
}

/// `sqrt` by the instruction, correctly rounded like any other.
#[cfg(bitttt_fpu)]
pub(crate) fn sqrt(x: f32) -> f32 {
    let mut bits = x.to_bits(); // float registers are no operands: stable Rust does not name the unit
    // SAFETY: the target has a floating-point unit; the instruction touches nothing else.
    unsafe {
        core::arch::asm!(
            "vmov s0, {bits}",
            "vsqrt.f32 s0, s0",
            "vmov {bits}, s0",
            bits = inout(reg) bits,
            out("s0") _,
            options(pure, nomem, nostack),
        );
    }
    f32::from_bits(bits)
}

float_kernels!(dispatch, []);
