//! AMX: prefill in tiles of 16 tokens by 16 rows; one instruction multiplies 16 x 64 activations with 64 x 16 codes.
//!
//! Activations are read where they are; codes are unpacked by the AVX-512 kernels and put into the order that tiles want.
//! Tokens beside whole tiles go the way of AVX-512, as do products with few tokens.
//!
//! Stable Rust has no intrinsics for tiles: the instructions are inline assembly, kept apart by [`Tiles`] so that tests run
//! everything around them on machines without AMX too.

use super::Product;
use super::avx512::{Avx512, Many};
use super::panel::{self, COLUMNS, PITCH, Part};
use super::simd::{self, Format, Rows};
use core::arch::x86_64::*;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Rows and columns of a tile of sums.
const SIDE: usize = 16;
/// Columns of weights that one instruction takes.
const DEPTH: usize = 64;
/// Rows and tokens of a block: two tiles each way, so that each tile that is loaded is used twice.
const BLOCK: usize = 2 * SIDE;
/// Bytes of 16 rows as tiles.
const HALF: usize = SIDE * COLUMNS;

/// Sums of a block, `[token][row]`.
type Sums = [[i32; BLOCK]; BLOCK];

/// Multiplies blocks.
pub(super) trait Tiles {
    /// `sums[t][r] = q_t . row_r` over `steps * 64` columns, of 32 tokens `stride` bytes apart and 32 rows: `tiled` holds
    /// of the first 16 rows, for every 64 columns, `[16 quadruples of columns][16 rows][4]`, and from `HALF` on the
    /// others'.
    ///
    /// # Safety
    /// The bytes are there, and the machine has the instructions.
    unsafe fn block(q: *const u8, stride: usize, tiled: *const u8, steps: usize, sums: &mut Sums);
}

/// `out[t, r]` for `rows`, see [`super::Backend::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) fn product(p: &Product<'_>, rows: Range<usize>) {
    // SAFETY: this function has AVX-512; `kernel::Backend` has seen AMX and the permission to use it.
    unsafe { simd::product::<Avx512<Tiled<Hardware>>>(p, rows) }
}

/// Tiles for many tokens.
pub(super) struct Tiled<T>(PhantomData<T>);

impl<T: Tiles> Many for Tiled<T> {
    #[inline(always)]
    unsafe fn product<K: Format<Avx512<Self>>>(p: &Product<'_>, w: Rows<'_>, rows: Range<usize>) {
        if p.q.scales.len() < BLOCK {
            // SAFETY: the caller's.
            return unsafe { panel::product::<Avx512<Self>, K>(p, w, rows) };
        }
        let mut plain = [MaybeUninit::<u8>::uninit(); BLOCK * PITCH];
        let mut tiled = [MaybeUninit::<u8>::uninit(); BLOCK * COLUMNS];
        let (plain, tiled) = (plain.as_mut_ptr().cast(), tiled.as_mut_ptr().cast());
        let bytes = COLUMNS / (simd::BLOCK * K::PLANES) * simd::BLOCK; // whole blocks
        let mut first = rows.start;
        while first < rows.end {
            let mut from = 0;
            while from < w.width {
                let part = Part {
                    p,
                    w,
                    rows: first..rows.end.min(first + BLOCK),
                    bytes: from..w.width.min(from + bytes),
                    planes: K::PLANES,
                    offset: K::OFFSET,
                };
                // SAFETY: the caller's; there is room for 32 rows of `COLUMNS` columns.
                unsafe {
                    let columns = panel::unpack::<Avx512<Self>, K>(plain, &part);
                    arrange(plain, tiled, columns, part.rows.len());
                    let whole = blocks::<T>(&part, tiled, columns);
                    let rest = whole..p.q.scales.len();
                    panel::multiply::<Avx512<Self>, K>(&part, plain, rest, columns);
                }
                from += bytes;
            }
            first += BLOCK;
        }
    }
}

/// Whole blocks of tokens times 32 rows of codes; returns how many tokens that were.
///
/// # Safety
/// `arrange` has filled `tiled`.
#[inline(always)]
unsafe fn blocks<T: Tiles>(part: &Part<'_>, tiled: *const u8, columns: usize) -> usize {
    let q = part.p.q;
    let mut sums: Sums = [[0; BLOCK]; BLOCK];
    let mut t = 0;
    while t + BLOCK <= q.scales.len() {
        let first = t * q.stride + part.first_column();
        // SAFETY: the caller's; columns are whole registers of 64.
        unsafe {
            let first = q.codes.as_ptr().cast::<u8>().add(first);
            T::block(first, q.stride, tiled, columns / DEPTH, &mut sums);
        }
        for (i, sums) in sums.iter().enumerate() {
            part.settle(t + i, part.rows.clone(), sums);
        }
        t += BLOCK;
    }
    t
}

/// Codes in column order to codes in tiles; rows from `rows` on become zeros.
///
/// # Safety
/// As [`blocks`].
#[inline(always)]
unsafe fn arrange(plain: *const u8, tiled: *mut u8, columns: usize, rows: usize) {
    for half in 0..2 {
        for at in (0..columns).step_by(DEPTH) {
            // SAFETY: inside both; rows that are not there are not read.
            unsafe {
                let mut registers = [_mm512_setzero_si512(); SIDE];
                let mut r = 0;
                while r < SIDE {
                    if half * SIDE + r < rows {
                        let row = plain.add((half * SIDE + r) * PITCH + at);
                        registers[r] = _mm512_loadu_si512(row.cast());
                    }
                    r += 1;
                }
                transpose(&mut registers);
                let to = tiled.add(half * HALF + at * SIDE);
                let mut i = 0;
                while i < SIDE {
                    _mm512_storeu_si512(to.add(i * DEPTH).cast(), registers[i]);
                    i += 1;
                }
            }
        }
    }
}

/// Transposes 16 x 16 quadruples: by pairs of 1, 2, 4 and 8 rows, in each of which one shuffle takes the even and one the
/// odd partners of two registers.
#[inline(always)]
unsafe fn transpose(registers: &mut [__m512i; SIDE]) {
    let all = registers;
    // SAFETY: the caller's.
    unsafe {
        let mut a = [_mm512_setzero_si512(); SIDE];
        let mut i = 0;
        while i < SIDE {
            // Within quarters of 128 bits: rows 4k..4k+4 of columns c, c + 1, c + 2, c + 3.
            let (x, y) = (
                _mm512_unpacklo_epi32(all[i], all[i + 1]),
                _mm512_unpackhi_epi32(all[i], all[i + 1]),
            );
            let (z, w) = (
                _mm512_unpacklo_epi32(all[i + 2], all[i + 3]),
                _mm512_unpackhi_epi32(all[i + 2], all[i + 3]),
            );
            a[i] = _mm512_unpacklo_epi64(x, z);
            a[i + 1] = _mm512_unpackhi_epi64(x, z);
            a[i + 2] = _mm512_unpacklo_epi64(y, w);
            a[i + 3] = _mm512_unpackhi_epi64(y, w);
            i += 4;
        }
        // Quarter `h` of `a[4 g + c]` is column `4 h + c` of rows `4 g..4 g + 4`; a result is one quarter of four.
        let mut c = 0;
        while c < 4 {
            let low = |x, y| _mm512_shuffle_i32x4::<0b10_00_10_00>(x, y); // quarters 0 and 2
            let high = |x, y| _mm512_shuffle_i32x4::<0b11_01_11_01>(x, y); // quarters 1 and 3
            let (even0, even1) = (low(a[c], a[4 + c]), low(a[8 + c], a[12 + c]));
            let (odd0, odd1) = (high(a[c], a[4 + c]), high(a[8 + c], a[12 + c]));
            all[c] = low(even0, even1);
            all[8 + c] = high(even0, even1);
            all[4 + c] = low(odd0, odd1);
            all[12 + c] = high(odd0, odd1);
            c += 1;
        }
    }
}

/// The instructions.
struct Hardware;

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn block(q: *const u8, stride: usize, tiled: *const u8, steps: usize, sums: &mut Sums) {
        // SAFETY: the caller's. All tiles are configured here and released at the end; the assembly reads
        // `2 * 16` rows of `steps * 64` bytes at `q`, as many at `tiled`, and writes `sums`.
        unsafe {
            core::arch::asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{q0} + {stride}*1]",
                "tileloadd tmm6, [{w0} + {line}*1]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line}*1]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{q1} + {stride}*1]",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "add {q0}, 64",
                "add {q1}, 64",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{out} + {pitch}*1], tmm0",
                "tilestored [{out} + {pitch}*1 + 64], tmm1",
                "tilestored [{out1} + {pitch}*1], tmm2",
                "tilestored [{out1} + {pitch}*1 + 64], tmm3",
                "tilerelease",
                config = in(reg) &raw const CONFIG,
                q0 = inout(reg) q => _,
                q1 = inout(reg) q.add(SIDE * stride) => _,
                w0 = inout(reg) tiled => _,
                w1 = inout(reg) tiled.add(HALF) => _,
                stride = in(reg) stride,
                line = in(reg) DEPTH,
                steps = inout(reg) steps => _,
                out = in(reg) sums.as_mut_ptr(),
                out1 = in(reg) sums.as_mut_ptr().add(SIDE),
                pitch = in(reg) BLOCK * 4,
                options(nostack),
            );
        }
    }
}

/// Eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config([u8; 64]);

static CONFIG: Config = {
    let mut bytes = [0; 64];
    bytes[0] = 1; // palette
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = DEPTH as u8;
        bytes[48 + tile] = SIDE as u8;
        tile += 1;
    }
    Config(bytes)
};

/// Whether this machine has int8 tiles and this process may use them, for which it has to ask ([`request`]).
pub(super) fn is_permitted() -> bool {
    const TILES_AND_INT8: u32 = 0b11 << 24;
    let found = __cpuid_count(7, 0).edx & TILES_AND_INT8 == TILES_AND_INT8;
    found && permissions() & 0b11 << 17 == 0b11 << 17
}

/// Asks the kernel for the state of tiles, which is 8 KiB a thread; false where it is refused.
pub(super) fn request() -> bool {
    const TILE_DATA: usize = 18;
    const TILES: u32 = 1 << 24;
    if __cpuid_count(7, 0).edx & TILES == 0 {
        return false;
    }
    arch_prctl(0x1023, TILE_DATA); // ARCH_REQ_XCOMP_PERM; what `is_permitted` sees counts
    is_permitted()
}

/// The extended states that this process may use, as bits.
fn permissions() -> u64 {
    let mut bits = 0u64;
    arch_prctl(0x1022, &raw mut bits as usize); // ARCH_GET_XCOMP_PERM
    bits
}

/// Linux's system call 158; elsewhere it does nothing.
fn arch_prctl(code: usize, argument: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the two codes above write at most the u64 that `argument` points to.
    unsafe {
        core::arch::asm!(
            "syscall",
            inout("rax") 158usize => _,
            in("rdi") code,
            in("rsi") argument,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (code, argument);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Tiles in plain Rust.
    pub struct Software;

    impl Tiles for Software {
        unsafe fn block(
            q: *const u8,
            stride: usize,
            tiled: *const u8,
            steps: usize,
            sums: &mut Sums,
        ) {
            for (t, sums) in sums.iter_mut().enumerate() {
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = (0..steps * DEPTH)
                        .map(|c| {
                            let (step, inside) = (c / DEPTH, c % DEPTH);
                            let place = step * SIDE * DEPTH
                                + inside / 4 * DEPTH
                                + r % SIDE * 4
                                + inside % 4;
                            // SAFETY: the caller's.
                            let (q, code) = unsafe {
                                (*q.add(t * stride + c), *tiled.add(r / SIDE * HALF + place))
                            };
                            i32::from(q as i8) * i32::from(code)
                        })
                        .sum();
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub fn software(p: &Product<'_>, rows: Range<usize>) {
        // SAFETY: this function has AVX-512.
        unsafe { simd::product::<Avx512<Tiled<Software>>>(p, rows) }
    }
}
