//! NOR flash as it is: words are written once between erasures, whole and aligned, within bounds; whoever does otherwise
//! panics. Every word written and every sector erased is a step, and at any of them the power can go.

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{Rng, SeedableRng};

/// What becomes of the word or sector at which the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// Nothing yet.
    Before,
    /// The first half is done; of a single byte the lower four bits.
    FirstHalf,
    /// The second half is done.
    SecondHalf,
    /// Any of its bits are done.
    SomeBits,
    /// Any bits at all.
    AnyBits,
    /// A word or sector of zeros: some flashes write before they erase.
    Zeros,
    /// All of it is done, but nobody hears of it.
    Unheard,
}

pub const TEARS: [Tear; 7] = [
    Tear::Before,
    Tear::FirstHalf,
    Tear::SecondHalf,
    Tear::SomeBits,
    Tear::AnyBits,
    Tear::Zeros,
    Tear::Unheard,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no power.
    Off,
    /// The flash noticed that a word was torn.
    Torn,
}

impl NorFlashError for Fault {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Erased,
    Written,
    Torn,
}

#[derive(Clone)]
pub struct Nor<const WRITE: usize, const ERASE: usize, const READ: usize> {
    pub bytes: Vec<u8>,
    /// Erasures of each sector.
    pub wear: Vec<u32>,
    /// Steps made.
    pub steps: usize,
    /// Whether torn words cannot be read, as where the flash keeps check bits.
    pub checked: bool,
    /// A byte that keeps the bits it has when it is written to.
    pub stuck: Option<usize>,
    /// A byte that reads differently from this many reads on.
    pub drifts: Option<(usize, usize)>,
    words: Vec<Word>,
    cut: Option<(usize, Tear)>,
    off: bool,
    random: Pcg32,
}

impl<const WRITE: usize, const ERASE: usize, const READ: usize> Nor<WRITE, ERASE, READ> {
    /// A flash that holds whatever was there before.
    pub fn new(sectors: usize) -> Self {
        let mut random = Pcg32::seed_from_u64(WRITE as u64);
        let mut bytes = vec![0; sectors * ERASE];
        random.fill_bytes(&mut bytes);
        Self {
            bytes,
            wear: vec![0; sectors],
            steps: 0,
            checked: false,
            stuck: None,
            drifts: None,
            words: vec![Word::Written; sectors * ERASE / WRITE],
            cut: None,
            off: false,
            random,
        }
    }

    /// Cuts the power at this step from now, 0 being the next.
    pub fn cut_at(&mut self, step: usize, tear: Tear) {
        self.cut = Some((self.steps + step, tear));
    }

    pub fn power_on(&mut self) {
        self.off = false;
        self.cut = None;
    }

    /// Makes the word at this address one that cannot be read.
    pub fn spoil(&mut self, at: usize) {
        self.checked = true;
        self.words[at / WRITE] = Word::Torn;
    }

    /// A number below `below`, of a sequence that is always the same.
    pub fn draw(&mut self, below: usize) -> usize {
        self.random.next_u32() as usize % below
    }

    /// What becomes of the next step, if it is the last one.
    fn step(&mut self) -> Option<Tear> {
        let step = self.steps;
        self.steps += 1;
        let tear = self.cut.filter(|&(at, _)| at == step)?.1;
        self.off = true;
        Some(tear)
    }

    /// `old` on its way to `new`.
    fn torn(&mut self, old: &[u8], new: &[u8], tear: Tear) -> Vec<u8> {
        let mut noise = vec![0; old.len()];
        self.random.fill_bytes(&mut noise);
        let half = old.len() / 2;
        let mask = |i: usize| match tear {
            Tear::Before => 0,
            Tear::Unheard => 0xFF,
            Tear::FirstHalf if half == 0 => 0x0F,
            Tear::SecondHalf if half == 0 => 0xF0,
            Tear::FirstHalf => 0xFF * u8::from(i < half),
            Tear::SecondHalf => 0xFF * u8::from(i >= half),
            Tear::SomeBits | Tear::AnyBits | Tear::Zeros => noise[i],
        };
        let mix = |i: usize| old[i] & !mask(i) | new[i] & mask(i);
        (0..old.len())
            .map(|i| match tear {
                Tear::AnyBits => noise[i],
                Tear::Zeros => 0,
                _ => mix(i),
            })
            .collect()
    }

    /// Brings one word or sector from what it holds to `new`, or part of the way.
    fn change(&mut self, at: usize, new: &[u8], done: Word) -> Result<(), Fault> {
        let range = at..at + new.len();
        let words = at / WRITE..(at + new.len()) / WRITE;
        let Some(tear) = self.step() else {
            self.bytes[range].copy_from_slice(new);
            self.words[words].fill(done);
            return Ok(());
        };
        let old = self.bytes[range.clone()].to_vec();
        let torn = self.torn(&old, new, tear);
        self.bytes[range].copy_from_slice(&torn);
        match tear {
            Tear::Before => {}
            Tear::Unheard => self.words[words].fill(done),
            _ => self.words[words].fill(Word::Torn),
        }
        Err(Fault::Off)
    }
}

impl<const WRITE: usize, const ERASE: usize, const READ: usize> ErrorType
    for Nor<WRITE, ERASE, READ>
{
    type Error = Fault;
}

impl<const WRITE: usize, const ERASE: usize, const READ: usize> ReadNorFlash
    for Nor<WRITE, ERASE, READ>
{
    const READ_SIZE: usize = READ;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        let (at, end) = (offset as usize, offset as usize + bytes.len());
        assert!(at.is_multiple_of(READ) && bytes.len().is_multiple_of(READ));
        assert!(end <= self.bytes.len());
        if self.off {
            return Err(Fault::Off);
        }
        bytes.copy_from_slice(&self.bytes[at..end]);
        if let Some((byte, reads)) = &mut self.drifts
            && (at..end).contains(byte)
        {
            bytes[*byte - at] ^= u8::from(*reads == 0);
            *reads = reads.saturating_sub(1);
        }
        let mut words = self.words[at / WRITE..end.div_ceil(WRITE)].iter();
        match self.checked && words.any(|&word| word == Word::Torn) {
            true => Err(Fault::Torn),
            false => Ok(()),
        }
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const WRITE: usize, const ERASE: usize, const READ: usize> NorFlash
    for Nor<WRITE, ERASE, READ>
{
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Fault> {
        let (from, to) = (from as usize, to as usize);
        assert!(from.is_multiple_of(ERASE) && to.is_multiple_of(ERASE));
        assert!(from < to && to <= self.bytes.len());
        for sector in from / ERASE..to / ERASE {
            if self.off {
                return Err(Fault::Off);
            }
            self.wear[sector] += 1;
            self.change(sector * ERASE, &[0xFF; ERASE], Word::Erased)?;
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Fault> {
        let at = offset as usize;
        assert!(at.is_multiple_of(WRITE) && bytes.len().is_multiple_of(WRITE));
        assert!(!bytes.is_empty() && at + bytes.len() <= self.bytes.len());
        for (i, word) in bytes.chunks(WRITE).enumerate() {
            if self.off {
                return Err(Fault::Off);
            }
            let at = at + i * WRITE;
            let erased = self.words[at / WRITE] == Word::Erased;
            assert!(erased, "the word at {at} is not erased");
            self.change(at, word, Word::Written)?;
            if let Some(stuck) = self.stuck.filter(|stuck| (at..at + WRITE).contains(stuck)) {
                self.bytes[stuck] = 0xFF;
            }
        }
        Ok(())
    }
}
