//! One machine under watch: its session, its quantiser and its score.
//!
//! Invariant: a sample is judged by the prediction that was made before it was seen, and only then learned from.

use crate::quantizer::{ALPHABET, Quantizer, SYMBOLS};
use crate::score::Score;
use bitttt_core::{Learning, Session, SessionError};
use core::fmt;

/// What one sample looked like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Its symbol.
    pub symbol: u8,
    /// The sample that was expected: mean over the symbols' values by their probabilities.
    pub expected: f32,
    /// `-log2` of the probability that its symbol had.
    pub bits: f32,
    /// Bits that were expected: the entropy of the prediction.
    pub entropy: f32,
    /// [`Verdict::score`](crate::Verdict::score) of the bits above the entropy: what is hard to predict by its nature, and
    /// known to be, is no anomaly.
    pub score: f32,
    /// [`Verdict::alarm`](crate::Verdict::alarm).
    pub alarm: bool,
}

/// Why a monitor could not be made, or could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MonitorError {
    /// The model was not trained on samples: its tokens are not the symbols.
    Alphabet,
    /// The session refused a token.
    Session(SessionError),
}

impl fmt::Display for MonitorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alphabet => f.write_str(
                "the model's tokens are not the quantiser's symbols: train it on text of the sensor example",
            ),
            Self::Session(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MonitorError {}

impl From<SessionError> for MonitorError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

/// Watches one stream of samples. What it learns is in its session.
#[derive(Debug)]
pub struct Monitor<'m, 's> {
    session: Session<'m, 's>,
    quantizer: Quantizer,
    score: Score,
    /// Probabilities of the next symbol.
    next: [f32; SYMBOLS],
    /// Their entropy in bits.
    entropy: f32,
}

impl<'m, 's> Monitor<'m, 's> {
    /// A monitor that goes on from what `session` has learned: nothing after [`Session::reset`], a machine's normal
    /// after [`Session::restore`].
    ///
    /// # Errors
    /// [`MonitorError::Alphabet`].
    pub fn new(
        session: Session<'m, 's>,
        quantizer: Quantizer,
        score: Score,
    ) -> Result<Self, MonitorError> {
        let mut monitor = Self {
            session,
            quantizer,
            score,
            next: [1.0 / SYMBOLS as f32; SYMBOLS],
            entropy: libm::log2f(SYMBOLS as f32),
        };
        monitor.check_alphabet()?;
        if monitor.session.position() == 0 {
            let start = monitor.session.model().config().document_token;
            monitor.predict(start)?;
        }
        Ok(monitor)
    }

    /// Judges the next sample and reads it, which trains the fast weights unless learning is off.
    ///
    /// # Errors
    /// [`SessionError::Context`] where the model has attention without a window: use one that can run for ever.
    pub fn push(&mut self, sample: f32) -> Result<Reading, MonitorError> {
        let symbol = self.quantizer.symbol(sample);
        let p = self.next.get(usize::from(symbol)).copied();
        let bits = -libm::log2f(p.unwrap_or(0.0).max(1e-9));
        let (expected, entropy) = (self.expected(), self.entropy);
        self.predict(token(symbol))?;
        let verdict = self.score.update(bits - entropy);
        Ok(Reading {
            symbol,
            expected,
            bits,
            entropy,
            score: verdict.score,
            alarm: verdict.alarm,
        })
    }

    /// Turns learning on or off from the next sample on.
    pub fn set_learning(&mut self, learning: Learning) {
        self.session.set_learning(learning);
    }

    /// The session: its snapshot is the machine's normal.
    pub fn session(&self) -> &Session<'m, 's> {
        &self.session
    }

    /// Mean of the next sample, in the sensor's unit.
    pub fn expected(&self) -> f32 {
        let values = (0..).map(|symbol| self.quantizer.value(symbol));
        self.next
            .iter()
            .zip(values)
            .map(|(p, value)| p * value)
            .sum()
    }

    fn check_alphabet(&self) -> Result<(), MonitorError> {
        let tokenizer = self.session.model().tokenizer();
        let tokenizer = tokenizer.ok_or(MonitorError::Alphabet)?;
        let same = (0..)
            .zip(&ALPHABET)
            .all(|(symbol, byte)| tokenizer.decode(token(symbol)) == core::slice::from_ref(byte));
        same.then_some(()).ok_or(MonitorError::Alphabet)
    }

    /// Reads a token and keeps the probabilities of the symbols after it; a stream of samples has no other tokens.
    fn predict(&mut self, read: u32) -> Result<(), SessionError> {
        let logits = self.session.step(read)?;
        let symbols = logits.get(token(0) as usize..).unwrap_or_default();
        let largest = symbols
            .iter()
            .take(SYMBOLS)
            .fold(f32::MIN, |max, x| x.max(max));
        let (mut sum, mut weighted) = (0.0, 0.0);
        for (p, logit) in self.next.iter_mut().zip(symbols) {
            let below = logit - largest;
            *p = libm::expf(below);
            sum += *p;
            weighted += *p * below;
        }
        self.next.iter_mut().for_each(|p| *p /= sum);
        self.entropy = libm::log2f(sum) - weighted / sum * core::f32::consts::LOG2_E;
        Ok(())
    }
}

/// Token 0 separates documents; the alphabet follows.
fn token(symbol: u8) -> u32 {
    u32::from(symbol) + 1
}
