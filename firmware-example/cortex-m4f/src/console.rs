//! Text to the host through the debugger (semihosting).
//!
//! Numbers are written by hand: `core::fmt` would cost flash.

use cortex_m_semihosting::hio::{self, HostStream};

/// The host's standard output. Where there is none, text goes nowhere.
pub struct Console(Option<HostStream>);

impl Console {
    /// Opens it.
    pub fn open() -> Self {
        Self(hio::hstdout().ok())
    }

    /// Writes bytes as they are: a token may end inside a character.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(stream) = &mut self.0 {
            let _ = stream.write_all(bytes);
        }
    }

    /// Writes `parts` and ends the line.
    pub fn line(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.bytes(part.as_bytes()));
        self.bytes(b"\n");
    }

    /// Writes `name=value` with eight hexadecimal digits.
    pub fn hash(&mut self, name: &str, value: u32) {
        self.number(name, u64::from(value), 16, 8);
    }

    /// Writes `name=value`, decimal.
    pub fn count(&mut self, name: &str, value: u64) {
        self.number(name, value, 10, 1);
    }

    fn number(&mut self, name: &str, mut value: u64, base: u64, width: usize) {
        let mut digits = [b'0'; 20];
        let mut used = 0;
        for digit in digits.iter_mut().rev() {
            if value == 0 && used >= width {
                break;
            }
            *digit = b"0123456789abcdef"
                .get((value % base) as usize)
                .copied()
                .unwrap_or(b'?');
            value /= base;
            used += 1;
        }
        self.bytes(name.as_bytes());
        self.bytes(b"=");
        self.bytes(digits.get(digits.len() - used..).unwrap_or(&[]));
        self.bytes(b"\n");
    }
}

impl core::fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}
