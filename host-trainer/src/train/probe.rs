//! What a validation looks at: held-out loss by source and by position, what inner learning achieves, and how many
//! weights are zero. It changes nothing in the run.

use candle_core::{Device, Var};
use serde::{Deserialize, Serialize};

use super::gradients::{input, token_losses};
use crate::config::TrainConfig;
use crate::data::batch::{Batch, Dataset};
use crate::engine::by_position::{Bucket, ByPosition};
use crate::model::{Model, Spec};
use crate::ops::inner_loss::InnerLoss;
use crate::ops::{ternary, with_values};

/// Held-out tokens of one forward pass.
const TOKENS_AT_ONCE: usize = 4096;

/// What one validation found; a part of it is a field of a line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Held-out loss by place in the row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_position: Vec<Bucket>,
    /// Held-out loss of each source, where they have weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_source: Vec<SourceLoss>,
    /// Inner loss of each block that learns in the stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inner_loss: Vec<BlockLoss>,
    /// Share of zeros in every ternary matrix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zero_weights: Vec<Zeros>,
}

/// Held-out loss of one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceLoss {
    /// Its name.
    pub name: String,
    /// Nats a token.
    pub loss: f64,
}

/// Inner loss of one block, a mean over tokens and heads of `1/2 |LN(f(k)) - (v - k)|^2` (`1/2 |W x - x|^2` in
/// `ttt-lite`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockLoss {
    /// The block.
    pub layer: usize,
    /// At the weights as at the start of each mini-batch.
    pub before: f64,
    /// On the same tokens, at the weights that the mini-batch's update left.
    pub after: f64,
}

/// Zeros of one ternary matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Zeros {
    /// The block.
    pub layer: usize,
    /// Name of the matrix in the block.
    pub matrix: String,
    /// Zeros among its weights, 0 to 1.
    pub share: f64,
}

/// What there is to look at.
pub(super) struct Subject<'a> {
    pub config: &'a TrainConfig,
    pub data: &'a Dataset,
    pub model: &'a Model,
    /// The same on the CPU, where inner losses are measured.
    pub host: &'a Model,
    pub specs: &'a [Spec],
    /// Whether the blocks' matrices are ternary.
    pub ternary: bool,
    pub vars: &'a [(String, Var)],
}

impl Subject<'_> {
    /// The held-out loss, nats a token (the mean of the sources' by their shares; none where nothing is held out), and
    /// everything else.
    pub fn probe(&self) -> anyhow::Result<(Option<f64>, Probe)> {
        let mut probe = Probe {
            zero_weights: self.zeros()?,
            ..Probe::default()
        };
        let (mut sum, mut shares) = (0.0, 0.0);
        let mut by_position = ByPosition::default();
        let mut inner: Vec<Option<InnerLoss>> = Vec::new();
        for (i, source) in self.data.describe().into_iter().enumerate() {
            let Some(loss) = self.validate(i, &mut by_position, &mut inner)? else {
                continue;
            };
            sum += source.share * loss;
            shares += source.share;
            if self.data.is_weighted() {
                let name = source.name;
                probe.by_source.push(SourceLoss { name, loss });
            }
        }
        probe.by_position = by_position.buckets();
        probe.inner_loss = inner.iter().enumerate().filter_map(block_loss).collect();
        Ok(((shares > 0.0).then(|| sum / shares), probe))
    }

    /// Held-out loss of source `i`; none where it has nothing held out.
    fn validate(
        &self,
        i: usize,
        by_position: &mut ByPosition,
        inner: &mut Vec<Option<InnerLoss>>,
    ) -> anyhow::Result<Option<f64>> {
        let rows = (TOKENS_AT_ONCE / self.config.context).max(1);
        let (mut sum, mut counted) = (0.0, 0);
        let batches = self.data.held_out(i, rows, self.config.eval_rows);
        for (b, batch) in batches.enumerate() {
            let lengths = batch.lengths();
            let found = token_losses(self.model, &batch, self.config.segment)?;
            for (row, length) in found.chunks(batch.len).zip(&lengths) {
                sum += row.iter().map(|l| f64::from(*l)).sum::<f64>();
                by_position.add(0, &row[..*length]);
            }
            counted += batch.counted();
            // It costs a forward pass of its own, and the rows of one are enough for a mean.
            if b == 0 {
                add(inner, self.inner_losses(&batch)?);
            }
        }
        Ok((counted > 0).then(|| sum / counted as f64))
    }

    /// What inner learning achieves, in the first segment of long rows.
    fn inner_losses(&self, batch: &Batch) -> candle_core::Result<Vec<Option<InnerLoss>>> {
        let first = match self.config.segment {
            0 => None,
            segment => batch.segments(segment).next(),
        };
        let batch = first.as_ref().unwrap_or(batch);
        self.host.inner_losses(&input(batch)?, &batch.lengths())
    }

    fn zeros(&self) -> anyhow::Result<Vec<Zeros>> {
        let mut all = Vec::new();
        let specs = self.specs.iter().zip(self.vars);
        for (spec, (_, var)) in specs.filter(|_| self.ternary) {
            let Some((layer, matrix)) = spec.matrix() else {
                continue;
            };
            let weights = var.as_tensor().to_device(&Device::Cpu)?;
            let share = with_values([&weights], |[weights]| {
                let (trits, _) = ternary(weights);
                let zeros = trits.iter().filter(|t| **t == 0).count();
                Ok(zeros as f64 / trits.len() as f64)
            })?;
            let matrix = matrix.to_owned();
            all.push(Zeros {
                layer,
                matrix,
                share,
            });
        }
        Ok(all)
    }
}

/// Adds the blocks' losses of another source.
fn add(all: &mut Vec<Option<InnerLoss>>, more: Vec<Option<InnerLoss>>) {
    if all.is_empty() {
        *all = more;
        return;
    }
    for (sum, loss) in all.iter_mut().zip(more) {
        *sum = sum.zip(loss).map(|(a, b)| a.plus(b));
    }
}

fn block_loss((layer, loss): (usize, &Option<InnerLoss>)) -> Option<BlockLoss> {
    let [before, after] = loss.as_ref()?.means()?;
    Some(BlockLoss {
        layer,
        before,
        after,
    })
}
