//! The two devices of QEMU's `virt` machine that the firmware talks to: a serial port and a switch that ends the emulation.

use core::fmt;

/// Registers of the 16550 serial port: data, line status.
const DATA: *mut u8 = 0x1000_0000 as *mut u8;
const STATUS: *const u8 = 0x1000_0005 as *const u8;
/// Status: the port takes another byte.
const READY: u8 = 1 << 5;

/// The switch, and what it takes.
const SWITCH: *mut u32 = 0x0010_0000 as *mut u32;
const PASS: u32 = 0x5555;
const FAIL: u32 = 1 << 16 | 0x3333;

/// The serial port.
pub struct Serial;

impl Serial {
    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // SAFETY: registers of the machine that the memory map is of; reading and writing them is how it is used.
            unsafe {
                while STATUS.read_volatile() & READY == 0 {}
                DATA.write_volatile(byte);
            }
        }
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.send(text.as_bytes());
        Ok(())
    }
}

/// Ends the emulation.
pub fn exit(success: bool) -> ! {
    // SAFETY: as above.
    unsafe { SWITCH.write_volatile(if success { PASS } else { FAIL }) };
    loop {
        riscv::asm::wfi();
    }
}
