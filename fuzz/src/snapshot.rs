//! Any bytes as a snapshot, onto sessions of every kind of layer.

use crate::models::{layers, memory, tiny_blob};
use bitttt_core::format::DType;
use bitttt_core::snapshot::{HEADER_BYTES, MAGIC, VERSION, field};
use bitttt_core::{Batch, Crc32, Model, Session};
use bitttt_export::AlignedCopy;
use std::sync::OnceLock;

/// The first byte chooses the model, the rest is restored, as it is and with header and checksum mended.
pub fn run(data: &[u8]) {
    static BLOBS: OnceLock<Vec<AlignedCopy>> = OnceLock::new();
    let blobs = BLOBS.get_or_init(|| {
        (0..layers().len())
            .map(|l| tiny_blob(l, DType::T2))
            .collect()
    });
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let blob = &blobs[usize::from(choice) % blobs.len()];
    let model = Model::from_bytes(blob.bytes()).expect("a tiny model is valid");
    let mut memory = memory(&model, Batch::ONE).expect("a tiny model is small");
    let mut session = Session::new(model, Batch::ONE, &mut memory).expect("enough memory");
    session
        .prefill(&[0, 5, 9])
        .expect("tokens of the vocabulary");
    let wanted = session.state().len();
    for snapshot in [data.to_vec(), mended(data, model.fingerprint(), wanted)] {
        let before = (session.state_hash(), session.position());
        match session.restore(&snapshot) {
            Ok(()) => {
                assert!(
                    session
                        .state()
                        .iter()
                        .all(|x| x.is_finite() || is_halves(&model))
                );
                let _ = session.prefill(&[1, 2, 3, 4, 5]);
                let mut again = vec![0; HEADER_BYTES + 4 * wanted];
                session.snapshot(&mut again).expect("room for it");
            }
            Err(_) => assert_eq!(before, (session.state_hash(), session.position())),
        }
    }
}

/// Keys and values are halves, two to a word: a word's own value means nothing.
fn is_halves(model: &Model<'_>) -> bool {
    let layer = model.layer_config(0).expect("one layer");
    layer.needs_context()
}

/// The bytes as state and position behind a header that fits, as long as the session's state.
fn mended(data: &[u8], fingerprint: u32, words: usize) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES + 4 * words];
    let (header, state) = bytes.split_at_mut(HEADER_BYTES);
    let (position, values) = data.split_at(data.len().min(8));
    header[field::MAGIC..][..4].copy_from_slice(&MAGIC);
    header[field::VERSION..][..2].copy_from_slice(&VERSION.to_le_bytes());
    header[field::MODEL..][..4].copy_from_slice(&fingerprint.to_le_bytes());
    header[field::WORDS..][..4].copy_from_slice(&(words as u32).to_le_bytes());
    header[field::POSITION..][..position.len()].copy_from_slice(position);
    let repeated = values.iter().cycle();
    state
        .iter_mut()
        .zip(repeated)
        .for_each(|(to, from)| *to = *from);
    let mut digest = Crc32::new();
    digest.update(&header[..field::CRC]);
    digest.update(state);
    let crc = digest.finalize();
    bytes[field::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}
