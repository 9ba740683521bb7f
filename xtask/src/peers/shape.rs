//! The shapes that engines are compared at.

use clap::ValueEnum;

/// A shape by name, the same as `bitttt synth --shape` knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Width 256, 4 layers: a small device's model
    Tiny,
    /// Width 768, 12 layers
    Small,
    /// Width 2048, 24 layers: about a billion weights
    #[value(name = "1b")]
    OneB,
    /// Width 2560, 30 layers: that of BitNet b1.58 2B4T
    #[value(name = "2b4t")]
    TwoB4T,
}

/// What a shape's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    pub d_model: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub d_ffn: usize,
    pub vocab: usize,
    /// The head is the embedding.
    pub tied: bool,
}

impl Shape {
    /// All of them, small first.
    pub const ALL: [Self; 4] = [Self::Tiny, Self::Small, Self::OneB, Self::TwoB4T];

    /// Its name on command lines, in file names and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::OneB => "1b",
            Self::TwoB4T => "2b4t",
        }
    }

    /// Its dimensions.
    pub const fn dims(self) -> Dims {
        let (d_model, layers, (heads, kv_heads), d_ffn, vocab) = match self {
            Self::Tiny => (256, 4, (4, 4), 1024, 4096),
            Self::Small => (768, 12, (12, 12), 2048, 32_000),
            Self::OneB => (2048, 24, (32, 8), 5632, 32_000),
            Self::TwoB4T => (2560, 30, (20, 5), 6912, 128_256),
        };
        let tied = matches!(self, Self::TwoB4T);
        Dims {
            d_model,
            layers,
            heads,
            kv_heads,
            d_ffn,
            vocab,
            tied,
        }
    }
}

impl Dims {
    /// Width of the keys, and of the values.
    pub const fn d_kv(&self) -> usize {
        self.d_model / self.heads * self.kv_heads
    }

    /// Ternary weights: the four matrices of attention and the three of the FFN, in every layer.
    pub const fn ternary_weights(&self) -> usize {
        let attention = 2 * self.d_model * (self.d_model + self.d_kv());
        self.layers * (attention + 3 * self.d_model * self.d_ffn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for shape in Shape::ALL {
            assert_eq!(Shape::from_str(shape.name(), false), Ok(shape));
        }
    }

    #[test]
    fn the_2b4t_shape_has_two_billion_ternary_weights() {
        assert_eq!(Shape::TwoB4T.dims().ternary_weights(), 2_084_044_800);
    }
}
