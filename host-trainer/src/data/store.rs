//! Token stores: in memory, or a file that is mapped, never read whole.
//!
//! Layout of a file, little-endian: magic `BTTTTOKS`, u32 version, u32 bytes per token (2 or 4),
//! u32 vocabulary, u32 zero, u64 tokenizer fingerprint, u64 tokens, u64 documents; the tokens,
//! padded to 8 bytes; a u64 start for each document. Every document is token 0 and its text, and one
//! last token 0 closes the store, so that the target of position `i` is always token `i + 1`.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use bitttt_export::save;
use memmap2::Mmap;
use tempfile::NamedTempFile;

use crate::rng;
use crate::tokenizer::Tokenizer;

const MAGIC: &[u8; 8] = b"BTTTTOKS";
const VERSION: u32 = 1;
const HEADER: usize = 48;
/// Bytes that go to the disk at once.
const BUFFER: usize = 1 << 20;

/// A sequence of documents in tokens.
pub struct Tokens {
    store: Store,
    /// Number of documents.
    documents: usize,
    /// Tokens that have a target; the closing token's place.
    len: u64,
}

enum Store {
    Memory {
        ids: Vec<u32>,
        starts: Vec<u64>,
    },
    Mapped {
        map: Mmap,
        width: usize,
        starts_at: usize,
        source: Source,
    },
}

/// The file behind a map, as it was when it was opened.
struct Source {
    file: File,
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Source {
    fn new(file: File, path: &Path) -> std::io::Result<Self> {
        let now = file.metadata()?;
        Ok(Self {
            bytes: now.len(),
            modified: now.modified().ok(),
            path: path.to_owned(),
            file,
        })
    }

    fn is_untouched(&self) -> bool {
        let now = self.file.metadata();
        now.is_ok_and(|now| now.len() == self.bytes && now.modified().ok() == self.modified)
    }
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
        let file = File::open(path)?;
        let source = Source::new(file.try_clone()?, path)?;
        // SAFETY: the map is read as plain bytes, for which every value is valid. Should another process shorten the file
        // between `check` and the reading behind it, the system ends this one; nothing is misread.
        let map = unsafe { Mmap::map(&file)? };
        let header = Header::read(&map)?;
        ensure!(
            header.fingerprint == tokenizer.fingerprint(),
            "was prepared with another tokenizer; pass that one with --tokenizer, or prepare it again"
        );
        let tokens = Self {
            store: Store::Mapped {
                map,
                width: header.width,
                starts_at: header.documents_at(),
                source,
            },
            documents: header.documents as usize,
            len: header.tokens.saturating_sub(1),
        };
        let bounds = (0..=tokens.documents).map(|i| tokens.bound(i));
        ensure!(
            tokens.len > 0 && tokens.bound(0) == 0 && bounds.is_sorted_by(|a, b| a < b),
            "its document index is damaged; prepare it again"
        );
        Ok(tokens)
    }

    /// Whether the file is as it was when it was opened: reading a map beyond the end of a file that was shortened would end
    /// the process. A file that was replaced, by renaming another one, stays the old one here.
    ///
    /// # Errors
    /// When it was written to.
    pub fn check(&self) -> anyhow::Result<()> {
        match &self.store {
            Store::Mapped { source, .. } if !source.is_untouched() => bail!(
                "token file {} was written to while it is trained on; restore it and continue with --resume (`bitttt prepare` \
                 replaces a file at once, which harms no run)",
                source.path.display()
            ),
            _ => Ok(()),
        }
    }

    /// Number of tokens that have a target.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no token with a target.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of documents, at least 1.
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// Start of document `i`, or the place of the closing token for `i` = [`Tokens::documents`].
    pub fn bound(&self, i: usize) -> u64 {
        if i == self.documents {
            return self.len;
        }
        match &self.store {
            Store::Memory { starts, .. } => starts[i],
            Store::Mapped { map, starts_at, .. } => {
                let bytes = &map[starts_at + 8 * i..][..8];
                u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
            }
        }
    }

    /// Hash of some tokens from everywhere: a store that was made of another text has another one.
    pub fn sample(&self) -> u64 {
        const RUNS: u64 = 64;
        let run = |i| {
            let start = self.len * i / RUNS;
            self.get(start..self.len.min(start + RUNS))
        };
        let ids = (0..RUNS).flat_map(run);
        ids.fold(self.len, |hash, id| rng::hash(&[hash, u64::from(id)]))
    }

    /// Tokens of a range; positions up to and including [`Tokens::len`] exist.
    pub fn get(&self, range: Range<u64>) -> Vec<u32> {
        let (start, end) = (range.start as usize, range.end as usize);
        match &self.store {
            Store::Memory { ids, .. } => ids[start..end].to_vec(),
            Store::Mapped { map, width, .. } => {
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
    documents: usize,
    tokens: u64,
    open: bool,
}

enum Sink {
    Memory {
        ids: Vec<u32>,
        starts: Vec<u64>,
    },
    /// Nothing is kept in memory: the index waits in a file without a name until the tokens are complete.
    File {
        out: BufWriter<NamedTempFile>,
        starts: BufWriter<File>,
        path: PathBuf,
        width: usize,
    },
}

impl Builder {
    /// Keeps the tokens in memory.
    pub fn in_memory() -> Self {
        Self::new(Sink::Memory {
            ids: Vec::new(),
            starts: Vec::new(),
        })
    }

    /// Writes the tokens to a file, which appears when it is finished.
    ///
    /// # Errors
    /// When nothing can be written beside `path`.
    pub fn to_file(path: &Path, vocab: usize) -> anyhow::Result<Self> {
        let file = save::temporary_beside(path)?;
        let folder = file.path().parent().unwrap_or(Path::new("."));
        let starts = tempfile::tempfile_in(folder).map_err(|e| save::write_fault(path, e))?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        out.write_all(&[0; HEADER])?;
        Ok(Self::new(Sink::File {
            out,
            starts: BufWriter::new(starts),
            path: path.to_owned(),
            width: if vocab <= 1 << 16 { 2 } else { 4 },
        }))
    }

    fn new(sink: Sink) -> Self {
        Self {
            sink,
            documents: 0,
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
        self.documents
    }

    /// Whether the next token starts a document, be it the very first.
    pub fn between_documents(&self) -> bool {
        !self.open
    }

    /// Appends tokens of the current document; the first of it opens it.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn push(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        if !self.open {
            self.open = true;
            self.documents += 1;
            match &mut self.sink {
                Sink::Memory { starts, .. } => starts.push(self.tokens),
                Sink::File { starts, path, .. } => starts
                    .write_all(&self.tokens.to_le_bytes())
                    .map_err(|e| save::write_fault(path, e))?,
            }
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

    fn write(&mut self, new: &[u32]) -> anyhow::Result<()> {
        self.tokens += new.len() as u64;
        match &mut self.sink {
            Sink::Memory { ids, .. } => ids.extend(new),
            Sink::File {
                out, path, width, ..
            } => {
                let bytes: Vec<u8> = match *width {
                    2 => new
                        .iter()
                        .flat_map(|id| (*id as u16).to_le_bytes())
                        .collect(),
                    _ => new.iter().flat_map(|id| id.to_le_bytes()).collect(),
                };
                out.write_all(&bytes)
                    .map_err(|e| save::write_fault(path, e))?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.documents > 0,
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
        match self.sink {
            Sink::Memory { ids, starts } => Ok(Tokens {
                store: Store::Memory { ids, starts },
                documents: self.documents,
                len: self.tokens - 1,
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
            starts,
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
            documents: self.documents as u64,
        };
        let written = HEADER + self.tokens as usize * width;
        let complete = || -> std::io::Result<NamedTempFile> {
            out.write_all(&vec![0; header.documents_at() - written])?;
            let mut starts = starts.into_inner().map_err(|e| e.into_error())?;
            starts.seek(SeekFrom::Start(0))?;
            std::io::copy(&mut starts, &mut out)?;
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&header.bytes())?;
            out.into_inner().map_err(|e| e.into_error())
        };
        let file = complete().map_err(|e| save::write_fault(&path, e))?;
        Ok(save::persist(file, &path)?)
    }
}
