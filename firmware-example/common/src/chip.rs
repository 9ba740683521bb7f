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
        let mut digits = [b'0'; 8];
        for (place, digit) in digits.iter_mut().rev().enumerate() {
            let value = (value >> (4 * place) & 15) as u8;
            *digit = value + if value < 10 { b'0' } else { b'a' - 10 };
        }
        self.value(name, &digits);
    }

    /// Shows `name=value`, decimal.
    fn count(&mut self, name: &str, mut value: u64) {
        let mut digits = [b'0'; 20];
        let mut used = 0;
        for digit in digits.iter_mut().rev() {
            if value == 0 && used > 0 {
                break;
            }
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
            used += 1;
        }
        self.value(name, digits.get(digits.len() - used..).unwrap_or(&[]));
    }

    /// Shows `name=` and digits.
    fn value(&mut self, name: &str, digits: &[u8]) {
        for part in [name.as_bytes(), b"=", digits, b"\n"] {
            self.show(part);
        }
    }
}
