//! Any bytes as a tokenizer section, any text through it; and valid tokenizers, whose texts come back.

use bitttt_core::Tokenizer;
use bitttt_export::Vocabulary;

/// The first two bytes say where the section ends and the text begins.
pub fn run(data: &[u8]) {
    let Some((&[low, high], data)) = data.split_first_chunk() else {
        return;
    };
    let end = usize::from(u16::from_le_bytes([low, high])).min(data.len());
    let (section, text) = data.split_at(end);
    if let Ok(tokenizer) = Tokenizer::parse(section, 1 << 24) {
        use_it(&tokenizer, text);
    }
    trained(section, text);
}

/// Encodes and decodes; more tokens than bytes there are never.
pub fn use_it(tokenizer: &Tokenizer<'_>, text: &[u8]) {
    let mut ids = vec![0; text.len()];
    let used = tokenizer
        .encode(text, &mut ids)
        .expect("a place a byte is enough");
    for &id in ids[..used].iter().chain(&[0, 1, u32::MAX]) {
        let _ = tokenizer.decode(id);
    }
    if let Some(short) = ids.len().checked_sub(1) {
        let _ = tokenizer.encode(text, &mut ids[..short]);
    }
}

/// Merges out of the bytes: decoding is the way back from what they encode.
fn trained(merges: &[u8], text: &[u8]) {
    let mut vocabulary = Vocabulary::bytes();
    for pair in merges.chunks_exact(2).take(64) {
        let known = vocabulary.tokens.len();
        let [left, right] = [pair[0], pair[1]].map(|id| usize::from(id) % known);
        let bytes = [&vocabulary.tokens[left][..], &vocabulary.tokens[right]].concat();
        if left == 0 || right == 0 || vocabulary.tokens.contains(&bytes) {
            continue;
        }
        vocabulary.tokens.push(bytes);
        vocabulary.merges.push((left as u32, right as u32));
    }
    let section = vocabulary
        .section()
        .expect("a valid vocabulary has a section");
    let core = Tokenizer::parse(&section, 1 << 24).expect("what the exporter writes is read");
    let mut ids = vec![0; text.len()];
    let used = core
        .encode(text, &mut ids)
        .expect("a place a byte is enough");
    let decoded: Vec<u8> = ids[..used]
        .iter()
        .flat_map(|&id| core.decode(id))
        .copied()
        .collect();
    assert_eq!(decoded, text);
}
