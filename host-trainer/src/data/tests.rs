use std::io::Write as _;

use super::batch::{Batch, Dataset, same_rows};
use super::*;
use crate::ops::loss::IGNORE;

fn file(text: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    file
}

fn tokens(text: &str) -> Tokens {
    let file = file(text.as_bytes());
    open(file.path(), &Tokenizer::bytes(), false).unwrap()
}

fn dataset(text: &str, val_fraction: f64, context: usize) -> anyhow::Result<Dataset> {
    Dataset::new(vec![source(text, None)], val_fraction, context)
}

fn source(text: &str, weight: Option<f64>) -> Source {
    Source {
        name: text.chars().take(8).collect(),
        tokens: tokens(text),
        weight,
    }
}

fn all(tokens: &Tokens) -> Vec<u32> {
    tokens.get(0..tokens.len() + 1)
}

fn bounds(tokens: &Tokens) -> Vec<u64> {
    (0..=tokens.documents()).map(|i| tokens.bound(i)).collect()
}

#[test]
fn documents_start_with_the_separator_and_lose_the_newline_behind_it() {
    let tokens = tokens("ab<|endoftext|>\nc\n<|endoftext|>\n\n");
    let id = |c: char| c as u32 + 1;
    assert_eq!(all(&tokens), [0, id('a'), id('b'), 0, id('c'), id('\n'), 0]);
    assert_eq!(bounds(&tokens), [0, 3, 6]);
}

#[test]
fn a_prepared_file_holds_the_same_tokens_as_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("tokens.bin");
    let text = "one two<|endoftext|>\nthree four five<|endoftext|>\n".repeat(30);
    let source = file(text.as_bytes());
    let tokenizer = Tokenizer::train([text.as_str()].into_iter(), 270).unwrap();
    let mut builder = Builder::to_file(&bin, tokenizer.vocab_size()).unwrap();
    read_into(source.path(), &tokenizer, false, &mut builder, &mut |_| {}).unwrap();
    assert!(!bin.exists(), "half-written files have no name");
    builder.finish_file(&tokenizer).unwrap();
    let mapped = open(&bin, &tokenizer, false).unwrap();
    let direct = open(source.path(), &tokenizer, false).unwrap();
    assert_eq!(all(&mapped), all(&direct));
    assert_eq!(bounds(&mapped), bounds(&direct));
    assert_eq!(mapped.sample(), direct.sample());
    let error = format!(
        "{:#}",
        open(&bin, &Tokenizer::bytes(), false).err().unwrap()
    );
    assert!(error.contains("another tokenizer"), "{error}");
}

#[test]
fn damaged_token_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("tokens.bin");
    let tokenizer = Tokenizer::bytes();
    let mut builder = Builder::to_file(&bin, 257).unwrap();
    builder.push(&[5, 6, 7]).unwrap();
    builder.finish_file(&tokenizer).unwrap();
    let whole = std::fs::read(&bin).unwrap();
    for damaged in [whole[..whole.len() - 1].to_vec(), {
        let mut huge = whole.clone();
        huge[39] = 0xFF;
        huge
    }] {
        std::fs::write(&bin, damaged).unwrap();
        assert!(open(&bin, &tokenizer, false).is_err());
    }
}

/// Chunks of a text, in order, and the tokens that they give.
fn streamed(text: &str, tokenizer: &Tokenizer) -> (Vec<String>, Tokens) {
    let (mut chunks, mut builder) = (Vec::new(), Builder::in_memory());
    text::stream(text.as_bytes(), false, &mut |chunk, _| {
        chunks.push(chunk.to_owned());
        text::encode_chunk(chunk, tokenizer, &mut builder)
    })
    .unwrap();
    (chunks, builder.finish_in_memory().unwrap())
}

/// Tokens of a text by encoding each document whole.
fn whole(text: &str, tokenizer: &Tokenizer) -> Vec<u32> {
    let documents = text.split(crate::tokenizer::SEPARATOR);
    let trimmed = documents.map(|d| d.trim_start_matches('\n'));
    let encode = |d: &str| [vec![0], tokenizer.encode(d).unwrap()].concat();
    let mut ids: Vec<u32> = trimmed.filter(|d| !d.is_empty()).flat_map(encode).collect();
    ids.push(0);
    ids
}

#[test]
fn chunks_tokenise_like_the_whole_text() {
    const MIB: usize = 1 << 20;
    let tokenizer = Tokenizer::from_merges(&[(33, 33), (98, 109), (11, 11), (258, 113)]).unwrap();
    let separated = format!("{}<|endoftext|>\n\n\n", "日本".repeat(MIB));
    for (unit, times) in [
        (
            "alpha  beta\n\n gamma, 12 délta <|endoftext|>\nnext ",
            MIB / 8,
        ),
        (
            "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。",
            MIB / 16,
        ),
        ("0", 5 * MIB),
        ("\n", 5 * MIB),
        (" ", 5 * MIB),
        (separated.as_str(), 2),
        ("x<|endoftext|>", MIB / 2),
    ] {
        let text = format!("\n\n{}end", unit.repeat(times));
        let (chunks, tokens) = streamed(&text, &tokenizer);
        let name: String = unit.chars().take(12).collect();
        assert!(chunks.len() > 1, "{name}");
        assert!(chunks.iter().all(|c| c.len() < 5 * MIB), "{name}");
        assert!(chunks.concat() == text, "{name}");
        assert!(all(&tokens) == whole(&text, &tokenizer), "{name}");
    }
}

#[test]
fn a_character_cut_by_the_buffer_is_joined_and_a_bad_one_found_behind_it() {
    let mut text = "日".repeat(3 << 20).into_bytes();
    text.extend(b"\xE6\x97");
    let error = text::stream(text.as_slice(), false, &mut |_, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("byte 9437184"), "{error}");
    let (mut whole, mut replaced) = (0, 0);
    text::stream(text.as_slice(), true, &mut |chunk, _| {
        whole += chunk.matches('日').count();
        replaced += chunk.matches(char::REPLACEMENT_CHARACTER).count();
        Ok(())
    })
    .unwrap();
    assert_eq!((whole, replaced), (3 << 20, 1));
}

#[test]
fn bytes_that_are_not_utf8_are_refused_by_place_unless_lossy() {
    let file = file(b"good text \xFF bad");
    let path = file.path();
    let error = format!(
        "{:#}",
        open(path, &Tokenizer::bytes(), false).err().unwrap()
    );
    assert!(
        error.contains("byte 10") && error.contains("--lossy"),
        "{error}"
    );
    assert!(open(path, &Tokenizer::bytes(), true).is_ok());
}

#[test]
fn missing_and_empty_files_are_refused_by_name() {
    let empty = file(b"");
    for path in [empty.path().to_owned(), "no/such/file".into()] {
        let error = open(&path, &Tokenizer::bytes(), false).err().unwrap();
        assert!(format!("{error:#}").contains(&path.display().to_string()));
    }
}

fn targets_follow(batch: &Batch) {
    for row in 0..batch.rows {
        let at = row * batch.len;
        for t in 0..batch.len - 1 {
            let target = batch.targets[at + t];
            if target != IGNORE && target != 0 {
                assert_eq!(batch.tokens[at + t + 1], target);
            }
        }
    }
}

#[test]
fn rows_are_whole_documents_or_windows_and_depend_on_seed_and_step_alone() {
    let text = ["short", &"a long document ".repeat(20), "tail"].join("<|endoftext|>");
    let data = dataset(&text, 0.1, 32).unwrap();
    let batch = data.batch(7, 3, 16);
    assert_eq!(batch, data.batch(7, 3, 16));
    assert_ne!(batch, data.batch(7, 4, 16));
    assert_eq!(batch.len, 32);
    targets_follow(&batch);
}

#[test]
fn an_epoch_sees_every_document_once_and_long_ones_in_windows_from_all_over() {
    let long = "0123456789".repeat(10);
    let documents: Vec<String> = (0..40).map(|i| format!("{i:03}")).chain([long]).collect();
    let data = dataset(&documents.join("<|endoftext|>"), 0.0, 16).unwrap();
    let windows = 6; // 101 tokens by 16
    let info = &data.describe()[0];
    assert_eq!((info.rows, info.documents), (40 + windows, 41));
    let rows = |epoch: u64| -> Vec<Vec<u32>> {
        let steps = epoch * info.rows..(epoch + 1) * info.rows;
        let row = |step| data.batch(5, step, 1).tokens;
        steps.map(row).collect()
    };
    let (first, second) = (rows(0), rows(1));
    for epoch in [&first, &second] {
        let mut short: Vec<_> = epoch.iter().filter(|r| r.len() == 4).collect();
        short.sort();
        short.dedup();
        assert_eq!(short.len(), 40);
        assert_eq!(
            epoch.iter().filter(|r| r.len() == 16).count() as u64,
            windows
        );
    }
    assert_ne!(first, second);
}

#[test]
fn files_give_rows_by_their_weights_and_go_through_their_own_epochs() {
    let letters = |range: std::ops::RangeInclusive<char>| {
        range
            .map(String::from)
            .collect::<Vec<_>>()
            .join("<|endoftext|>")
    };
    let sources = |weights: [Option<f64>; 2]| {
        vec![
            source(&letters('a'..='d'), weights[0]),
            source(&letters('m'..='x'), weights[1]),
        ]
    };
    let count = |data: &Dataset, step| -> Vec<(u32, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for row in data.batch(3, step, 24).tokens.chunks(2) {
            *counts.entry(row[1]).or_default() += 1;
        }
        counts.into_iter().collect()
    };
    let id = |c: char| c as u32 + 1;
    let data = Dataset::new(sources([Some(3.0), Some(1.0)]), 0.0, 2).unwrap();
    let counts = count(&data, 7);
    let of_first: usize = counts
        .iter()
        .filter(|(t, _)| *t <= id('d'))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(of_first, 18);
    assert!(
        counts[..4].iter().all(|(_, n)| (3..=6).contains(n)),
        "{counts:?}"
    );
    // 18 rows a step from 4, 6 rows a step from 12.
    assert_eq!(data.epochs(2, 24), [9.0, 1.0]);
    // By size: 24 rows hold every document of the one and of the other file once or twice.
    let data = Dataset::new(sources([None, None]), 0.0, 2).unwrap();
    let counts = count(&data, 5);
    assert_eq!(counts.len(), 16);
    assert!(
        counts.iter().all(|(_, n)| (1..=3).contains(n)),
        "{counts:?}"
    );
}

#[test]
fn held_out_rows_are_shared_among_files_and_none_is_left_out() {
    let text = |c: &str| vec![c.repeat(7); 40].join("<|endoftext|>");
    let sources = vec![
        source(&text("a"), Some(0.74)),
        source(&text("b"), Some(0.25)),
        source(&text("c"), Some(0.01)),
    ];
    let data = Dataset::new(sources, 0.5, 8).unwrap();
    let rows = |i| data.held_out(i, 4, 16).map(|b| b.rows).sum::<usize>();
    assert_eq!([rows(0), rows(1), rows(2)], [12, 4, 1]);
    assert_eq!(data.held_out_rows(16).len(), 17);
}

#[test]
fn other_data_is_told_apart_and_moved_files_are_not() {
    let describe = |text: &str, name: &str, context| {
        let source = Source {
            name: name.into(),
            ..source(text, None)
        };
        Dataset::new(vec![source], 0.1, context).unwrap().describe()
    };
    let one = describe("some words of text", "a", 4);
    assert!(same_rows(&one, &describe("some words of text", "b", 4)));
    assert!(!same_rows(&one, &describe("some words of tent", "a", 4)));
    assert!(!same_rows(&one, &describe("some words of text", "a", 5)));
}

#[test]
fn padding_does_not_count() {
    let text = ["ab", "abcdefgh", "x"].join("<|endoftext|>");
    let data = dataset(&text, 0.1, 9).unwrap();
    let batch = data.batch(1, 0, 64);
    assert_eq!(batch.len, 9);
    let short = (0..batch.rows)
        .find(|r| batch.targets[r * 9 + 3] == IGNORE)
        .unwrap();
    assert_eq!(batch.targets[short * 9..][..3], [98, 99, 0]);
}

#[test]
fn the_last_documents_are_held_out_and_read_whole() {
    let text = (0..10)
        .map(|i| format!("{i}{i}{i}"))
        .collect::<Vec<_>>()
        .join("<|endoftext|>");
    let data = dataset(&text, 0.2, 4).unwrap();
    assert_eq!((data.train_tokens(), data.held_out_tokens()), (32, 8));
    let held_out: Vec<_> = data.held_out(0, 8, 0).collect();
    assert_eq!(held_out.len(), 1);
    assert_eq!(held_out[0].tokens, [0, 57, 57, 57, 0, 58, 58, 58]);
    assert_eq!(held_out[0].counted(), 8);
}

#[test]
fn one_document_is_split_by_tokens() {
    let data = dataset(&"x".repeat(99), 0.1, 8).unwrap();
    assert_eq!((data.train_tokens(), data.held_out_tokens()), (90, 10));
}

#[test]
fn data_shorter_than_one_context_is_refused() {
    let error = dataset("tiny", 0.0, 64).err().unwrap().to_string();
    assert!(
        error.contains("64") && error.contains("--context"),
        "{error}"
    );
}
