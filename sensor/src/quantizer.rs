//! A sample to a symbol and back: fine steps near the machine's usual value, coarse ones far from it (mu-law, ITU-T
//! G.711, with a smaller mu).
//!
//! Invariant: [`Quantizer::symbol`] of [`Quantizer::value`] of a symbol is that symbol.

/// Number of symbols; odd, so that the middle one stands for the centre and noise about it does not flip between two.
pub const SYMBOLS: usize = 63;

/// The symbols as text: byte `i` is symbol `i`. This is the alphabet of the tokenizer that a model of samples has.
pub const ALPHABET: [u8; SYMBOLS] = alphabet();

const MIDDLE: f32 = (SYMBOLS / 2) as f32;
const MU: f32 = 15.0;
/// The outermost symbols lie this many scales from the centre. A sine's amplitude is 1.6 mean absolute deviations.
const RANGE: f32 = 6.0;

const fn alphabet() -> [u8; SYMBOLS] {
    let mut bytes = [b'0'; SYMBOLS];
    let mut i = 0;
    while i < SYMBOLS {
        bytes[i] += i as u8;
        i += 1;
    }
    bytes
}

/// Where a machine's samples lie. What is farther than six scales from the centre gets the outermost symbol.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    centre: f32,
    scale: f32,
}

impl Quantizer {
    /// For samples about `centre` with a mean absolute deviation of about `scale`, both in the sensor's unit: known
    /// from its data sheet, or from other machines. `None` unless both are finite and `scale` is above 0.
    pub fn new(centre: f32, scale: f32) -> Option<Self> {
        let usable = centre.is_finite() && scale.is_finite() && scale > 0.0;
        usable.then_some(Self { centre, scale })
    }

    /// For samples like these, which should show the machine at its usual work. `None` where they do not vary, or are
    /// not finite.
    pub fn of(samples: &[f32]) -> Option<Self> {
        let n = samples.len().max(1) as f32;
        let centre = samples.iter().sum::<f32>() / n;
        let scale = samples.iter().map(|x| (x - centre).abs()).sum::<f32>() / n;
        Self::new(centre, scale)
    }

    /// The symbol of a sample, below [`SYMBOLS`]. A sample that is not a number gets symbol 0.
    pub fn symbol(&self, sample: f32) -> u8 {
        let x = (sample - self.centre) / (self.scale * RANGE);
        let bent = libm::log1pf(MU * x.abs()) / libm::log1pf(MU);
        let bent = if bent > 1.0 { 1.0 } else { bent };
        libm::roundf(MIDDLE + libm::copysignf(bent, x) * MIDDLE) as u8
    }

    /// The sample that a symbol stands for.
    pub fn value(&self, symbol: u8) -> f32 {
        let bent = f32::from(symbol) / MIDDLE - 1.0;
        let x = libm::expm1f(bent.abs() * libm::log1pf(MU)) / MU;
        self.centre + libm::copysignf(x, bent) * self.scale * RANGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_stands_for_a_value_that_gets_this_symbol() {
        let quantizer = Quantizer::new(-3.0, 0.02).unwrap();
        for symbol in 0..SYMBOLS as u8 {
            assert_eq!(quantizer.symbol(quantizer.value(symbol)), symbol);
        }
    }

    #[test]
    fn steps_are_finest_at_the_centre_and_ends_are_clipped() {
        let quantizer = Quantizer::new(100.0, 10.0).unwrap();
        let step = |s: u8| quantizer.value(s + 1) - quantizer.value(s);
        assert!(step(31) < 0.4 && step(61) > 4.0);
        assert_eq!(quantizer.symbol(f32::INFINITY), 62);
        assert_eq!(quantizer.symbol(-1e30), 0);
        assert_eq!(quantizer.symbol(f32::NAN), 0);
        assert_eq!(quantizer.symbol(100.0), 31);
    }

    #[test]
    fn samples_that_do_not_vary_cannot_be_quantised() {
        assert_eq!(Quantizer::of(&[2.0; 9]), None);
        assert_eq!(Quantizer::of(&[]), None);
        assert_eq!(Quantizer::of(&[1.0, f32::NAN]), None);
        assert_eq!(Quantizer::of(&[1.0, 3.0]), Quantizer::new(2.0, 1.0));
    }
}
