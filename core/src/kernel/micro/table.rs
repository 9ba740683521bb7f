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
    while v.is_multiple_of(3) {
        v /= 3;
        step += 1;
    }
    step
}

/// A word's difference from the one before it: the steps to its even entry, two, and to the odd one, of which the second
/// step to the even one is the first.
type Kind = [u8; 3];

const fn kind(word: usize) -> Kind {
    let b = 2 * word;
    [if b == 0 { 0 } else { step(b - 1) }, step(b), step(b + 1)]
}

const fn same(a: Kind, b: Kind) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2]
}

/// Kinds of words that there are.
const KINDS: usize = 25;

/// The kinds, and which of them each word is.
static WORDS: ([Kind; KINDS], [u8; TABLE]) = {
    let (mut kinds, mut of, mut known, mut word) = ([[0; 3]; KINDS], [0; TABLE], 0, 0);
    while word < TABLE {
        let mut place = 0;
        while place < known && !same(kinds[place], kind(word)) {
            place += 1;
        }
        if place == known {
            kinds[known] = kind(word);
            known += 1;
        }
        of[word] = place as u8;
        word += 1;
    }
    (kinds, of)
};

/// Builds the tables of `columns` columns, whose five activations are `stride` apart in `q`.
pub(super) fn build(columns: usize, tables: &mut [u32], q: &[i8], stride: usize) {
    for (j, table) in tables.chunks_exact_mut(TABLE).take(columns).enumerate() {
        build_one(table, q.get(j..).unwrap_or(&[]), stride);
    }
}

fn build_one(table: &mut [u32], q: &[i8], stride: usize) {
    let mut differences = [0u32; 8]; // as many as three bits count, so that no index needs a check
    let mut carried = 0u32;
    for (difference, plane) in differences.iter_mut().skip(1).zip((0..5).rev()) {
        let q = q.get(plane * stride).map_or(0, |&q| i32::from(q) as u32);
        *difference = q.wrapping_sub(carried.wrapping_mul(2));
        carried = carried.wrapping_add(q);
    }
    let mut words = [0u32; KINDS.next_power_of_two()]; // an index of five bits needs no check
    let difference = |step: u8| differences[usize::from(step & 7)];
    for (word, &[a, b, c]) in words.iter_mut().zip(&WORDS.0) {
        let (a, b, c) = (difference(a), difference(b), difference(c));
        *word = a.wrapping_add(b).wrapping_add(b.wrapping_add(c) << 16);
    }
    let mut word = BASE | BASE << 16;
    for (to, &kind) in table.iter_mut().zip(&WORDS.1) {
        word = word.wrapping_add(words[usize::from(kind) % words.len()]);
        *to = word;
    }
}

/// Adds to the sum of each row the entries of its first `columns` bytes, eight, four or one; rows are `width` apart.
pub(super) fn add(columns: usize, tables: &[u32], rows: &[u8], width: usize, sums: &mut [u32]) {
    let entries = bytemuck::try_cast_slice(tables).unwrap_or(&[]);
    let (tables, _) = entries.as_chunks();
    match columns {
        TABLES => add_columns::<TABLES>(tables, rows, width, sums),
        4 => add_columns::<4>(tables, rows, width, sums),
        _ => add_columns::<1>(tables, rows, width, sums),
    }
}

fn add_columns<const N: usize>(
    tables: &[[u16; 2 * TABLE]],
    rows: &[u8],
    width: usize,
    sums: &mut [u32],
) {
    let Some(tables) = tables.first_chunk::<N>() else {
        return;
    };
    let mut rest = rows;
    for sum in sums {
        if let Some(bytes) = rest.first_chunk::<N>() {
            let entry = |j: usize| u32::from(tables[j % N][usize::from(bytes[j % N])]);
            // written out: at `opt-level = "s"` a loop would take as long again as the look-ups
            let mut all = entry(0);
            if N >= 4 {
                all += entry(1) + entry(2) + entry(3);
            }
            if N >= TABLES {
                all += entry(4) + entry(5) + entry(6) + entry(7);
            }
            *sum = sum.wrapping_add(all);
        }
        rest = rest.get(width..).unwrap_or(&[]);
    }
}
