//! How many bytes of weights a token reads.

use bitttt_core::Model;
use bitttt_core::format::{Entry, Role};

/// Bytes of weights by how often they are read. State (fast weights, keys and values) is not among them, nor the initial
/// fast weights, which are read when a document starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// All layers: once for each batch of tokens.
    pub layers: u64,
    /// Head: once for each token whose logits are wanted.
    pub head: u64,
    /// One row of the embedding: once a token.
    pub row: u64,
}

impl Traffic {
    /// Of this model.
    pub fn of(model: &Model<'_>) -> Self {
        let bytes = |entry: &Entry| entry.end() - entry.offset;
        let of_role = |role: Role| model.tensors().find(move |entry| entry.role == role as u8);
        let embed = of_role(Role::Embed);
        let head = of_role(Role::Head).or(embed);
        let initial = [Role::W0, Role::U0, Role::W1, Role::U1].map(|role| role as u8);
        let layers = model
            .tensors()
            .filter(|entry| entry.role >= Role::MixerNorm as u8 && !initial.contains(&entry.role));
        Self {
            layers: layers.map(|entry| bytes(&entry)).sum(),
            head: head.as_ref().map_or(0, bytes),
            row: embed.map_or(0, |embed| bytes(&embed) / u64::from(embed.rows).max(1)),
        }
    }

    /// Bytes for a token of decoding.
    pub fn decode(&self) -> f64 {
        (self.layers + self.head + self.row) as f64
    }

    /// Bytes for each token of a prompt that is read `batch` tokens at a time and gives logits at its end.
    pub fn prefill(&self, tokens: usize, batch: usize) -> f64 {
        let passes = tokens.div_ceil(batch.max(1)) as u64;
        (self.layers * passes + self.head) as f64 / tokens.max(1) as f64 + self.row as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitttt_core::format::LayerConfig;
    use bitttt_core::format::{DType, Mixer};
    use bitttt_export::AlignedCopy;
    use bitttt_export::random::{blueprint, small_config};

    #[test]
    fn a_token_reads_every_matrix_once_and_one_row_of_the_embedding() {
        let layers = [LayerConfig {
            plain: true,
            ..LayerConfig::of(Mixer::TttLinear)
        }; 2];
        let mut config = small_config(); // V 257, D 48, F 104, 3 heads, b 8
        for tied in [false, true] {
            config.tied = tied;
            let blob = blueprint(&config, &layers, DType::T2, 1)
                .to_bytes()
                .unwrap();
            let blob = AlignedCopy::of(&blob);
            let traffic = Traffic::of(&Model::from_bytes(blob.bytes()).unwrap());
            let ternary = 4 * 48 * 12 + 2 * 104 * 12 + 48 * 26;
            let norms = 4 * (48 + 48);
            let ttt = 2 * 3 * 48 + 4 * (3 + 8 + 48 + 48); // lr; its bias, tau, layer norm
            assert_eq!(traffic.layers, 2 * (ternary + norms + ttt));
            assert_eq!(traffic.head, 257 * 48 + 4 * 257);
            assert_eq!(traffic.row, 48 + 4);
            assert_eq!(
                traffic.decode(),
                (traffic.layers + traffic.head + 52) as f64
            );
            let prompt = traffic.prefill(100, 32);
            assert_eq!(
                prompt,
                (4 * traffic.layers + traffic.head) as f64 / 100.0 + 52.0
            );
        }
    }
}
