//! What the chip's own crate provides, and what can be printed with it.
//!
//! Numbers are written by hand: `core::fmt` would cost flash.

/// A chip on a board.
pub trait Chip {
    /// Shows bytes as they are: a token may end inside a character. Where there is nobody to see them they are lost.
    fn show(&mut self, bytes: &[u8]);

    /// Instructions since the start; cycles where the chip counts those.
    fn instructions(&self) -> u64;

    /// Bytes of RAM that statics take.
    fn statics(&self) -> usize;

    /// Bytes of stack that have been used at most so far.
    fn stack(&self) -> usize;

    /// Ends the program.
    fn exit(&mut self, success: bool) -> !;

    /// Shows `parts` and ends the line.
    fn line(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.show(part.as_bytes()));
        self.show(b"\n");
    }

    /// Shows `name=value` with eight hexadecimal digits.
    fn hash(&mut self, name: &str, value: u32) {
        self.number(name, u64::from(value), 16, 8);
    }

    /// Shows `name=value`, decimal.
    fn count(&mut self, name: &str, value: u64) {
        self.number(name, value, 10, 1);
    }

    /// Shows `name=value` with at least `width` digits.
    fn number(&mut self, name: &str, mut value: u64, base: u32, width: usize) {
        let mut digits = [b'0'; 20];
        let mut used = 0;
        for digit in digits.iter_mut().rev() {
            if value == 0 && used >= width {
                break;
            }
            let (rest, last) = divided(value, base);
            *digit = b"0123456789abcdef"
                .get(last as usize)
                .copied()
                .unwrap_or(b'?');
            value = rest;
            used += 1;
        }
        let digits = digits.get(digits.len() - used..).unwrap_or(&[]);
        for part in [name.as_bytes(), b"=", digits, b"\n"] {
            self.show(part);
        }
    }
}

/// `n / d` and what is left over, bit by bit: the compiler's division of 64 bits is a kilobyte of flash. `d` is below 2^31;
/// by 0 nothing is divided.
#[inline(never)]
pub fn divided(n: u64, d: u32) -> (u64, u32) {
    let (mut quotient, mut rest) = (n, 0);
    for _ in 0..64 {
        rest = rest << 1 | (quotient >> 63) as u32;
        quotient <<= 1;
        if rest >= d && d > 0 {
            rest -= d;
            quotient |= 1;
        }
    }
    (quotient, rest)
}
