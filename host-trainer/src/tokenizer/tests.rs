use bitttt_core::tokenizer::next_piece;
use proptest::prelude::*;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

use super::*;

const TEXT: &str =
    "Ada Varga met Bo Kim at the mill. Ada Varga smiled; Bo Kim did not, at 12:30.\n";

fn trained() -> Tokenizer {
    Tokenizer::train([TEXT.repeat(20).as_str()].into_iter(), 290).unwrap()
}

#[test]
fn ids_are_separator_then_bytes_then_merges() {
    let tokenizer = trained();
    assert_eq!(tokenizer.vocab_size(), 257 + tokenizer.merges().len());
    assert_eq!(tokenizer.token_bytes(0), b"");
    for b in 0..=255u8 {
        assert_eq!(tokenizer.token_bytes(u32::from(b) + 1), [b]);
    }
    for (i, (a, b)) in tokenizer.merges().iter().enumerate() {
        let joined = [tokenizer.token_bytes(*a), tokenizer.token_bytes(*b)].concat();
        assert_eq!(tokenizer.token_bytes(257 + i as u32), joined);
    }
}

#[test]
fn the_vocabulary_has_the_asked_size_when_the_text_has_enough_pairs() {
    assert_eq!(trained().vocab_size(), 290);
}

#[test]
fn frequent_words_become_single_tokens() {
    let ids = trained().encode(" Varga").unwrap();
    assert_eq!(ids.len(), 1);
}

#[test]
fn a_saved_tokenizer_encodes_the_same_and_has_the_same_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let tokenizer = trained();
    tokenizer.save(&path).unwrap();
    let again = Tokenizer::load(&path).unwrap();
    assert_eq!(again.encode(TEXT).unwrap(), tokenizer.encode(TEXT).unwrap());
    assert_eq!(again.fingerprint(), tokenizer.fingerprint());
    assert_ne!(again.fingerprint(), Tokenizer::bytes().fingerprint());
}

#[test]
fn the_byte_tokenizer_survives_a_save_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    Tokenizer::bytes().save(&path).unwrap();
    assert_eq!(
        Tokenizer::load(&path).unwrap().encode("é").unwrap(),
        [0xC4, 0xAA]
    );
}

fn letters(text: &str) -> Tokenizer {
    Tokenizer::alphabet(&text.bytes().collect()).unwrap()
}

#[test]
fn an_alphabet_numbers_its_bytes_in_order_and_has_one_token_for_all_others() {
    let tokenizer = letters("cabbage");
    assert_eq!(tokenizer.vocab_size(), 1 + 5 + 1);
    assert_eq!(tokenizer.encode("abz\n").unwrap(), [1, 2, 6, 6]);
    assert_eq!(tokenizer.decode(&[3, 6, 0, 5]), "c\u{FFFD}g".as_bytes());
}

#[test]
fn an_alphabet_of_all_bytes_is_the_byte_tokenizer() {
    let all = Tokenizer::alphabet(&(0..=255).collect()).unwrap();
    assert_eq!(all.vocab_size(), Tokenizer::bytes().vocab_size());
    assert_eq!(all.fingerprint(), Tokenizer::bytes().fingerprint());
}

#[test]
fn a_saved_alphabet_is_the_same_and_differs_from_every_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("letters.json");
    let all_but_one = Tokenizer::alphabet(&(1..=255).collect()).unwrap();
    for tokenizer in [letters(TEXT), all_but_one] {
        tokenizer.save(&path).unwrap();
        let again = Tokenizer::load(&path).unwrap();
        assert_eq!(
            again.encode("Ada \0é").unwrap(),
            tokenizer.encode("Ada \0é").unwrap()
        );
        assert_eq!(again.fingerprint(), tokenizer.fingerprint());
        assert_ne!(again.fingerprint(), Tokenizer::bytes().fingerprint());
    }
    assert_ne!(letters("ab").fingerprint(), letters("ac").fingerprint());
}

#[test]
fn a_foreign_tokenizer_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    trained().save(&path).unwrap();
    let other = std::fs::read_to_string(&path)
        .unwrap()
        .replace("{1,64}", "+");
    std::fs::write(&path, other).unwrap();
    let error = format!("{:#}", Tokenizer::load(&path).err().unwrap());
    assert!(error.contains("pre_tokenizer"), "{error}");
}

#[test]
fn a_vocabulary_below_the_bytes_is_refused() {
    assert!(Tokenizer::train(["a"].into_iter(), 256).is_err());
}

/// Pieces by the regex.
fn by_regex(text: &str) -> Vec<String> {
    let pattern = SplitPattern::Regex(PIECES.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
    let mut pretokenized = PreTokenizedString::from(text);
    split.pre_tokenize(&mut pretokenized).unwrap();
    let splits = pretokenized.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits
        .into_iter()
        .map(|(piece, ..)| piece.to_owned())
        .collect()
}

/// Pieces by the core.
fn by_core(mut text: &str) -> Vec<String> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(next_piece(text.as_bytes()));
        out.push(piece.to_owned());
        text = rest;
    }
    out
}

proptest! {
    #[test]
    fn regex_and_core_cut_the_same_pieces(text in "[ \\n\\ta1é.\u{65e5}]{0,12}( {0,70})[ a.]{0,3}(a{0,140})") {
        prop_assert_eq!(by_regex(&text), by_core(&text));
    }

    #[test]
    fn piece_by_piece_gives_what_the_library_makes_of_the_whole(text in "[ \\na-c0-2.é\u{65e5}]{0,40}") {
        let merges = [(98, 99), (257, 100), (33, 98), (33, 258), (11, 11)];
        let tokenizer = Tokenizer::from_merges(&merges).unwrap();
        let whole = library_encode(tokenizer.bpe.as_ref().unwrap(), &text).unwrap();
        for _ in 0..2 {
            prop_assert_eq!(tokenizer.encode(&text).unwrap(), whole.clone());
        }
    }

    #[test]
    fn decoding_gives_back_the_text(text in ".{0,40}") {
        let tokenizer = Tokenizer::from_merges(&[(98, 99), (257, 100)]).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()), text.as_bytes());
    }
}
