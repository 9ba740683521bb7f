//! Types of tensors in GGUF files: how many weights a block has and how many bytes it takes.

/// A type that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Kind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Tq1_0,
    Tq2_0,
    /// Of Microsoft's fork: two bits a weight and one f32 scale for the tensor, behind the weights.
    I2_S,
}

/// Bytes behind the weights of an [`Kind::I2_S`] tensor, of which the first four are the scale.
pub const I2_S_TAIL: u64 = 32;

/// What is known of a type: code in files, ggml's name, weights and bytes of a block.
type Known = (u32, &'static str, u64, u64);

impl Kind {
    /// All that are read.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Tq1_0,
        Self::Tq2_0,
        Self::I2_S,
    ];

    const fn known(self) -> Known {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::Bf16 => (30, "BF16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q2_K => (10, "Q2_K", 256, 84),
            Self::Q4_K => (12, "Q4_K", 256, 144),
            Self::Q5_K => (13, "Q5_K", 256, 176),
            Self::Q6_K => (14, "Q6_K", 256, 210),
            Self::Tq1_0 => (34, "TQ1_0", 256, 54),
            Self::Tq2_0 => (35, "TQ2_0", 256, 66),
            Self::I2_S => (36, "I2_S", 128, 32),
        }
    }

    /// The type of this code in a tensor table.
    pub fn of(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.known().0 == code)
    }

    /// ggml's name.
    pub const fn name(self) -> &'static str {
        self.known().1
    }

    /// Weights of a block, and bytes that it takes.
    pub const fn block(self) -> (u64, u64) {
        (self.known().2, self.known().3)
    }

    /// Weights that rows must be a multiple of. Blocks of [`Self::I2_S`] go over the ends of rows.
    pub const fn row_block(self) -> u64 {
        match self {
            Self::I2_S => 1,
            kind => kind.block().0,
        }
    }

    /// Bytes of a tensor; `None`: its weights are no whole number of blocks, or the number overflows.
    pub fn bytes(self, rows: u64, cols: u64) -> Option<u64> {
        let (weights, bytes) = self.block();
        let all = rows.checked_mul(cols)?;
        if !cols.is_multiple_of(self.row_block()) || !all.is_multiple_of(weights) {
            return None;
        }
        let tail = if self == Self::I2_S { I2_S_TAIL } else { 0 };
        (all / weights).checked_mul(bytes)?.checked_add(tail)
    }
}

/// Names of types that are not read, for errors; the code where it has no name here.
pub fn foreign_name(code: u32) -> String {
    let name = match code {
        9 => "Q8_1",
        11 => "Q3_K",
        15 => "Q8_K",
        16..=18 => "an IQ2 or IQ3 type",
        19 | 29 => "an IQ1 type",
        20 | 23 => "an IQ4 type",
        21 | 22 => "an IQ3 or IQ2 type",
        24..=27 => "an integer type",
        28 => "F64",
        38 | 39 => "TL1, TL2 or MXFP4",
        _ => return format!("type {code}"),
    };
    format!("type {code} ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_lead_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.known().0), Some(kind));
        }
        assert_eq!(Kind::of(4), None);
    }

    #[test]
    fn sizes_are_of_whole_blocks() {
        assert_eq!(Kind::Tq2_0.bytes(3, 512), Some(3 * 2 * 66));
        assert_eq!(Kind::Tq2_0.bytes(4, 128), None);
        assert_eq!(Kind::F16.bytes(3, 7), Some(42));
        assert_eq!(Kind::I2_S.bytes(4, 96), Some(96 + 32));
        assert_eq!(Kind::I2_S.bytes(3, 96), None);
        assert_eq!(Kind::F32.bytes(u64::MAX, 2), None);
        assert_eq!(Kind::F32.bytes(1 << 62, 1), None);
    }
}
