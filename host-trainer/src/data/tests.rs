use std::io::Write as _;

use super::batch::{Batch, Dataset};
use super::*;
use crate::ops::loss::IGNORE;

fn file(text: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    file
}

fn tokens(text: &str) -> Tokens {
    let file = file(text.as_bytes());
    open(&[file.path().to_owned()], &Tokenizer::bytes(), false).unwrap()
}

fn all(tokens: &Tokens) -> Vec<u32> {
    tokens.get(0..tokens.len() + 1)
}

#[test]
fn documents_start_with_the_separator_and_lose_the_newline_behind_it() {
    let tokens = tokens("ab<|endoftext|>\nc\n<|endoftext|>\n\n");
    let id = |c: char| c as u32 + 1;
    assert_eq!(all(&tokens), [0, id('a'), id('b'), 0, id('c'), id('\n'), 0]);
    assert_eq!(tokens.bounds(), [0, 3, 6]);
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
    let mapped = open(std::slice::from_ref(&bin), &tokenizer, false).unwrap();
    let direct = open(&[source.path().to_owned()], &tokenizer, false).unwrap();
    assert_eq!(all(&mapped), all(&direct));
    assert_eq!(mapped.bounds(), direct.bounds());
    let error = format!(
        "{:#}",
        open(&[bin], &Tokenizer::bytes(), false).err().unwrap()
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
        assert!(open(std::slice::from_ref(&bin), &tokenizer, false).is_err());
    }
}

#[test]
fn chunks_tokenise_like_the_whole_text() {
    let words = "alpha  beta\n\n gamma, 12 délta <|endoftext|>\nnext ".repeat(120_000);
    assert!(words.len() > 4 << 20, "longer than one chunk");
    let (mut joined, mut chunks) = (String::new(), 0);
    text::stream(words.as_bytes(), false, &mut |chunk, _| {
        joined.push_str(chunk);
        chunks += 1;
        Ok(())
    })
    .unwrap();
    assert!(chunks > 1);
    assert_eq!(joined, words);
    let tokenizer = Tokenizer::from_merges(&[(33, 33), (98, 109)]).unwrap();
    let mut builder = Builder::in_memory();
    text::encode_chunk(&words, &tokenizer, &mut builder).unwrap();
    let streamed = file(words.as_bytes());
    let streamed = open(&[streamed.path().to_owned()], &tokenizer, false).unwrap();
    let whole = builder.finish_in_memory().unwrap();
    assert_eq!(all(&streamed), all(&whole));
    let document = &words[..words.find("<|").unwrap()];
    let first = whole.bounds()[0] + 1..whole.bounds()[1];
    assert_eq!(whole.get(first), tokenizer.encode(document).unwrap());
}

#[test]
fn bytes_that_are_not_utf8_are_refused_by_place_unless_lossy() {
    let file = file(b"good text \xFF bad");
    let paths = [file.path().to_owned()];
    let error = format!(
        "{:#}",
        open(&paths, &Tokenizer::bytes(), false).err().unwrap()
    );
    assert!(
        error.contains("byte 10") && error.contains("--lossy"),
        "{error}"
    );
    assert!(open(&paths, &Tokenizer::bytes(), true).is_ok());
}

#[test]
fn missing_and_empty_files_are_refused_by_name() {
    let empty = file(b"");
    for path in [empty.path().to_owned(), "no/such/file".into()] {
        let error = open(std::slice::from_ref(&path), &Tokenizer::bytes(), false)
            .err()
            .unwrap();
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
    let data = Dataset::new(tokens(&text), 0.1, 32).unwrap();
    let batch = data.batch(7, 3, 16);
    assert_eq!(batch, data.batch(7, 3, 16));
    assert_ne!(batch, data.batch(7, 4, 16));
    assert_eq!(batch.len, 32);
    targets_follow(&batch);
}

#[test]
fn padding_does_not_count() {
    let text = ["ab", "abcdefgh", "x"].join("<|endoftext|>");
    let data = Dataset::new(tokens(&text), 0.1, 9).unwrap();
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
    let data = Dataset::new(tokens(&text), 0.2, 4).unwrap();
    assert_eq!((data.train_tokens(), data.held_out_tokens()), (32, 8));
    let held_out = data.held_out(8, 0);
    assert_eq!(held_out.len(), 1);
    assert_eq!(held_out[0].tokens, [0, 57, 57, 57, 0, 58, 58, 58]);
    assert_eq!(held_out[0].counted(), 8);
}

#[test]
fn one_document_is_split_by_tokens() {
    let data = Dataset::new(tokens(&"x".repeat(99)), 0.1, 8).unwrap();
    assert_eq!((data.train_tokens(), data.held_out_tokens()), (90, 10));
}

#[test]
fn data_shorter_than_one_context_is_refused() {
    let error = Dataset::new(tokens("tiny"), 0.0, 64)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("64") && error.contains("--context"),
        "{error}"
    );
}
