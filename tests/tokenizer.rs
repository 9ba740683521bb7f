//! The core's tokenizer against the one that trained it.

use bitttt::corpus::Corpus;
use bitttt::engine::export::vocabulary;
use bitttt::tokenizer::{SEPARATOR, Tokenizer};
use bitttt_core::Tokenizer as CoreTokenizer;
use proptest::prelude::*;
use std::sync::LazyLock;

struct Both {
    trained: Tokenizer,
    section: Vec<u8>,
}

static BOTH: LazyLock<Both> = LazyLock::new(|| {
    let corpus = Corpus::generate(60_000, 7).text;
    let mixed = format!("{corpus} 日本語のテキスト、日本語の文。 x1 x2 12345 == != -> \n\n\t tabs  and   spaces 🙂🙂").repeat(3);
    let trained = Tokenizer::train(mixed.split(SEPARATOR), 600).unwrap();
    let section = vocabulary(&trained).section().unwrap();
    Both { trained, section }
});

fn core_ids(text: &str) -> Vec<u32> {
    let tokenizer = CoreTokenizer::parse(&BOTH.section, 600).unwrap();
    let mut ids = vec![0; text.len()];
    let len = tokenizer.encode(text.as_bytes(), &mut ids).unwrap();
    ids.truncate(len);
    let bytes: Vec<u8> = ids
        .iter()
        .flat_map(|&id| tokenizer.decode(id))
        .copied()
        .collect();
    assert_eq!(bytes, text.as_bytes(), "decoding gives the text back");
    ids
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn core_and_trainer_cut_any_text_into_the_same_tokens(text in "\\PC{0,80}|[ a-cA-C0-2\\n\\t.,日本é🙂]{0,300}") {
        prop_assert_eq!(core_ids(&text), BOTH.trained.encode(&text).unwrap());
    }
}

#[test]
fn runs_longer_than_a_piece_are_cut_alike() {
    for (unit, tail) in [
        ("a", " b"),
        (" ", "b"),
        ("\n", " b"),
        ("é", "1"),
        ("7", ""),
        ("-", " -"),
        ("  \n", "x"),
    ] {
        for count in [1, 2, 63, 64, 65, 66, 127, 128, 129, 200] {
            let text = format!("start {}{tail}", unit.repeat(count));
            assert_eq!(
                core_ids(&text),
                BOTH.trained.encode(&text).unwrap(),
                "{count} times {unit:?}"
            );
        }
    }
}

#[test]
fn prose_is_cut_alike_and_compressed() {
    let text = Corpus::generate(20_000, 8).text.replace(SEPARATOR, "");
    let ids = core_ids(&text);
    assert_eq!(ids, BOTH.trained.encode(&text).unwrap());
    assert!(
        ids.len() * 2 < text.len(),
        "{} tokens for {} bytes",
        ids.len(),
        text.len()
    );
}

#[test]
fn a_buffer_that_is_too_short_is_refused() {
    let tokenizer = CoreTokenizer::parse(&BOTH.section, 600).unwrap();
    assert!(tokenizer.encode(b"two words", &mut [0; 3]).is_err());
}

#[test]
fn an_alphabet_in_a_blob_takes_a_byte_a_letter_and_encodes_as_in_training() {
    let trained = Tokenizer::alphabet(&(b' '..=b'z').collect()).unwrap();
    let section = vocabulary(&trained).section().unwrap();
    assert_eq!(section.len(), 16 + 91);
    let core = CoreTokenizer::parse(&section, 93).unwrap();
    assert_eq!(core.tokens() as usize, trained.vocab_size());
    let text = "A line\nof 日本.";
    let mut ids = vec![0; text.len()];
    let len = core.encode(text.as_bytes(), &mut ids).unwrap();
    assert_eq!(ids[..len], trained.encode(text).unwrap());
    let decoded = ids[..len].iter().flat_map(|id| core.decode(*id)).copied();
    assert_eq!(decoded.collect::<Vec<u8>>(), trained.decode(&ids[..len]));
    assert_eq!(core.decode(0), b"");
    assert_eq!(core.decode(93), b"");
}

#[test]
fn a_damaged_alphabet_is_refused_by_the_name_of_its_field() {
    let trained = Tokenizer::alphabet(&(b'a'..=b'z').collect()).unwrap();
    let section = vocabulary(&trained).section().unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = section.clone();
        bytes[at] = value;
        bytes
    };
    let refused = |bytes: &[u8]| CoreTokenizer::parse(bytes, 28).unwrap_err().to_string();
    for (bytes, field) in [
        (with(0, 27), "tokens"),
        (with(4, 1), "merges"),
        (with(8, 27), "length"),
        (with(12, 2), "flags"),
        (with(16, b'b'), "alphabet"),
        (section[..41].to_vec(), "length"),
    ] {
        assert!(
            refused(&bytes).contains(field),
            "{field}: {}",
            refused(&bytes)
        );
    }
}
