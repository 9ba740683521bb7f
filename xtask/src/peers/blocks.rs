//! Blocks of weights as ggml stores them, filled at random.
//!
//! Every ternary block holds {-s, 0, s} and nothing else: a type that needs more than two bits a weight stores the
//! same matrix, so that types differ in speed alone. Positions within a block are not followed: the weights are
//! random, any order of them is as good.

/// A tensor type of GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Quant {
    F32,
    Tq1_0,
    Tq2_0,
    Q2_K,
    Q4_0,
    Q4_K,
    Mxfp4,
    /// For embedding and head, which are not ternary.
    Q6_K,
}

/// 2^-5 as an IEEE half: with it random activations stay far from the limits of every type.
const SCALE: [u8; 2] = 0x2800_u16.to_le_bytes();

impl Quant {
    /// The types that can hold ternary weights exactly and have kernels for x86 (Q2_0 has none: a tenth of the speed).
    pub const TERNARY: [Self; 6] = [
        Self::Tq2_0,
        Self::Tq1_0,
        Self::Q4_0,
        Self::Q2_K,
        Self::Q4_K,
        Self::Mxfp4,
    ];

    /// ggml's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Tq1_0 => "TQ1_0",
            Self::Tq2_0 => "TQ2_0",
            Self::Q2_K => "Q2_K",
            Self::Q4_0 => "Q4_0",
            Self::Q4_K => "Q4_K",
            Self::Mxfp4 => "MXFP4",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Number of the type in a file's tensor table.
    pub const fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q4_0 => 2,
            Self::Q2_K => 10,
            Self::Q4_K => 12,
            Self::Q6_K => 14,
            Self::Tq1_0 => 34,
            Self::Tq2_0 => 35,
            Self::Mxfp4 => 39,
        }
    }

    /// Weights in a block, and bytes that it takes.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::Q4_0 => (32, 18),
            Self::Mxfp4 => (32, 17),
            Self::Tq1_0 => (256, 54),
            Self::Tq2_0 => (256, 66),
            Self::Q2_K => (256, 84),
            Self::Q4_K => (256, 144),
            Self::Q6_K => (256, 210),
        }
    }

    /// Bytes of `weights` weights, a multiple of the block.
    pub const fn bytes(self, weights: usize) -> usize {
        let (len, bytes) = self.block();
        weights / len * bytes
    }

    /// One more block, random but legal; [`Self::F32`] is the scale of a norm, one.
    pub fn push_block(self, random: &mut Random, out: &mut Vec<u8>) {
        let (len, _) = self.block();
        let mut codes =
            |per_byte, code: fn(u8) -> u8| packed(random, len / per_byte, per_byte, code);
        match self {
            Self::F32 => out.extend(1.0_f32.to_le_bytes()),
            Self::Q4_0 => out.extend(join(&[&SCALE, &codes(2, |trit| trit + 7)])),
            // Four-bit floats: 1 is 1/2, 9 is -1/2; the first byte is the scale, a power of two.
            Self::Mxfp4 => out.extend(join(&[
                &[123],
                &codes(2, |trit| [9, 0, 1][trit as usize % 3]),
            ])),
            Self::Tq2_0 => out.extend(join(&[&codes(4, |trit| trit), &SCALE])),
            Self::Tq1_0 => {
                // 240 weights five to a byte, then 16 four to a byte.
                (0..48).for_each(|_| out.push(random.base3(5)));
                (0..4).for_each(|_| out.push(random.base3(4)));
                out.extend(SCALE);
            }
            // Code times scale less minimum, both 1 times the block's: the code less one.
            Self::Q2_K => out.extend(join(&[&[0x11; 16], &codes(4, |trit| trit), &SCALE, &SCALE])),
            Self::Q4_K => {
                // Eight scales and eight minimums of six bits, all 1.
                let ones = [1, 1, 1, 1, 1, 1, 1, 1, 0x11, 0x11, 0x11, 0x11];
                out.extend(join(&[&SCALE, &SCALE, &ones, &codes(2, |trit| trit)]));
            }
            Self::Q6_K => {
                (0..192).for_each(|_| out.push(random.byte()));
                out.extend([1; 16]);
                out.extend(0x1800_u16.to_le_bytes()); // 2^-9
            }
        }
    }
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// `bytes` bytes of `per_byte` codes of random trits each.
fn packed(random: &mut Random, bytes: usize, per_byte: usize, code: fn(u8) -> u8) -> Vec<u8> {
    let width = 8 / per_byte;
    let byte = |random: &mut Random| {
        (0..per_byte).fold(0, |byte, i| byte | code(random.trit()) << (i * width))
    };
    (0..bytes).map(|_| byte(random)).collect()
}

/// A small generator (SplitMix64): the same weights at every run.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    /// 0, 1 or 2.
    fn trit(&mut self) -> u8 {
        (self.next() % 3) as u8
    }

    /// `count` trits as TQ1_0 packs them: the digits of a fraction of 256, so that digits come out by multiplying.
    fn base3(&mut self, count: u32) -> u8 {
        let digits = (0..count).fold(0, |number, _| number * 3 + u16::from(self.trit()));
        let number = digits * 3_u16.pow(5 - count);
        (number * 256).div_ceil(243) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(quant: Quant) -> Vec<u8> {
        let mut out = Vec::new();
        let mut random = Random(1);
        (0..50).for_each(|_| quant.push_block(&mut random, &mut out));
        out
    }

    /// The distinct weights that a reader of the type sees, in units of its smallest.
    fn levels(quant: Quant, block: &[u8]) -> Vec<i32> {
        let two_bits = |bytes: &[u8]| -> Vec<i32> {
            let code = |byte: u8, i: u32| i32::from((byte >> (2 * i)) & 3) - 1;
            bytes
                .iter()
                .flat_map(|&byte| (0..4).map(move |i| code(byte, i)))
                .collect()
        };
        let nibbles = |bytes: &[u8], level: fn(u8) -> i32| -> Vec<i32> {
            bytes
                .iter()
                .flat_map(|&byte| [level(byte & 15), level(byte >> 4)])
                .collect()
        };
        let base3 = |bytes: &[u8], count: u32| -> Vec<i32> {
            let digit = |byte: u8, i: u32| {
                let rest = byte.wrapping_mul(3_u8.pow(i));
                i32::from((u16::from(rest) * 3) >> 8) - 1
            };
            bytes
                .iter()
                .flat_map(|&byte| (0..count).map(move |i| digit(byte, i)))
                .collect()
        };
        match quant {
            Quant::Q4_0 => nibbles(&block[2..], |code| i32::from(code) - 8),
            Quant::Mxfp4 => nibbles(&block[1..], |code| {
                [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12][usize::from(code)]
            }),
            Quant::Tq2_0 => two_bits(&block[..64]),
            Quant::Q2_K => two_bits(&block[16..80]),
            Quant::Q4_K => nibbles(&block[16..], |code| i32::from(code) - 1),
            Quant::Tq1_0 => [base3(&block[..48], 5), base3(&block[48..52], 4)].concat(),
            Quant::F32 | Quant::Q6_K => unreachable!("not ternary"),
        }
    }

    #[test]
    fn blocks_have_the_size_of_their_type() {
        for quant in Quant::TERNARY.into_iter().chain([Quant::F32, Quant::Q6_K]) {
            let (_, bytes) = quant.block();
            assert_eq!(blocks(quant).len(), 50 * bytes, "{}", quant.name());
        }
    }

    #[test]
    fn every_ternary_type_holds_minus_one_zero_and_one_alone() {
        for quant in Quant::TERNARY {
            let (len, bytes) = quant.block();
            let blocks = blocks(quant);
            let mut seen: Vec<i32> = blocks
                .chunks(bytes)
                .flat_map(|block| levels(quant, block))
                .collect();
            assert_eq!(seen.len(), 50 * len, "{}", quant.name());
            seen.sort_unstable();
            let zeros = seen.iter().filter(|&&level| level == 0).count();
            assert!(
                (zeros * 3).abs_diff(seen.len()) < seen.len() / 5,
                "{}",
                quant.name()
            );
            seen.dedup();
            assert_eq!(seen, [-1, 0, 1], "{}", quant.name());
        }
    }
}
