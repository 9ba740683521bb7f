//! Blocks of weights as ggml stores them, back to numbers (the layouts are those of ggml's `ggml-quants.c`).
//!
//! Products are taken in ggml's order, so that the values are those that llama.cpp computes with, bit for bit.

use super::kind::Kind;
use half::f16;

/// Decodes whole blocks of a type that has its scales in its blocks: all but [`Kind::I2_S`].
pub fn floats(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    let (weights, length) = kind.block();
    let blocks = bytes.chunks_exact(length as usize);
    for (block, out) in blocks.zip(out.chunks_exact_mut(weights as usize)) {
        decode(kind, block, out);
    }
}

fn decode(kind: Kind, block: &[u8], out: &mut [f32]) {
    match kind {
        Kind::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        Kind::F16 => out[0] = half(block),
        Kind::Bf16 => {
            out[0] = f32::from_bits(u32::from(u16::from_le_bytes([block[0], block[1]])) << 16)
        }
        Kind::Q4_0 => nibbles(&block[2..], out, |_, q| half(block) * (f32::from(q) - 8.0)),
        Kind::Q4_1 => nibbles(&block[4..], out, |_, q| {
            half(block) * f32::from(q) + half(&block[2..])
        }),
        Kind::Q5_0 => nibbles(&block[6..], out, |i, q| {
            half(block) * (f32::from(q | fifth_bit(&block[2..], i)) - 16.0)
        }),
        Kind::Q5_1 => nibbles(&block[8..], out, |i, q| {
            half(block) * f32::from(q | fifth_bit(&block[4..], i)) + half(&block[2..])
        }),
        Kind::Q8_0 => {
            let codes = block[2..].iter();
            let pairs = out.iter_mut().zip(codes);
            pairs.for_each(|(out, &q)| *out = half(block) * f32::from(q as i8));
        }
        Kind::Q2_K => q2_k(block, out),
        Kind::Q4_K => q4_k(block, &block[16..], out, |_, _| 0),
        Kind::Q5_K => q4_k(block, &block[48..], out, |part, i| {
            (block[16 + i] >> part & 1) << 4
        }),
        Kind::Q6_K => q6_k(block, out),
        Kind::Tq1_0 | Kind::Tq2_0 => {
            let mut weights = [0; 256];
            trits(kind, block, &mut weights);
            let scale = scale(kind, block);
            let pairs = out.iter_mut().zip(weights);
            pairs.for_each(|(out, weight)| *out = scale * f32::from(weight));
        }
        Kind::I2_S => unreachable!("its scale is not in its blocks"),
    }
}

/// Decodes whole blocks of a ternary type to weights, without their scales.
pub fn trits(kind: Kind, bytes: &[u8], out: &mut [i8]) {
    let (weights, length) = kind.block();
    let blocks = bytes.chunks_exact(length as usize);
    for (block, out) in blocks.zip(out.chunks_exact_mut(weights as usize)) {
        match kind {
            Kind::Tq1_0 => tq1_0(block, out),
            Kind::Tq2_0 => {
                planes(&block[..32], &mut out[..128], UPWARDS);
                planes(&block[32..64], &mut out[128..], UPWARDS);
            }
            _ => planes(block, out, DOWNWARDS),
        }
    }
}

/// Decodes blocks of [`Kind::I2_S`] as that type's quantiser on ARM writes them: 64 weights in 16 bytes.
pub fn trits_of_arm(bytes: &[u8], out: &mut [i8]) {
    for (block, out) in bytes.chunks_exact(16).zip(out.chunks_exact_mut(64)) {
        planes(block, out, DOWNWARDS);
    }
}

/// The scale of a block of [`Kind::Tq1_0`] or [`Kind::Tq2_0`].
pub fn scale(kind: Kind, block: &[u8]) -> f32 {
    half(&block[kind.block().1 as usize - 2..])
}

/// Bits at which the planes of a byte stand.
const UPWARDS: [u32; 4] = [0, 2, 4, 6];
const DOWNWARDS: [u32; 4] = [6, 4, 2, 0];

/// Plane by plane over all bytes: two bits a weight, weight + 1.
fn planes(bytes: &[u8], out: &mut [i8], shifts: [u32; 4]) {
    for (out, shift) in out.chunks_exact_mut(bytes.len()).zip(shifts) {
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = (byte >> shift & 3) as i8 - 1;
        }
    }
}

/// Base 3, the most significant digit first, as the digits of a fraction of 256: 32 and 16 bytes of five digits, then
/// four of four.
fn tq1_0(block: &[u8], out: &mut [i8]) {
    let (first, rest) = out.split_at_mut(160);
    let (second, third) = rest.split_at_mut(80);
    for (bytes, out) in [
        (&block[..32], first),
        (&block[32..48], second),
        (&block[48..52], third),
    ] {
        for (out, power) in out.chunks_exact_mut(bytes.len()).zip([1u8, 3, 9, 27, 81]) {
            for (out, byte) in out.iter_mut().zip(bytes) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *out = digit as i8 - 1;
            }
        }
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// 32 weights, of which the first 16 are the low halves of the bytes.
fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    for (i, byte) in bytes.iter().enumerate() {
        out[i] = value(i, byte & 15);
        out[i + 16] = value(i + 16, byte >> 4);
    }
}

/// Bit `i` of four bytes, where a code has its fifth bit.
fn fifth_bit(bits: &[u8], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

/// Sixteen parts of 16 weights, each with a scale and a minimum of four bits.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half(&block[80..]), half(&block[82..]));
    for (part, out) in out.chunks_exact_mut(16).enumerate() {
        let factor = scale * f32::from(block[part] & 15);
        let less = minimum * f32::from(block[part] >> 4);
        let bytes = &block[16 + part / 8 * 32 + part % 2 * 16..][..16];
        let shift = part / 2 % 4 * 2;
        let pairs = out.iter_mut().zip(bytes);
        pairs.for_each(|(out, byte)| *out = factor * f32::from(byte >> shift & 3) - less);
    }
}

/// Eight parts of 32 weights, each with a scale and a minimum of six bits; `fifth` gives a code's fifth bit.
fn q4_k(block: &[u8], codes: &[u8], out: &mut [f32], fifth: impl Fn(usize, usize) -> u8) {
    let (scale, minimum) = (half(block), half(&block[2..]));
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let (factor, less) = six_bits(&block[4..16], part);
        let (factor, less) = (scale * f32::from(factor), minimum * f32::from(less));
        let bytes = &codes[part / 2 * 32..][..32];
        for (i, (out, byte)) in out.iter_mut().zip(bytes).enumerate() {
            let code = byte >> (part % 2 * 4) & 15 | fifth(part, i);
            *out = factor * f32::from(code) - less;
        }
    }
}

/// Scale and minimum of a part: of the first four in six bits of a byte, of the others in four bits of a byte and the
/// two that the first ones leave.
fn six_bits(packed: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        return (packed[part] & 63, packed[part + 4] & 63);
    }
    let both = packed[part + 4];
    (
        both & 15 | packed[part - 4] >> 6 << 4,
        both >> 4 | packed[part] >> 6 << 4,
    )
}

/// Sixteen parts of 16 weights, each with a scale of eight bits; codes of four and two bits.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let scale = half(&block[208..]);
    for (part, out) in out.chunks_exact_mut(16).enumerate() {
        let factor = scale * f32::from(block[192 + part] as i8);
        // a half of 128 weights is four rows of 32: low nibbles of 64 bytes, then high ones
        let (half, row, at) = (part / 8, part % 8 / 2, part % 2 * 16);
        let low = &block[half * 64 + row % 2 * 32 + at..][..16];
        let high = &block[128 + half * 32 + at..][..16];
        for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
            let code = low >> (row / 2 * 4) & 15 | (high >> (row * 2) & 3) << 4;
            *out = factor * (f32::from(code) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests;
