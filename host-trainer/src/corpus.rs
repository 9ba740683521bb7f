//! The built-in corpus: short documents with private facts that later sentences depend on.
//!
//! Each document introduces two or three people by first name and surname, the surname drawn anew,
//! and names them in full again later. Nothing but the document itself tells who has which surname:
//! a model without memory cannot beat chance (one in [`SURNAMES`]), one that learns while it reads can.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::engine::documents::recall_file;
use crate::rng::Rng;
use crate::tokenizer::SEPARATOR;

mod words;

pub use words::SURNAMES;
use words::{EVENTS, FILLERS, FIRST_NAMES, INTRODUCTIONS, MEETINGS, SLOTS};

/// A corpus and where its recall values are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corpus {
    /// Documents, separated by `<|endoftext|>` and a newline.
    pub text: String,
    /// Byte ranges in `text` of every surname at its second and later mention, ascending.
    pub recall: Vec<Range<usize>>,
}

impl Corpus {
    /// Whole documents until there are at least `bytes` bytes.
    pub fn generate(bytes: usize, seed: u64) -> Self {
        let mut corpus = Self::default();
        let mut document = 0;
        while corpus.text.len() < bytes {
            Writer::new(&mut corpus, Rng::new(seed, document)).document();
            document += 1;
        }
        corpus
    }

    /// Writes the text to `path` and its recall values beside it; returns the side file's name.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let side = recall_file(path);
        bitttt_export::save_atomically(path, self.text.as_bytes())?;
        bitttt_export::save_atomically(&side, self.recall_lines().as_bytes())?;
        Ok(side)
    }

    /// The side file: `start end` of each recall value, one a line.
    pub fn recall_lines(&self) -> String {
        let line = |r: &Range<usize>| format!("{} {}\n", r.start, r.end);
        self.recall.iter().map(line).collect()
    }
}

/// How often everyone is named again.
const ROUNDS: usize = 3;

struct Person {
    first: &'static str,
    surname: &'static str,
    mentioned: bool,
}

struct Writer<'a> {
    corpus: &'a mut Corpus,
    rng: Rng,
    people: Vec<Person>,
}

impl<'a> Writer<'a> {
    fn new(corpus: &'a mut Corpus, mut rng: Rng) -> Self {
        let count = 2 + rng.below(2) as usize;
        let (mut firsts, mut surnames) = (FIRST_NAMES.to_vec(), SURNAMES.to_vec());
        rng.shuffle(&mut firsts);
        rng.shuffle(&mut surnames);
        let people = firsts.into_iter().zip(surnames).take(count);
        let people = people.map(|(first, surname)| Person {
            first,
            surname,
            mentioned: false,
        });
        Self {
            corpus,
            people: people.collect(),
            rng,
        }
    }

    fn document(mut self) {
        for person in 0..self.people.len() {
            self.sentence(INTRODUCTIONS, &[person]);
            self.filler();
        }
        for _ in 0..ROUNDS {
            self.round();
        }
        self.corpus.text.pop();
        self.corpus.text.push('\n');
        self.corpus.text.push_str(SEPARATOR);
        self.corpus.text.push('\n');
    }

    /// Names everyone once more, alone or in pairs, in a new order.
    fn round(&mut self) {
        let mut order: Vec<usize> = (0..self.people.len()).collect();
        self.rng.shuffle(&mut order);
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let together = rest.len().min(1 + self.rng.below(2) as usize);
            let (people, after) = rest.split_at(together);
            let templates = if together == 2 { MEETINGS } else { EVENTS };
            self.sentence(templates, people);
            self.filler();
            rest = after;
        }
    }

    /// Now and then a sentence about nobody.
    fn filler(&mut self) {
        if self.rng.below(6) == 0 {
            self.sentence(FILLERS, &[]);
        }
    }

    /// Writes a template: `{0}` and `{1}` are people, `{name}` a word of that slot.
    fn sentence(&mut self, templates: &[&str], people: &[usize]) {
        let mut rest = *self.rng.pick(templates);
        while let Some((before, after)) = rest.split_once('{') {
            let (slot, after) = after.split_once('}').expect("a closed slot");
            self.corpus.text.push_str(before);
            match slot.parse::<usize>() {
                Ok(i) => self.name(people[i]),
                Err(_) => self.word(slot),
            }
            rest = after;
        }
        self.corpus.text.push_str(rest);
        self.corpus.text.push(' ');
    }

    fn word(&mut self, slot: &str) {
        let words = SLOTS.iter().find(|(name, _)| *name == slot);
        let (_, words) = words.expect("a slot of the table");
        let word = *self.rng.pick(words);
        self.corpus.text.push_str(word);
    }

    fn name(&mut self, person: usize) {
        let person = &mut self.people[person];
        let text = &mut self.corpus.text;
        text.push_str(person.first);
        text.push(' ');
        let start = text.len();
        text.push_str(person.surname);
        if person.mentioned {
            self.corpus.recall.push(start..text.len());
        }
        person.mentioned = true;
    }
}

#[cfg(test)]
mod tests;
