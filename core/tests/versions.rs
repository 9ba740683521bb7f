//! Blobs and snapshots made by earlier commits, one for what each version of the format brought: they load, and what the
//! commit computed is what this one computes. `versions/README.md` says how they were made.

use bitttt_core::{Backend, Batch, Model, Session, crc32};
use bitttt_export::AlignedCopy;

/// What each of them reads, behind its document token.
const TEXT: &[u8] = b"Ada met Ben. Ada met 12 men.";

/// A model, what its maker learned with it and what came out.
struct Made {
    name: &'static str,
    version: (u16, u16),
    blob: &'static [u8],
    state: &'static [u8],
    expected: &'static [u8],
    /// Largest difference to the maker's logits. Not 0 only where the maker computed rotary angles in double precision,
    /// as commits before 4367d7b did.
    within: f32,
    /// CRC-32 of today's logits.
    logits: u32,
}

macro_rules! made {
    ($name:literal, $version:expr, $within:expr, $logits:expr) => {
        Made {
            name: $name,
            version: $version,
            blob: include_bytes!(concat!("versions/", $name, ".bttt")),
            state: include_bytes!(concat!("versions/", $name, ".state")),
            expected: include_bytes!(concat!("versions/", $name, ".expected")),
            within: $within,
            logits: $logits,
        }
    };
}

const MADE: &[Made] = &[
    made!("1.0-t2", (1, 0), 4e-6, 0x286e1578),
    made!("1.0-t5-merges", (1, 0), 0.0, 0x5e506257),
    made!("1.1-ttt", (1, 1), 4e-6, 0x7af563b6),
    made!("1.1-attention", (1, 1), 4e-6, 0xb676ea7f),
    made!("1.1-window-f16", (1, 1), 4e-6, 0x87b4bc9b),
    made!("1.2-alphabet-t5-63755d2", (1, 2), 4e-6, 0xa1d13638),
    made!("1.2-compact-i8-63755d2", (1, 2), 4e-6, 0x7e980b84),
    made!("1.2-alphabet-t5-741e7c2", (1, 2), 0.0, 0xa1d13638),
    made!("1.2-compact-i8-741e7c2", (1, 2), 0.0, 0x7e980b84),
    made!("1.3-imported", (1, 3), 0.0, 0xe9d9ee57),
    made!("1.3-t2-row-scales", (1, 3), 0.0, 0x141b1e54),
];

impl Made {
    /// Tokens, how many of them came before the snapshot, and the logits after the others.
    fn expected(&self) -> (Vec<u32>, usize, Vec<f32>) {
        let words: Vec<u32> = self
            .expected
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect();
        let (tokens, logits) = words[2..].split_at(words[0] as usize);
        let logits = logits.iter().copied().map(f32::from_bits).collect();
        (tokens.to_vec(), words[1] as usize, logits)
    }
}

/// Logits after each of the tokens.
fn read(session: &mut Session<'_, '_>, tokens: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut keep = |_: usize, logits: &mut [f32]| all.extend_from_slice(logits);
    session.prefill_with(tokens, &mut keep).unwrap();
    all
}

fn hash(logits: &[f32]) -> u32 {
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    crc32(&bytes)
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

/// On every backend: the largest difference to the maker's logits, and the hash of today's.
fn come_to(made: &Made) -> (f32, u32) {
    let blob = AlignedCopy::of(made.blob);
    let model = Model::from_bytes(blob.bytes()).unwrap();
    assert_eq!(model.layout().version(), made.version, "{}", made.name);
    model.verify().unwrap();
    let (tokens, saved, expected) = made.expected();
    let mut ids = vec![model.config().document_token; 64];
    let used = model.tokenizer().unwrap().encode(TEXT, &mut ids[1..]);
    assert_eq!(ids[..=used.unwrap()], tokens, "{}", made.name);
    let runs = Backend::all().map(|backend| {
        let batch = Batch::new(3);
        let mut memory = vec![f32::NAN; model.memory(batch).words()];
        let mut session = Session::with_backend(model, batch, &mut memory, backend).unwrap();
        read(&mut session, &tokens[..saved]);
        let through = read(&mut session, &tokens[saved..]);
        session.reset();
        session.restore(made.state).unwrap();
        let restored = read(&mut session, &tokens[saved..]);
        let apart = furthest(&through, &expected).max(furthest(&restored, &expected));
        (apart, hash(&through))
    });
    let runs: Vec<_> = runs.collect();
    assert!(runs.iter().all(|run| *run == runs[0]), "{}", made.name);
    runs[0]
}

/// The constants are a test's own: where it fails after a wanted change of the numbers, it shows those to put above.
#[test]
fn blobs_and_snapshots_of_earlier_commits_come_to_what_they_came_to_then() {
    let found = MADE.iter().map(|made| (made, come_to(made)));
    let wrong =
        found.filter(|(made, (apart, logits))| *apart > made.within || *logits != made.logits);
    let wrong: Vec<_> = wrong
        .map(|(made, (apart, logits))| format!("{}: {apart:e}, {logits:#010x}", made.name))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
