//! `cargo xtask tables`: writes the straight-line Thumb-2 code that fills a look-up table of `t5` sums.
//!
//! A table's words hold two entries each (core/src/kernel/micro/table.rs). The code keeps the last seven words and six
//! frequent differences of words in registers, and nine rare differences on the stack; for each word this finds the
//! shortest way from there, one instruction for most, two for the rest.

use crate::command::root;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Coefficients of the five activations, plane 0 first, and of the base that every entry has.
type Sum = [i32; 6];

/// Two entries, the even one first.
type Word = [Sum; 2];

/// Registers of the words, in turn; in the order in which one instruction stores them all.
const WORDS: [&str; 7] = ["r1", "r2", "r3", "r10", "r11", "r12", "lr"];

/// What an entry differs in from the one before it, by how many digits carry; the first is for no difference.
const STEPS: [Sum; 6] = [
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 1, 0],
    [0, 0, 0, 1, -2, 0],
    [0, 0, 1, -2, -2, 0],
    [0, 1, -2, -2, -2, 0],
    [1, -2, -2, -2, -2, 0],
];

/// Differences of words, as two pairs of steps each, and where they are: in registers, and at offsets on the stack.
const IN_REGISTERS: [([usize; 4], &str); 6] = [
    ([1, 1, 1, 2], "r4"),
    ([1, 2, 1, 2], "r5"),
    ([1, 2, 1, 1], "r6"),
    ([1, 1, 1, 3], "r7"),
    ([1, 3, 1, 3], "r8"),
    ([1, 3, 1, 1], "r9"),
];
const ON_STACK: [[usize; 4]; 9] = [
    [1, 1, 1, 4],
    [1, 4, 1, 1],
    [1, 4, 1, 4],
    [1, 1, 1, 5],
    [1, 5, 1, 1],
    [1, 5, 1, 5],
    [1, 1, 0, 1],
    [1, 2, 0, 2],
    [1, 2, 0, 1],
];

/// Writes the file.
pub fn run() -> Result<bool> {
    let path = path();
    std::fs::write(&path, code()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

fn path() -> PathBuf {
    root().join("core/src/kernel/micro/table.s")
}

/// Words 2 to 127; the first two are in their registers before.
fn code() -> String {
    let words: Vec<Word> = (0..128).map(|k| [entry(2 * k), entry(2 * k + 1)]).collect();
    let mut lines = Vec::new();
    for k in 2..words.len() {
        lines.extend(way(&words, k));
        if k % WORDS.len() == WORDS.len() - 1 {
            lines.push(format!("stmia r0!, {{{}}}", WORDS.join(", ")));
        }
    }
    lines.push(format!(
        "stmia r0!, {{{}}}",
        WORDS[..words.len() % WORDS.len()].join(", ")
    ));
    lines.join("\n") + "\n"
}

/// Digits of a byte, docs/FORMAT.md, and the base.
fn entry(byte: usize) -> Sum {
    let (mut sum, mut left) = ([1; 6], byte);
    for digit in &mut sum[..5] {
        *digit = (left * 3 / 256) as i32;
        left = left * 3 % 256;
    }
    sum
}

fn difference(steps: [usize; 4]) -> Word {
    let [a, b, c, d] = steps.map(|step| STEPS[step]);
    [add(a, b, 1), add(c, d, 1)]
}

fn add(a: Sum, b: Sum, sign: i32) -> Sum {
    std::array::from_fn(|i| a[i] + sign * b[i])
}

/// Something in a register.
#[derive(Clone, Copy)]
struct Held {
    value: Word,
    register: &'static str,
    /// Two entries, which are not negative: their upper half can be shifted down.
    entries: bool,
}

/// `x op y`, for every operation that takes both.
fn sums(x: Word, y: Held) -> Vec<(Word, &'static str, &'static str)> {
    const NONE: Sum = [0; 6];
    let mut operands = vec![(y.value, ""), ([NONE, y.value[0]], ", lsl #16")];
    if y.entries {
        operands.push(([y.value[1], NONE], ", lsr #16"));
    }
    let signs = [("add", 1), ("sub", -1)];
    let sums = operands.into_iter().flat_map(|(y, shift)| {
        signs.map(|(name, sign)| ([add(x[0], y[0], sign), add(x[1], y[1], sign)], name, shift))
    });
    sums.collect()
}

/// The instructions that make word `k`.
fn way(words: &[Word], k: usize) -> Vec<String> {
    let register = |k: usize| WORDS[k % WORDS.len()];
    let recent = (k.saturating_sub(WORDS.len())..k).rev().map(|j| Held {
        value: words[j],
        register: register(j),
        entries: true,
    });
    let kept = IN_REGISTERS.iter().map(|&(steps, register)| Held {
        value: difference(steps),
        register,
        entries: false,
    });
    let held: Vec<Held> = recent.chain(kept).collect();
    one(&held, words[k], register(k))
        .or_else(|| two(&held, words[k], register(k)))
        .unwrap_or_else(|| from_stack(words, k, register(k - 1), register(k)))
}

fn one(held: &[Held], word: Word, to: &str) -> Option<Vec<String>> {
    held.iter()
        .flat_map(|x| held.iter().map(move |y| (x, y)))
        .find_map(|(x, y)| {
            let (_, name, shift) = sums(x.value, *y).into_iter().find(|sum| sum.0 == word)?;
            Some(vec![format!(
                "{name} {to}, {}, {}{shift}",
                x.register, y.register
            )])
        })
}

/// The first instruction overwrites what is in the word's register.
fn two(held: &[Held], word: Word, to: &str) -> Option<Vec<String>> {
    held.iter()
        .flat_map(|x| held.iter().map(move |y| (x, y)))
        .find_map(|(x, y)| {
            sums(x.value, *y)
                .into_iter()
                .find_map(|(between, name, shift)| {
                    let left = held.iter().filter(|z| z.register != to);
                    let (z, name_2, shift_2) = left.into_iter().find_map(|z| {
                        let found = sums(between, *z).into_iter().find(|sum| sum.0 == word)?;
                        Some((z.register, found.1, found.2))
                    })?;
                    Some(vec![
                        format!("{name} {to}, {}, {}{shift}", x.register, y.register),
                        format!("{name_2} {to}, {to}, {z}{shift_2}"),
                    ])
                })
        })
}

fn from_stack(words: &[Word], k: usize, before: &str, to: &str) -> Vec<String> {
    let wanted: Word = std::array::from_fn(|half| add(words[k][half], words[k - 1][half], -1));
    let place = ON_STACK
        .iter()
        .position(|&steps| difference(steps) == wanted);
    let offset = 4 * place.expect("every other difference is on the stack");
    vec![
        format!("ldr {to}, [sp, #{offset}]"),
        format!("add {to}, {before}, {to}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_in_the_core_is_what_this_writes() {
        assert_eq!(std::fs::read_to_string(path()).unwrap(), code());
    }

    #[test]
    fn most_words_take_one_instruction() {
        let lines = code().lines().count();
        assert_eq!(
            lines,
            126 + 30 + 19,
            "of 126 words, 30 take a second instruction"
        );
    }
}
