//! Tables of the sums that a `t5` byte can stand for, in plain Rust.
//!
//! Entry `b` of a byte column's table is `BASE + sum_p d_p q_p`, with the digits `d` of byte `b` (docs/FORMAT.md) and the
//! activations `q` of the column. Two entries make a word, the even one below; since none is negative, words
//! add like pairs. From an entry to the next one, the digits either stay (13 times) or count one up, in base 3:
//! `2 2 0` follows on `2 1 2`. That takes one of five differences, and a word takes one addition.

/// Columns that are looked up together: as many tables as Thumb has registers for.
pub(super) const TABLES: usize = 8;

/// Words of a table.
pub(super) const TABLE: usize = 128;

/// What keeps entries from being negative: digits are at most 2 and activations at least -128.
pub(super) const BASE: u32 = 2 * 5 * 128;

/// Index of the difference that takes entry `b - 1` to entry `b`: 0 for none, else one more than the number of low digits
/// that go from 2 to 0.
const fn step(b: usize) -> u8 {
    let mut v = b * 243 / 256;
    if b == 0 || v == (b - 1) * 243 / 256 {
        return 0;
    }
    let mut step = 1;
    while v % 3 == 0 {
        v /= 3;
        step += 1;
    }
    step
}

static STEPS: [u8; 256] = {
    let mut steps = [0; 256];
    let mut b = 0;
    while b < steps.len() {
        steps[b] = step(b);
        b += 1;
    }
    steps
};

/// Builds the tables of `columns` columns, whose five activations are `stride` apart in `q`.
pub(super) fn build(columns: usize, tables: &mut [u32], q: &[i8], stride: usize) {
    for (j, table) in tables.chunks_exact_mut(TABLE).take(columns).enumerate() {
        build_one(table, q.get(j..).unwrap_or(&[]), stride);
    }
}

fn build_one(table: &mut [u32], q: &[i8], stride: usize) {
    let mut differences = [0u32; 6];
    let mut carried = 0u32;
    for (difference, plane) in differences.iter_mut().skip(1).zip((0..5).rev()) {
        let q = q.get(plane * stride).map_or(0, |&q| i32::from(q) as u32);
        *difference = q.wrapping_sub(carried.wrapping_mul(2));
        carried = carried.wrapping_add(q);
    }
    let mut entry = BASE;
    let mut entries = STEPS.iter().map(|&step| {
        entry = entry.wrapping_add(differences.get(usize::from(step)).map_or(0, |&d| d));
        entry
    });
    for word in table {
        let even = entries.next().unwrap_or(0);
        *word = even | entries.next().unwrap_or(0) << 16;
    }
}

/// Adds to the sum of each row the entries of its first `columns` bytes; rows are `width` apart.
pub(super) fn add(columns: usize, tables: &[u32], rows: &[u8], width: usize, sums: &mut [u32]) {
    for (r, sum) in sums.iter_mut().enumerate() {
        let bytes = rows.get(r * width..).unwrap_or(&[]);
        for (&byte, table) in bytes.iter().zip(tables.chunks_exact(TABLE)).take(columns) {
            let word = table.get(usize::from(byte / 2)).map_or(0, |&word| word);
            *sum = sum.wrapping_add(word >> (16 * u32::from(byte % 2)) & 0xFFFF);
        }
    }
}
