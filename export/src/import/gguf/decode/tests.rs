use super::*;
use crate::import::Rows;
use crate::import::gguf::I2sLayout;
use crate::import::gguf::file::Gguf;
use crate::import::gguf::ternary::{Signs, Values};
use std::path::Path;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/import/gguf");

fn blocks() -> Gguf {
    Gguf::open(&Path::new(FOLDER).join("blocks.gguf")).unwrap()
}

fn all<T: Clone + Default>(rows: &dyn Rows<T>, count: u64) -> Vec<T> {
    let mut all = vec![T::default(); count as usize * rows.cols()];
    rows.read(0, &mut all).unwrap();
    all
}

/// `blocks.gguf` has every type beside the values that the Python package `gguf` reads in it.
#[test]
fn blocks_of_every_type_have_the_values_that_another_reader_finds_bit_for_bit() {
    let file = blocks();
    let mut read = 0;
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::I2_S) {
        let stored = file.tensor(kind.name()).unwrap();
        assert_eq!(stored.kind, kind);
        let expected = file.tensor(&format!("{}.values", kind.name())).unwrap();
        assert_eq!((stored.rows, stored.cols), (expected.rows, expected.cols));
        let values = |stored| Values::new(&file, stored, I2sLayout::X86).unwrap();
        let bits = |stored| {
            all(&values(stored), 2)
                .iter()
                .map(|x| x.to_bits())
                .collect()
        };
        let (found, expected): (Vec<u32>, Vec<u32>) = (bits(stored), bits(expected));
        // zeros of either sign are the same number
        let equal = |(a, b): (&u32, &u32)| a == b || (a | b) << 1 == 0;
        assert!(found.iter().zip(&expected).all(equal), "{}", kind.name());
        read += 1;
    }
    assert_eq!(read, Kind::ALL.len() - 1);
}

#[test]
fn signs_are_those_of_the_values() {
    let file = blocks();
    for kind in [Kind::Tq1_0, Kind::Tq2_0] {
        let stored = file.tensor(kind.name()).unwrap();
        let values = Values::new(&file, stored, I2sLayout::X86).unwrap();
        let mut signs = all(&Signs(values), 2);
        let block = |row: usize, at: usize| row * 512 + at * 256..row * 512 + (at + 1) * 256;
        let mut row = vec![0u8; stored.bytes as usize];
        file.read(stored.offset, &mut row).unwrap();
        let bytes = kind.block().1 as usize;
        for (index, encoded) in row.chunks(bytes).enumerate() {
            if scale(kind, encoded) < 0.0 {
                let part = &mut signs[block(index / 2, index % 2)];
                part.iter_mut().for_each(|sign| *sign = -*sign);
            }
        }
        let expected = all(&values, 2);
        let expected = expected
            .iter()
            .map(|&x| i8::from(x > 0.0) - i8::from(x < 0.0));
        assert!(signs.into_iter().eq(expected), "{}", kind.name());
    }
}

/// One matrix of 8 x 512 weights, in the bytes of each type's own quantiser.
#[test]
fn every_ternary_type_gives_the_same_weights_and_i2_s_those_of_the_machine_that_made_it() {
    let read = |name| std::fs::read(format!("{FOLDER}/ternary_pack/{name}.bin")).unwrap();
    let expected: Vec<i8> = read("ternary").iter().map(|&byte| byte as i8).collect();
    let mut found = vec![9; expected.len()];
    for (kind, name) in [(Kind::Tq1_0, "TQ1_0"), (Kind::Tq2_0, "TQ2_0")] {
        let bytes = read(name);
        trits(kind, &bytes, &mut found);
        assert_eq!(found, expected, "{name}");
        let blocks = bytes.chunks(kind.block().1 as usize);
        assert!(blocks.into_iter().all(|block| scale(kind, block) == 0.8125));
    }
    let (x86, arm) = (read("I2_S_x86_128"), read("I2_S_arm_64"));
    assert_eq!(x86[1024..1028], 0.8125f32.to_le_bytes());
    trits(Kind::I2_S, &x86[..1024], &mut found);
    assert_eq!(found, expected);
    trits_of_arm(&arm[..1024], &mut found);
    assert_eq!(found, expected);
    trits(Kind::I2_S, &arm[..1024], &mut found);
    assert_ne!(found, expected);
}
