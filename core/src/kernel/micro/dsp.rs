//! Two weights a multiplication, with the DSP extension of Cortex-M4 and later: SMLAD on bytes that SXTB16 widened, as is
//! usual for int8 networks on these cores. Four rows share the widening of the activations.

use crate::kernel::{Product, at};
use crate::kernel::{row, row_width, scalar};
use crate::pieces::Cut;
use core::arch::asm;
use core::ops::Range;

/// `i8` rows.
pub(super) fn i8_product(data: &[i8], scales: &[f32], p: &Product<'_>, rows: Range<usize>) {
    let width = row_width(data, p.m);
    for (t, (q, &token)) in p.q.codes.pieces(p.q.stride).zip(p.q.scales).enumerate() {
        for r in rows.clone().step_by(4) {
            let fours = r..rows.end.min(r + 4);
            let sums = dots(data.get(r * width..).unwrap_or(&[]), width, q);
            for (i, (out, sum)) in p.out(t, fours).iter_mut().zip(sums).enumerate() {
                *out = sum as f32 * (token * at(scales, r + i));
            }
        }
    }
}

/// Products of the first four rows, or of as many as there are.
fn dots(rows: &[i8], width: usize, q: &[i8]) -> [i32; 4] {
    let mut sums = [0; 4];
    let there = rows.len() >= 4 * width && q.len() >= width;
    let whole = if there { width & !3 } else { 0 };
    if whole > 0 {
        // SAFETY: four rows are there, and activations for as many columns as are asked for, at least one word.
        unsafe { dots_of_words(q.as_ptr(), rows.as_ptr(), width, whole, &mut sums) };
    }
    if whole < width {
        let q = q.get(whole..).unwrap_or(&[]);
        for (r, sum) in sums.iter_mut().enumerate() {
            let behind = row(rows, r, width).get(whole..).unwrap_or(&[]);
            *sum += scalar::i8_dot(behind, q);
        }
    }
    sums
}

/// Products of four rows over their first `columns` columns: 25 instructions for 16 weights.
///
/// Not a naked function like those beside it: only in the body of an ordinary one does the assembler know of an extension
/// that a flag names.
///
/// # Safety
/// Four rows, `width` apart, start at `row`; they and `q` have `columns` elements, a multiple of four and not zero.
#[inline(never)]
unsafe fn dots_of_words(
    q: *const i8,
    row: *const i8,
    width: usize,
    columns: usize,
    sums: &mut [i32; 4],
) {
    // SAFETY: the caller's; registers that are no operands come back from the stack.
    unsafe {
        asm!(
            // four columns of a row: the weights' even and odd bytes times those of the activations in r11 and r12
            ".macro bitttt_columns row, sum",
            "ldr lr, [\\row], #4",
            "sxtb16 r2, lr",
            "smlad \\sum, r2, r11, \\sum",
            "sxtb16 lr, lr, ror #8",
            "smlad \\sum, lr, r12, \\sum",
            ".endm",
            "push {{r4-r12, lr}}",
            "add r4, r1, r2",
            "add r5, r4, r2",
            "add r6, r5, r2",
            "mov r7, #0",
            "mov r8, #0",
            "mov r9, #0",
            "mov r10, #0",
            "add r3, r0",
            "2:",
            "ldr lr, [r0], #4",
            "sxtb16 r11, lr",
            "sxtb16 r12, lr, ror #8",
            "bitttt_columns r1, r7",
            "bitttt_columns r4, r8",
            "bitttt_columns r5, r9",
            "bitttt_columns r6, r10",
            "cmp r0, r3",
            "bne 2b",
            "ldr r0, [sp, #32]", // r12 as it was
            "stm r0, {{r7-r10}}",
            "pop {{r4-r12, lr}}",
            ".purgem bitttt_columns",
            inout("r0") q => _,
            inout("r1") row => _,
            inout("r2") width => _,
            inout("r3") columns => _,
            in("r12") sums.as_mut_ptr(),
        );
    }
}
