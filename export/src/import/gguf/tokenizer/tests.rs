//! Tokenizers out of files, against the ids that their makers give to a text of many scripts.

use super::*;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/import/gguf")
}

fn expected() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder().join("text.json")).unwrap()).unwrap()
}

/// A file with metadata only, of which `edit` may change the bytes.
fn file(name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> Gguf {
    let mut bytes = std::fs::read(folder().join(name)).unwrap();
    edit(&mut bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Gguf::open(&path).unwrap()
}

fn read(file: &Gguf) -> Result<Metadata, ImportError> {
    Ok(metadata(file, &Options::default(), 1000)?.0)
}

fn refused(name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> String {
    read(&file(name, edit)).unwrap_err().to_string()
}

fn tokenizer(metadata: &Metadata) -> Tokenizer {
    let json = serde_json::to_vec(metadata.tokenizer.as_ref().unwrap()).unwrap();
    Tokenizer::from_bytes(json).unwrap()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Puts `new` in the place of the only `old`.
fn replace(bytes: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    let found = bytes.windows(old.len()).position(|part| part == old);
    let at = found.expect("it is not there");
    bytes.splice(at..at + old.len(), new.iter().copied());
}

/// Gives a text in the metadata another value.
fn set(key: &str, old: &str, new: &str) -> impl FnOnce(&mut Vec<u8>) {
    let entry = |value: &str| [&text(key), &8u32.to_le_bytes()[..], &text(value)].concat();
    let (old, new) = (entry(old), entry(new));
    move |bytes| replace(bytes, &old, &new)
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn byte_level_bpe_gives_the_ids_of_its_maker_for_every_way_to_cut() {
    let expected = &expected()["bpe"];
    let input = expected["text"].as_str().unwrap();
    let ways = expected["ids"].as_object().unwrap();
    assert_eq!(ways.len(), 5);
    for (pre, theirs) in ways {
        let file = file("bpe.gguf", set("tokenizer.ggml.pre", "llama-bpe", pre));
        let ours = tokenizer(&read(&file).unwrap());
        let encoded = ours.encode(input, false).unwrap();
        assert_eq!(encoded.get_ids(), ids(theirs), "{pre}");
    }
}

#[test]
fn byte_level_bpe_decodes_to_the_text_and_names_its_special_tokens() {
    let expected = &expected()["bpe"];
    let metadata = read(&file("bpe.gguf", |_| ())).unwrap();
    let theirs = ids(&expected["ids"]["llama-bpe"]);
    let decoded = tokenizer(&metadata).decode(&theirs, false).unwrap();
    assert_eq!(decoded, expected["text"]);
    assert_eq!(metadata.bos_token.as_deref(), Some("<|begin_of_text|>"));
    assert_eq!(metadata.eos_token.as_deref(), Some("<|end_of_text|>"));
    assert!(
        metadata.add_bos,
        "llama-bpe adds it where the file says nothing"
    );
    let eos = theirs[0] + 1;
    assert_eq!(metadata.stop, [eos, eos + 1]);
    assert!(
        metadata
            .chat_template
            .unwrap()
            .starts_with("{{ bos_token }}")
    );
}

#[test]
fn sentencepiece_gives_the_ids_of_its_maker() {
    let expected = &expected()["spm"];
    let metadata = read(&file("spm.gguf", |_| ())).unwrap();
    let ours = tokenizer(&metadata);
    let encoded = ours
        .encode(expected["text"].as_str().unwrap(), false)
        .unwrap();
    let theirs = ids(&expected["ids"]);
    assert_eq!(encoded.get_ids(), theirs);
    assert_eq!(ours.decode(&theirs, false).unwrap(), expected["decoded"]);
    assert_eq!(metadata.bos_token.as_deref(), Some("<s>"));
    assert!(metadata.add_bos);
    assert_eq!(metadata.stop, [2]);
    assert_eq!(metadata.chat_template, None);
}

/// Microsoft's files leave it out.
#[test]
fn where_no_way_to_cut_is_named_that_of_the_vocabulary_is_taken_and_told() {
    let (key, other) = (text("tokenizer.ggml.pre"), text("tokenizer.ggml.prx"));
    let unnamed = file("bpe.gguf", |bytes| replace(bytes, &key, &other));
    let unnamed = read(&unnamed).unwrap();
    let named = read(&file("bpe.gguf", |_| ())).unwrap();
    assert_eq!(unnamed.tokenizer, named.tokenizer);
    assert!(unnamed.note.unwrap().contains("`llama-bpe` was taken"));
    assert_eq!(named.note, None);
    let begin = [text("<|begin_of_text|>"), text("<|start_of_text|>")];
    let other = file("bpe.gguf", |bytes| {
        replace(bytes, &key, &other);
        replace(bytes, &begin[0], &begin[1]);
    });
    assert!(
        read(&other)
            .unwrap()
            .note
            .unwrap()
            .contains("`default` was taken")
    );
}

#[test]
fn the_document_token_is_the_one_that_begins_texts() {
    let file = file("bpe.gguf", |_| ());
    let (metadata, document) = metadata(&file, &Options::default(), 1000).unwrap();
    let begin = tokenizer(&metadata).token_to_id("<|begin_of_text|>");
    assert_eq!(Some(document), begin);
}

#[test]
fn tokenizers_that_cannot_be_converted_are_refused_by_name() {
    let pre = |new| set("tokenizer.ggml.pre", "llama-bpe", new);
    let error = refused("bpe.gguf", pre("gpt-5"));
    assert!(error.contains("`tokenizer.ggml.pre` is `gpt-5`") && error.contains("falcon3"));
    let model = |new| set("tokenizer.ggml.model", "gpt2", new);
    assert!(refused("bpe.gguf", model("bert")).contains("`tokenizer.ggml.model` is `bert`"));
    assert!(refused("bpe.gguf", model("no_vocab")).contains("--no-tokenizer"));
    assert!(refused("bpe.gguf", model("llama")).contains("`tokenizer.ggml.scores` is missing"));
    let rename = |old: &'static str, new: &'static str| {
        move |bytes: &mut Vec<u8>| replace(bytes, &text(old), &text(new))
    };
    let error = refused(
        "bpe.gguf",
        rename("tokenizer.ggml.merges", "tokenizer.ggml.x"),
    );
    assert!(error.contains("`tokenizer.ggml.merges` is missing"));
    let error = refused("bpe.gguf", rename("<|eot_id|>", "<|end_of_text|>"));
    assert!(error.contains("the token `<|end_of_text|>` twice"));
    let error = refused("bpe.gguf", rename("h e", "h h e"));
    assert!(
        error.contains("`tokenizer.ggml.merges` has `h h e`"),
        "{error}"
    );
    let error = refused("spm.gguf", |bytes| {
        let key = text("tokenizer.ggml.scores");
        let found = bytes.windows(key.len()).position(|part| part == key);
        let at = found.unwrap() + key.len() + 8; // behind the types
        let count = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        bytes[at + 8..][..count as usize * 4].fill(0);
    });
    assert!(
        error.contains("`tokenizer.ggml.scores` are all equal"),
        "{error}"
    );
    let few = metadata(&file("bpe.gguf", |_| ()), &Options::default(), 99);
    let error = few.unwrap_err().to_string();
    assert!(error.contains("`tokenizer.ggml.bos_token_id`"), "{error}");
}
