//! Byte-level BPE over pieces that a `no_std` core can cut by looking at bytes, and alphabets of single bytes.
//!
//! Invariant: id 0 is [`SEPARATOR`], ids 1 to 256 are the bytes in order, id `257 + i` is the result
//! of merge `i`. Without merges it is the built-in tokenizer `bytes`. An alphabet has ids for some bytes only, in
//! order, then one for all others, [`UNKNOWN`].

mod cache;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context as _, anyhow, bail, ensure};
use bitttt_core::tokenizer::{self as core_tokenizer, next_piece};
use tokenizers::models::bpe::{BPE, BpeTrainer, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, SplitDelimiterBehavior,
    TokenizerBuilder, TokenizerImpl,
};

use cache::Cache;

/// The document separator, id 0.
pub const SEPARATOR: &str = "<|endoftext|>";

/// The last token of an alphabet that has not all bytes; it decodes to U+FFFD.
pub const UNKNOWN: &str = "<|unknown|>";

/// Ids of the separator and the bytes.
pub const BASE_VOCAB: usize = 257;

/// The cut of `bitttt_core::tokenizer::next_piece` as a regex: an optional single space and up to 64
/// characters of one class (letters, digits, other), else up to 64 white ones without a last space
/// that leads the next piece. Letters are ASCII letters and everything outside ASCII.
const PIECES: &str = concat!(
    r" ?[A-Za-z\x{80}-\x{10FFFF}]{1,64}",
    r"| ?[0-9]{1,64}",
    r"| ?[^A-Za-z0-9\x{80}-\x{10FFFF} \t\n\r\x0b\x0c]{1,64}",
    r"|[ \t\n\r\x0b\x0c]{1,64}(?= [^ \t\n\r\x0b\x0c])",
    r"|[ \t\n\r\x0b\x0c]{1,64}",
);

type Hf = tokenizers::Tokenizer;

/// Text to token ids and back.
pub struct Tokenizer {
    /// Id of every byte.
    ids: [u32; 256],
    /// `None` without merges: the bytes need no library.
    bpe: Option<Box<Hf>>,
    merges: Vec<(u32, u32)>,
    bytes: Vec<Vec<u8>>,
    /// As many as there were threads that encoded at the same time.
    caches: Mutex<Vec<Cache>>,
}

impl Tokenizer {
    /// The built-in tokenizer: one token a byte, 257 in all.
    pub fn bytes() -> Self {
        Self::from_merges(&[]).expect("no merges, nothing to refuse")
    }

    /// Builds a tokenizer from its merges, each a pair of earlier ids.
    ///
    /// # Errors
    /// When a merge refers to the separator or to an id that does not exist yet, or makes bytes that
    /// are already a token.
    pub fn from_merges(merges: &[(u32, u32)]) -> anyhow::Result<Self> {
        let bytes = token_bytes(merges)?;
        let bpe = (!merges.is_empty()).then(|| library(merges, &bytes));
        Ok(Self {
            ids: std::array::from_fn(|byte| byte as u32 + 1),
            bpe: bpe.transpose()?.map(Box::new),
            merges: merges.to_vec(),
            bytes,
            caches: Mutex::default(),
        })
    }

    /// One token for each of these bytes, and one for all others if there are others.
    ///
    /// # Errors
    /// When there is no byte at all.
    pub fn alphabet(letters: &BTreeSet<u8>) -> anyhow::Result<Self> {
        ensure!(
            !letters.is_empty(),
            "an alphabet needs a text with at least one byte"
        );
        let mut bytes = vec![Vec::new()];
        bytes.extend(letters.iter().map(|b| vec![*b]));
        let mut ids = [bytes.len() as u32; 256];
        for (id, byte) in (1..).zip(letters) {
            ids[usize::from(*byte)] = id;
        }
        if letters.len() < 256 {
            bytes.push(core_tokenizer::UNKNOWN.to_vec());
        }
        Ok(Self {
            ids,
            bpe: None,
            merges: Vec::new(),
            bytes,
            caches: Mutex::default(),
        })
    }

    /// Learns `vocab_size - 257` merges from `texts`; fewer when the texts have no more pairs.
    ///
    /// # Errors
    /// When `vocab_size` is below 257.
    pub fn train<'a>(
        texts: impl Iterator<Item = &'a str> + Send,
        vocab_size: usize,
    ) -> anyhow::Result<Self> {
        ensure!(
            vocab_size >= BASE_VOCAB,
            "vocab-size {vocab_size} is too small: the bytes and the separator alone are {BASE_VOCAB}"
        );
        // Two merges can make the same bytes; only the first gets an id. Some spare ones are learned
        // so that the vocabulary still has the asked size.
        let spare = 64 + vocab_size / 16;
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size + spare)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut model: TokenizerImpl<
            BPE,
            NormalizerWrapper,
            PreTokenizerWrapper,
            PostProcessorWrapper,
            DecoderWrapper,
        > = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(pieces()?))
            .build()
            .map_err(|e| anyhow!("{e}"))?;
        model
            .train(&mut trainer, texts)
            .map_err(|e| anyhow!("{e}"))?;
        let json = serde_json::to_value(&model)?;
        let merges = distinct(read_merges(&json["model"])?, vocab_size - BASE_VOCAB)?;
        Self::from_merges(&merges)
    }

    /// Reads a `tokenizer.json` that [`Tokenizer::save`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read or is another kind of tokenizer.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read tokenizer {}", path.display()))?;
        Self::parse(&text).with_context(|| {
            format!(
                "{} is not a tokenizer of `bitttt tokenizer`",
                path.display()
            )
        })
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let json: serde_json::Value = serde_json::from_str(text)?;
        let tokenizer = if json["model"]["unk_token"] == UNKNOWN {
            Self::alphabet(&read_letters(&json["model"])?)?
        } else {
            let strings = read_merges(&json["model"])?;
            let count = strings.len();
            Self::from_merges(&distinct(strings, count)?)?
        };
        let wanted = tokenizer.to_json()?;
        for part in ["model", "pre_tokenizer"] {
            ensure!(json[part] == wanted[part], "its {part} has another form");
        }
        Ok(tokenizer)
    }

    /// `bytes`, or a file.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn open(name: &str) -> anyhow::Result<Self> {
        match name {
            "bytes" => Ok(Self::bytes()),
            path => Self::load(Path::new(path)),
        }
    }

    /// Writes `tokenizer.json`, readable by the crate `tokenizers`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.to_json()?)?;
        Ok(bitttt_export::save_atomically(path, text.as_bytes())?)
    }

    fn to_json(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::to_value(library(&self.merges, &self.bytes)?)?)
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// Merge `i` joins these two ids into id `257 + i`.
    pub fn merges(&self) -> &[(u32, u32)] {
        &self.merges
    }

    /// Bytes of a token; none for the separator and for ids out of range.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Tokens of a text without separators in it.
    ///
    /// # Errors
    /// When the library fails.
    pub fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        match &self.bpe {
            None => Ok(self.encode_bytes(text.as_bytes())),
            Some(bpe) => self.encode_pieces(bpe, text),
        }
    }

    /// A token for each byte, without merges.
    pub fn encode_bytes(&self, text: &[u8]) -> Vec<u32> {
        text.iter().map(|b| self.ids[usize::from(*b)]).collect()
    }

    /// Merges never cross a piece: the library is asked about new ones only.
    fn encode_pieces(&self, bpe: &Hf, mut text: &str) -> anyhow::Result<Vec<u32>> {
        let caches = || self.caches.lock().expect("not poisoned");
        let mut cache = caches().pop().unwrap_or_default();
        let mut out = Vec::with_capacity(text.len() / 2);
        while !text.is_empty() {
            let (piece, rest) = text.split_at(next_piece(text.as_bytes()));
            cache.push(piece, &mut out, |piece| library_encode(bpe, piece))?;
            text = rest;
        }
        caches().push(cache);
        Ok(out)
    }

    /// Whether it is an alphabet without some bytes.
    fn is_partial(&self) -> bool {
        self.merges.is_empty()
            && self
                .bytes
                .last()
                .is_some_and(|b| b == core_tokenizer::UNKNOWN)
    }

    /// Bytes of a sequence of tokens; separators are left out.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter()
            .flat_map(|id| self.token_bytes(*id).iter().copied())
            .collect()
    }

    /// Identifies the tokenizer in token files: FNV-1a over the letters of an alphabet and over the merges.
    pub fn fingerprint(&self) -> u64 {
        let ids = self.merges.iter().flat_map(|(a, b)| [*a, *b]);
        let letters = if self.is_partial() {
            &self.bytes[1..]
        } else {
            &[]
        };
        let letters = letters.iter().flatten().copied();
        letters
            .chain(ids.flat_map(u32::to_le_bytes))
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    }
}

/// Bytes of every id; checks the merges.
fn token_bytes(merges: &[(u32, u32)]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut bytes = vec![Vec::new()];
    bytes.extend((0..=255u8).map(|b| vec![b]));
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    for (i, &(a, b)) in merges.iter().enumerate() {
        let part = |id: u32| match id as usize {
            0 => Err(anyhow!("merge {i} joins the separator")),
            id if id >= bytes.len() => Err(anyhow!("merge {i} joins id {id}, which comes later")),
            id => Ok(bytes[id].clone()),
        };
        let joined = [part(a)?, part(b)?].concat();
        if let Some(other) = seen.insert(joined.clone(), i) {
            bail!("merges {other} and {i} make the same bytes");
        }
        bytes.push(joined);
    }
    Ok(bytes)
}

/// Letters of a serialised alphabet.
fn read_letters(model: &serde_json::Value) -> anyhow::Result<BTreeSet<u8>> {
    let vocab = model["vocab"].as_object().context("it has no vocabulary")?;
    let byte_of: HashMap<String, u8> = byte_chars()
        .map(String::from)
        .into_iter()
        .zip(0..=255)
        .collect();
    Ok(vocab
        .keys()
        .filter_map(|key| byte_of.get(key).copied())
        .collect())
}

/// The first `count` merges that make new bytes, as ids.
fn distinct(merges: Vec<(Vec<u8>, Vec<u8>)>, count: usize) -> anyhow::Result<Vec<(u32, u32)>> {
    let mut ids: HashMap<Vec<u8>, u32> = (0..=255u8).map(|b| (vec![b], u32::from(b) + 1)).collect();
    let mut out = Vec::new();
    for (a, b) in merges {
        if out.len() == count {
            break;
        }
        let joined = [a.as_slice(), b.as_slice()].concat();
        let id = |part: &Vec<u8>| ids.get(part).copied().context("a merge of unknown parts");
        let pair = (id(&a)?, id(&b)?);
        if let Entry::Vacant(free) = ids.entry(joined) {
            free.insert((BASE_VOCAB + out.len()) as u32);
            out.push(pair);
        }
    }
    Ok(out)
}

/// Merges of a serialised BPE model, as bytes.
fn read_merges(model: &serde_json::Value) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let merges = model["merges"].as_array().context("it has no merges")?;
    let byte_of: HashMap<char, u8> = byte_chars().into_iter().zip(0..=255).collect();
    let bytes = |v: &serde_json::Value| -> anyhow::Result<Vec<u8>> {
        let text = v.as_str().context("a merge is not a pair of strings")?;
        let byte = |c| {
            byte_of
                .get(&c)
                .copied()
                .context("a merge outside the byte alphabet")
        };
        text.chars().map(byte).collect()
    };
    merges
        .iter()
        .map(|pair| Ok((bytes(&pair[0])?, bytes(&pair[1])?)))
        .collect()
}

/// GPT-2's printable character for every byte.
fn byte_chars() -> [char; 256] {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256;
    std::array::from_fn(|b| {
        let b = b as u8;
        if printable(b) {
            return char::from(b);
        }
        next += 1;
        char::from_u32(next - 1).expect("below 512")
    })
}

fn pieces() -> anyhow::Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(PIECES.to_owned());
    let split =
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(|e| anyhow!("{e}"))?;
    Ok(Sequence::new(vec![split.into(), byte_level().into()]).into())
}

fn byte_level() -> ByteLevel {
    ByteLevel::new(false, false, false)
}

fn library_encode(bpe: &Hf, text: &str) -> anyhow::Result<Vec<u32>> {
    let encoding = bpe.encode_fast(text, false).map_err(|e| anyhow!("{e}"))?;
    Ok(encoding.get_ids().to_vec())
}

/// The same tokenizer for the crate `tokenizers`.
fn library(merges: &[(u32, u32)], bytes: &[Vec<u8>]) -> anyhow::Result<Hf> {
    let chars = byte_chars();
    let name = |id: usize| -> String {
        match bytes[id].as_slice() {
            core_tokenizer::UNKNOWN if merges.is_empty() => UNKNOWN.to_owned(),
            bytes => bytes.iter().map(|b| chars[*b as usize]).collect(),
        }
    };
    let mut vocab: Vocab = (1..bytes.len()).map(|id| (name(id), id as u32)).collect();
    vocab.insert(SEPARATOR.to_owned(), 0);
    let unknown = vocab.contains_key(UNKNOWN);
    let pairs = merges
        .iter()
        .map(|(a, b)| (name(*a as usize), name(*b as usize)))
        .collect();
    let mut model = BPE::builder().vocab_and_merges(vocab, pairs);
    if unknown {
        model = model.unk_token(UNKNOWN.to_owned());
    }
    let model = model.build().map_err(|e| anyhow!("{e}"))?;
    let mut tokenizer = Hf::new(model);
    tokenizer
        .with_pre_tokenizer(Some(pieces()?))
        .with_decoder(Some(byte_level()));
    tokenizer
        .add_special_tokens([AddedToken::from(SEPARATOR, true)])
        .map_err(|e| anyhow!("{e}"))?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests;
