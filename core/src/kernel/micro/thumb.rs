//! The tables of `table` for Thumb-2: straight-line code, two entries an addition, and eight look-ups a row between one
//! load of its sum and the next.

use super::table::{TABLE, TABLES};
use crate::pieces::Cut;
use core::arch::naked_asm;

/// As [`super::table::build`].
pub(super) fn build(columns: usize, tables: &mut [u32], q: &[i8], stride: usize) {
    if columns > 0 && tables.len() >= columns * TABLE && q.len() >= 4 * stride + columns {
        // SAFETY: there is room for the tables, and the last column's last activation is inside `q`.
        unsafe { build_tables(tables.as_mut_ptr(), q.as_ptr(), stride, columns) };
    }
}

/// As [`super::table::add`].
pub(super) fn add(columns: usize, tables: &[u32], rows: &[u8], width: usize, sums: &mut [u32]) {
    let add = match columns {
        TABLES => add_8,
        4 => add_4,
        _ => return add_slowly(columns, tables, rows, width, sums),
    };
    let quads = sums.len() & !3;
    let end = quads
        .saturating_sub(1)
        .saturating_mul(width)
        .saturating_add(columns);
    if tables.len() < columns * TABLE || rows.len() < end {
        return;
    }
    let (first, rest) = sums.split_at_mut(quads);
    if !first.is_empty() {
        // SAFETY: there are that many tables, a multiple of four rows, and their bytes are there.
        unsafe {
            add(
                tables.as_ptr(),
                rows.as_ptr(),
                width,
                first.as_mut_ptr(),
                quads,
            )
        };
    }
    if rest.is_empty() {
        return;
    }
    let rest_of_rows = rows.get(quads * width..).unwrap_or(&[]);
    add_slowly(columns, tables, rest_of_rows, width, rest);
}

/// Column by column: the few columns and rows that are left over.
fn add_slowly(columns: usize, tables: &[u32], rows: &[u8], width: usize, sums: &mut [u32]) {
    for (column, table) in tables.pieces(TABLE).take(columns).enumerate() {
        let bytes = rows.get(column..).unwrap_or(&[]);
        super::table::add(1, table, bytes, width, sums);
    }
}

/// Builds tables: 220 instructions each.
///
/// The words' registers follow each other in a ring of seven, r1 r2 r3 r10 r11 r12 lr, and go out together. r4 to r9 hold
/// the six differences that words mostly have, and the stack nine more. `cargo xtask tables` wrote table.s: for
/// each word the shortest way from the seven before it.
///
/// # Safety
/// `tables` has 128 words a column, `q` five activations `stride` apart for each, and there is a column.
#[unsafe(naked)]
unsafe extern "C" fn build_tables(tables: *mut u32, q: *const i8, stride: usize, columns: usize) {
    naked_asm!(
        "push {r1-r11, lr}",
        "sub sp, #36",
        "2:",
        "ldrd r1, r2, [sp, #36]",
        "ldrsb r3, [r1]", // plane 0, the most significant digit
        "ldrsb r4, [r1, r2]",
        "ldrsb r5, [r1, r2, lsl #1]",
        "ldrsb r7, [r1, r2, lsl #2]", // a: what one more in the last digit adds
        "add r2, r2, r2, lsl #1",
        "ldrsb r6, [r1, r2]",
        "lsl r8, r7, #1", // aa: two steps
        "sub r9, r6, r7", // ab: a step, and one that carries once
        "add r10, r7, r6, lsl #1",
        "sub r11, r5, r10", // ac: twice
        "add r10, r10, r5, lsl #1",
        "sub r12, r4, r10", // ad
        "add r10, r10, r4, lsl #1",
        "sub lr, r3, r10", // ae
        "add r1, r8, r12, lsl #16",
        "add r2, r12, r8, lsl #16",
        "add r3, r12, r12, lsl #16",
        "add r4, r8, lr, lsl #16",
        "add r5, lr, r8, lsl #16",
        "add r6, lr, lr, lsl #16",
        "stm sp, {r1-r6}",
        "add r1, r8, r7, lsl #16",
        "sub r2, r9, r7",
        "add r2, r9, r2, lsl #16",
        "strd r1, r2, [sp, #24]",
        "add r3, r9, r7, lsl #16",
        "str r3, [sp, #32]",
        "mov r1, #0x05000500", // BASE twice: digits 0 0 0 0 0, and once more for the byte that is none
        "add r2, r1, r7",
        "add r2, r2, r8, lsl #16",
        "add r4, r8, r9, lsl #16",
        "add r5, r9, r9, lsl #16",
        "add r6, r9, r8, lsl #16",
        "add r7, r8, r11, lsl #16",
        "add r9, r11, r8, lsl #16",
        "add r8, r11, r11, lsl #16",
        include_str!("table.s"),
        "ldr r1, [sp, #36]",
        "ldr r3, [sp, #44]",
        "add r1, #1",
        "str r1, [sp, #36]",
        "subs r3, #1",
        "str r3, [sp, #44]",
        "bne 2b",
        "add sp, #48",
        "pop {r4-r11, pc}",
        options(raw),
    )
}

/// The assembler's macro `bitttt_look_up`, and the beginning of `bitttt_row`: the first four bytes of the row at r1.
macro_rules! four_look_ups {
    () => {
        ".macro bitttt_look_up sum, byte, table
        ldrb lr, [r1, #\\byte]
        ldrh lr, [\\table, lr, lsl #1]
        add \\sum, lr
        .endm
        .macro bitttt_row sum
        bitttt_look_up \\sum, 0, r0
        bitttt_look_up \\sum, 1, r4
        bitttt_look_up \\sum, 2, r5
        bitttt_look_up \\sum, 3, r6"
    };
}

/// Adds the entries of eight bytes to each row's sum: 27 instructions a row.
///
/// # Safety
/// `tables` has eight tables, `sums` has `rows` sums, a multiple of four and not zero, and eight bytes of each row, `width`
/// after those of the row before, are at `row`.
#[unsafe(naked)]
unsafe extern "C" fn add_8(
    tables: *const u32,
    row: *const u8,
    width: usize,
    sums: *mut u32,
    rows: usize,
) {
    naked_asm!(
        four_look_ups!(),
        "bitttt_look_up \\sum, 4, r7",
        "bitttt_look_up \\sum, 5, r8",
        "bitttt_look_up \\sum, 6, r9",
        "bitttt_look_up \\sum, 7, r10",
        "add r1, r2",
        ".endm",
        "push {r4-r11, lr}",
        "ldr lr, [sp, #36]",
        "add lr, r3, lr, lsl #2",
        "str lr, [sp, #36]", // where the sums end
        "add r4, r0, #512",
        "add r5, r0, #1024",
        "add r6, r0, #1536",
        "add r7, r0, #2048",
        "add r8, r0, #2560",
        "add r9, r0, #3072",
        "add r10, r0, #3584",
        "2:",
        "ldrd r11, r12, [r3]",
        "bitttt_row r11",
        "bitttt_row r12",
        "strd r11, r12, [r3], #8",
        "ldrd r11, r12, [r3]",
        "bitttt_row r11",
        "bitttt_row r12",
        "strd r11, r12, [r3], #8",
        "ldr lr, [sp, #36]",
        "cmp r3, lr",
        "bne 2b",
        "pop {r4-r11, pc}",
        ".purgem bitttt_row",
        ".purgem bitttt_look_up",
        options(raw),
    )
}

/// The same for four bytes: 14 instructions a row.
///
/// # Safety
/// As [`add_8`], with four for eight.
#[unsafe(naked)]
unsafe extern "C" fn add_4(
    tables: *const u32,
    row: *const u8,
    width: usize,
    sums: *mut u32,
    rows: usize,
) {
    naked_asm!(
        four_look_ups!(),
        "add r1, r2",
        ".endm",
        "push {r4-r11, lr}",
        "ldr r7, [sp, #36]",
        "add r7, r3, r7, lsl #2",
        "add r4, r0, #512",
        "add r5, r0, #1024",
        "add r6, r0, #1536",
        "2:",
        "ldm r3, {r8-r11}",
        "bitttt_row r8",
        "bitttt_row r9",
        "bitttt_row r10",
        "bitttt_row r11",
        "stm r3!, {r8-r11}",
        "cmp r3, r7",
        "bne 2b",
        "pop {r4-r11, pc}",
        ".purgem bitttt_row",
        ".purgem bitttt_look_up",
        options(raw),
    )
}
