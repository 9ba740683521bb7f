//! Single matrix-vector products on random weights: whether they are exact, and how many instructions a weight they take.

use crate::{Chip, Fault, divided};
use bitttt_core::probe::{Packed, Tables, product};

/// Most rows and columns.
const ROWS: usize = 256;
const COLS: usize = 1024;

/// Rows and columns: two that are asked about, and some that fit no block, group or word.
const SHAPES: [(usize, usize); 9] = [
    (256, 256),
    (256, 1024),
    (64, 256),
    (16, 100),
    (13, 7),
    (7, 330),
    (5, 651),
    (1, 64),
    (6, 1),
];

/// Memory for the largest product.
pub struct Room {
    weights: [i8; ROWS * COLS],
    /// Activations and the zeros behind them that a kernel may read.
    codes: [i8; COLS + 128],
    tables: Tables,
    out: [f32; ROWS],
}

impl Room {
    /// Zeros.
    pub const NEW: Self = Self {
        weights: [0; ROWS * COLS],
        codes: [0; COLS + 128],
        tables: [0.0; _],
        out: [0.0; ROWS],
    };
}

/// How weights are stored, and what it is called.
#[derive(Clone, Copy)]
enum Kind {
    T2,
    T5,
    I8,
}

/// Runs every shape with every kind of weights, and shows `KIND_ROWSxCOLS=N`, in thousandths of instructions a weight, for
/// the two first.
///
/// # Errors
/// A result that is not that of the definition.
pub fn kernels(chip: &mut impl Chip, room: &mut Room) -> Result<(), Fault> {
    let mut seed = 1u32;
    for byte in room.weights.iter_mut().chain(&mut room.codes) {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = ((seed >> 24) as i8).max(-127);
    }
    chip.line(&["--- report"]);
    for (place, (rows, cols)) in SHAPES.into_iter().enumerate() {
        for kind in [Kind::T2, Kind::T5, Kind::I8] {
            let instructions = run(chip, room, kind, rows, cols)?;
            if let (0 | 1, name) = (place, name(kind, place)) {
                let weights = (rows * cols) as u32;
                chip.count(name, divided(instructions * 1000, weights).0);
            }
        }
    }
    Ok(())
}

/// What looking at the clock takes.
fn looking(chip: &impl Chip) -> u64 {
    let start = chip.instructions();
    chip.instructions() - start
}

fn name(kind: Kind, place: usize) -> &'static str {
    match (kind, place) {
        (Kind::T2, 0) => "t2_256x256",
        (Kind::T5, 0) => "t5_256x256",
        (Kind::I8, 0) => "i8_256x256",
        (Kind::T2, _) => "t2_256x1024",
        (Kind::T5, _) => "t5_256x1024",
        (Kind::I8, _) => "i8_256x1024",
    }
}

/// One product; returns the instructions that it took.
fn run(
    chip: &mut impl Chip,
    room: &mut Room,
    kind: Kind,
    rows: usize,
    cols: usize,
) -> Result<u64, Fault> {
    const SHORT: Fault = "the room is too small";
    let stride = cols.next_multiple_of(64) + 64;
    let kept = room.codes; // what is behind the columns has to be zero
    let codes = room.codes.get_mut(..stride).ok_or(SHORT)?;
    codes.iter_mut().skip(cols).for_each(|code| *code = 0);
    let total = codes.iter().map(|&code| i32::from(code)).sum();
    let weights = room.weights.get(..rows * width(kind, cols)).ok_or(SHORT)?;
    let bytes = bytemuck::cast_slice(weights);
    let packed = match kind {
        Kind::T2 => Packed::T2(bytes),
        Kind::T5 => Packed::T5(bytes),
        Kind::I8 => Packed::I8(weights),
    };
    let out = room.out.get_mut(..rows).ok_or(SHORT)?;
    let start = chip.instructions();
    product(packed, cols, codes, total, &mut room.tables, out);
    let instructions = (chip.instructions() - start).saturating_sub(looking(chip));
    for (row, out) in weights.chunks_exact(width(kind, cols).max(1)).zip(out) {
        let products = codes.iter().take(cols).enumerate();
        let sum: i32 = products
            .map(|(col, &code)| weight(kind, row, cols, col) * i32::from(code))
            .sum();
        if *out != sum as f32 {
            return Err("a product is not what its definition says");
        }
    }
    room.codes = kept;
    Ok(instructions)
}

/// Planes of a byte, docs/FORMAT.md.
fn planes(kind: Kind) -> usize {
    match kind {
        Kind::T2 => 4,
        Kind::T5 => 5,
        Kind::I8 => 1,
    }
}

/// Bytes of a row.
fn width(kind: Kind, cols: usize) -> usize {
    let block = 64 * planes(kind);
    64 * (cols / block) + (cols % block).div_ceil(planes(kind))
}

/// One weight of a row, by the definition in docs/FORMAT.md.
fn weight(kind: Kind, row: &[i8], cols: usize, col: usize) -> i32 {
    let block = 64 * planes(kind);
    let (first, inside) = (col / block, col % block);
    let stride = (cols - first * block).div_ceil(planes(kind)).clamp(1, 64);
    let plane = inside / stride;
    let byte = row.get(first * 64 + inside % stride).copied().unwrap_or(0);
    match kind {
        Kind::T2 => i32::from(byte as u8 >> (2 * plane) & 3) - 1,
        Kind::T5 => (0..plane).fold(byte as u8, |b, _| b.wrapping_mul(3)) as i32 * 3 / 256 - 1,
        Kind::I8 => i32::from(byte),
    }
}
