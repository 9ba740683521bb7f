//! Token stores: in memory, or a file that is mapped, never read whole.
//!
//! Layout of a file, little-endian: magic `BTTTTOKS`, u32 version, u32 bytes per token (2 or 4),
//! u32 vocabulary, u32 zero, u64 tokenizer fingerprint, u64 tokens, u64 documents; the tokens,
//! padded to 8 bytes; a u64 start for each document. Every document is token 0 and its text, and one
//! last token 0 closes the store, so that the target of position `i` is always token `i + 1`.

use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bitttt_export::save;
use memmap2::Mmap;
use tempfile::NamedTempFile;

use crate::tokenizer::Tokenizer;

const MAGIC: &[u8; 8] = b"BTTTTOKS";
const VERSION: u32 = 1;
const HEADER: usize = 48;

/// A sequence of documents in tokens.
pub struct Tokens {
    ids: Ids,
    /// Start of every document, and the place of the closing token.
    bounds: Vec<u64>,
}

enum Ids {
    Memory(Vec<u32>),
    Mapped { map: Mmap, width: usize },
}

impl Tokens {
    /// Maps a file that [`Builder::to_file`] wrote with the same tokenizer.
    ///
    /// # Errors
    /// When it is damaged, or was made with another tokenizer.
    pub fn open(path: &Path, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        Self::map(path, tokenizer).with_context(|| format!("token file {}", path.display()))
    }

    #[allow(unsafe_code)]
    fn map(path: &Path, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path)?;
        // SAFETY: the map is read as plain bytes, for which every value is valid. Should another
        // process shorten the file meanwhile, the system ends this one; nothing is misread.
        let map = unsafe { Mmap::map(&file)? };
        let header = Header::read(&map)?;
        ensure!(
            header.fingerprint == tokenizer.fingerprint(),
            "was prepared with another tokenizer; pass that one with --tokenizer, or prepare it again"
        );
        let ends = map[header.documents_at()..].as_chunks::<8>().0;
        let mut bounds: Vec<u64> = ends.iter().map(|b| u64::from_le_bytes(*b)).collect();
        bounds.push(header.tokens - 1);
        ensure!(
            bounds[0] == 0 && bounds.is_sorted() && header.tokens > 1,
            "its document index is damaged; prepare it again"
        );
        let width = header.width;
        Ok(Self {
            ids: Ids::Mapped { map, width },
            bounds,
        })
    }

    /// Number of tokens that have a target.
    pub fn len(&self) -> u64 {
        *self.bounds.last().expect("a closing bound")
    }

    /// Whether there is no token with a target.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts of the documents, and the place of the closing token.
    pub fn bounds(&self) -> &[u64] {
        &self.bounds
    }

    /// Tokens of a range; positions up to and including [`Tokens::len`] exist.
    pub fn get(&self, range: Range<u64>) -> Vec<u32> {
        let (start, end) = (range.start as usize, range.end as usize);
        match &self.ids {
            Ids::Memory(ids) => ids[start..end].to_vec(),
            Ids::Mapped { map, width } => {
                let bytes = &map[HEADER + start * width..HEADER + end * width];
                bytes.chunks_exact(*width).map(read_id).collect()
            }
        }
    }
}

fn read_id(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |id, byte| id << 8 | u32::from(*byte))
}

struct Header {
    width: usize,
    vocab: u32,
    fingerprint: u64,
    tokens: u64,
    documents: u64,
}

impl Header {
    fn read(file: &[u8]) -> anyhow::Result<Self> {
        ensure!(
            file.len() >= HEADER && &file[..8] == MAGIC,
            "is not a token file"
        );
        let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
        ensure!(
            u32_at(8) == VERSION,
            "has version {}, this program reads {VERSION}; prepare it again",
            u32_at(8)
        );
        let header = Self {
            width: u32_at(12) as usize,
            vocab: u32_at(16),
            fingerprint: u64_at(24),
            tokens: u64_at(32),
            documents: u64_at(40),
        };
        let size = header.checked_size();
        ensure!(
            matches!(header.width, 2 | 4)
                && header.documents > 0
                && size == Some(file.len() as u64),
            "is damaged or cut short; prepare it again"
        );
        Ok(header)
    }

    fn checked_size(&self) -> Option<u64> {
        let ids = self.tokens.checked_mul(self.width as u64)?;
        let index = self.documents.checked_mul(8)?;
        ids.checked_next_multiple_of(8)?
            .checked_add(index)?
            .checked_add(HEADER as u64)
    }

    fn documents_at(&self) -> usize {
        HEADER + (self.tokens as usize * self.width).next_multiple_of(8)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for field in [VERSION, self.width as u32, self.vocab, 0] {
            out.extend(field.to_le_bytes());
        }
        for field in [self.fingerprint, self.tokens, self.documents] {
            out.extend(field.to_le_bytes());
        }
        out
    }
}

/// Whether a file starts like a token file.
///
/// # Errors
/// When it cannot be read.
pub fn is_token_file(path: &Path) -> anyhow::Result<bool> {
    let mut start = Vec::new();
    super::open_text(path)?.take(8).read_to_end(&mut start)?;
    Ok(start == MAGIC)
}

/// Takes tokens in order and makes a store of them.
pub struct Builder {
    sink: Sink,
    starts: Vec<u64>,
    tokens: u64,
    open: bool,
}

enum Sink {
    Memory(Vec<u32>),
    File {
        out: BufWriter<NamedTempFile>,
        path: PathBuf,
        width: usize,
    },
}

impl Builder {
    /// Keeps the tokens in memory.
    pub fn in_memory() -> Self {
        Self::new(Sink::Memory(Vec::new()))
    }

    /// Writes the tokens to a file, which appears when it is finished.
    ///
    /// # Errors
    /// When nothing can be written beside `path`.
    pub fn to_file(path: &Path, vocab: usize) -> anyhow::Result<Self> {
        let mut out = BufWriter::new(save::temporary_beside(path)?);
        out.write_all(&[0; HEADER])?;
        let width = if vocab <= 1 << 16 { 2 } else { 4 };
        Ok(Self::new(Sink::File {
            out,
            path: path.to_owned(),
            width,
        }))
    }

    fn new(sink: Sink) -> Self {
        Self {
            sink,
            starts: Vec::new(),
            tokens: 0,
            open: false,
        }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Documents so far.
    pub fn documents(&self) -> usize {
        self.starts.len()
    }

    /// Whether the next token starts a document, other than the very first.
    pub fn between_documents(&self) -> bool {
        !self.open && self.tokens > 0
    }

    /// Appends tokens of the current document; the first of it opens it.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn push(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        if !self.open {
            self.starts.push(self.tokens);
            self.open = true;
            self.write(&[0])?;
        }
        self.write(ids)
    }

    /// Ends the current document; a document without tokens is none.
    ///
    /// # Errors
    /// None so far.
    pub fn end_document(&mut self) -> anyhow::Result<()> {
        self.open = false;
        Ok(())
    }

    fn write(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        self.tokens += ids.len() as u64;
        match &mut self.sink {
            Sink::Memory(all) => all.extend(ids),
            Sink::File { out, path, width } => {
                let bytes = ids
                    .iter()
                    .flat_map(|id| id.to_le_bytes().into_iter().take(*width));
                let bytes: Vec<u8> = bytes.collect();
                out.write_all(&bytes)
                    .map_err(|e| save::write_fault(path, e))?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> anyhow::Result<()> {
        ensure!(
            !self.starts.is_empty(),
            "there is no text in the data; give a file with text in it"
        );
        self.write(&[0])
    }

    /// The store.
    ///
    /// # Errors
    /// When there is no document.
    pub fn finish_in_memory(mut self) -> anyhow::Result<Tokens> {
        self.close()?;
        let mut bounds = self.starts;
        bounds.push(self.tokens - 1);
        match self.sink {
            Sink::Memory(ids) => Ok(Tokens {
                ids: Ids::Memory(ids),
                bounds,
            }),
            Sink::File { .. } => bail!("this builder writes a file"),
        }
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// When there is no document or the disk is full.
    pub fn finish_file(mut self, tokenizer: &Tokenizer) -> anyhow::Result<()> {
        self.close()?;
        let Sink::File {
            mut out,
            path,
            width,
        } = self.sink
        else {
            bail!("this builder keeps its tokens in memory");
        };
        let header = Header {
            width,
            vocab: tokenizer.vocab_size() as u32,
            fingerprint: tokenizer.fingerprint(),
            tokens: self.tokens,
            documents: self.starts.len() as u64,
        };
        let written = HEADER + self.tokens as usize * width;
        let mut complete = || -> std::io::Result<()> {
            out.write_all(&vec![0; header.documents_at() - written])?;
            for start in &self.starts {
                out.write_all(&start.to_le_bytes())?;
            }
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&header.bytes())?;
            out.flush()
        };
        complete().map_err(|e| save::write_fault(&path, e))?;
        let file = out.into_inner().map_err(|e| e.into_error())?;
        Ok(save::persist(file, &path)?)
    }
}
