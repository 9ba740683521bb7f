use std::collections::{HashMap, HashSet};

use super::*;

#[test]
fn the_same_seed_gives_the_same_corpus_and_another_seed_another() {
    let corpus = Corpus::generate(20_000, 1);
    assert_eq!(corpus, Corpus::generate(20_000, 1));
    assert_ne!(corpus, Corpus::generate(20_000, 2));
    assert!(corpus.text.len() >= 20_000);
}

#[test]
fn recall_values_are_exactly_the_repeated_surnames() {
    let corpus = Corpus::generate(50_000, 3);
    let mut expected = Vec::new();
    let mut at = 0;
    for document in corpus.text.split_inclusive(SEPARATOR) {
        let mut known: HashMap<&str, &str> = HashMap::new();
        for (start, word) in words(document) {
            let Some(first) = before(document, start) else {
                continue;
            };
            if !SURNAMES.contains(&word) || !FIRST_NAMES.contains(&first) {
                continue;
            }
            if let Some(surname) = known.insert(first, word) {
                assert_eq!(surname, word, "one surname for each first name");
                expected.push(at + start..at + start + word.len());
            }
        }
        at += document.len();
    }
    assert_eq!(corpus.recall, expected);
    assert!(corpus.recall.len() > 500);
}

/// Words with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let pieces = text.split(|c: char| !c.is_ascii_alphabetic());
    pieces.map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

/// The word and single space before `start`.
fn before(text: &str, start: usize) -> Option<&str> {
    let head = text[..start].strip_suffix(' ')?;
    head.rsplit(|c: char| !c.is_ascii_alphabetic()).next()
}

#[test]
fn surnames_are_drawn_evenly_and_anew() {
    let corpus = Corpus::generate(400_000, 5);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut pairs = HashSet::new();
    for range in &corpus.recall {
        let surname = &corpus.text[range.clone()];
        *counts.entry(surname).or_default() += 1;
        pairs.insert((before(&corpus.text, range.start).unwrap(), surname));
    }
    let most = counts.values().max().unwrap();
    assert!(counts.len() == SURNAMES.len() && *most < 3 * corpus.recall.len() / SURNAMES.len());
    assert!(pairs.len() > 450, "{} pairs", pairs.len());
}

#[test]
fn the_side_file_has_a_line_for_each_value() {
    let corpus = Corpus {
        text: "Bo Kim Bo Kim".into(),
        recall: std::iter::once(10..13).collect(),
    };
    assert_eq!(corpus.recall_lines(), "10 13\n");
}

#[test]
fn word_lists_hold_no_doubles_and_no_name_is_a_word_of_the_prose() {
    let unique: HashSet<_> = SURNAMES.iter().collect();
    assert_eq!(unique.len(), SURNAMES.len());
    let names: HashSet<_> = FIRST_NAMES.iter().chain(SURNAMES).collect();
    assert_eq!(names.len(), FIRST_NAMES.len() + SURNAMES.len());
}
