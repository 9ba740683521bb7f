//! What the inner updates achieve, for a reader of a training run; no part of the forward pass.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::forward::Chunk;
use super::{Learned, Rope, Sequence, Settings, Values, simd, with_values};
use crate::ops::inner_loss::{InnerLoss, half_square};

/// `1/2 |LN(f(k)) - (v - k)|^2` before and after the update of every full mini-batch. Operands as those of
/// [`ttt`](super::ttt); `lengths [B]` says how many tokens of each row are text.
///
/// # Errors
/// When shapes disagree.
pub fn inner_loss(
    qkv: &Tensor,
    lr: &Tensor,
    learned: &Learned<'_>,
    s: &Settings,
    lengths: &[usize],
) -> Result<InnerLoss> {
    let (_, t, width) = qkv.dims3()?;
    let flat = super::flat(learned)?;
    let cpu = |tensor: &Tensor| tensor.contiguous()?.to_device(&Device::Cpu);
    let rope = Rope::new(s);
    with_values(
        [&cpu(qkv)?, &cpu(lr)?, &cpu(&flat)?],
        |[qkv, lr, learned]| {
            let learned = Values::new(learned, s)?;
            let rows = qkv.par_chunks(t * width).zip(lr.par_chunks(t * s.heads));
            let losses = rows.zip(lengths).map(|((qkv, lr), length)| {
                simd(
                    #[inline(always)]
                    || row(s, &rope, &learned, qkv, lr, *length),
                )
            });
            // In the order of the rows, whatever the number of threads.
            let losses: Vec<InnerLoss> = losses.collect();
            Ok(losses
                .into_iter()
                .fold(InnerLoss::default(), InnerLoss::plus))
        },
    )
}

#[inline(always)]
fn row(
    s: &Settings,
    rope: &Rope,
    learned: &Values,
    qkv: &[f32],
    lr: &[f32],
    length: usize,
) -> InnerLoss {
    let mut loss = InnerLoss::default();
    let mut chunk = Chunk::new(s);
    for h in 0..s.heads {
        let (head, seq) = (learned.head(h, s), Sequence { qkv, lr, head: h });
        let mut state = head.start.to_vec();
        let mut next = state.clone();
        for m in 0..length / s.mini_batch {
            let tokens = (m * s.mini_batch, s.mini_batch);
            chunk.compute(s, rope, seq, &head, &state, tokens);
            let before = half_square(&chunk.e);
            chunk.next_state(&head, &state, &mut next);
            chunk.inner_gradients(&head, &next);
            loss.add(before, half_square(&chunk.e), s.mini_batch);
            std::mem::swap(&mut state, &mut next);
        }
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::super::Inner;
    use super::super::tests::{operands, oracle_inner_loss, settings, variables, with_learned};
    use super::*;

    fn check(s: &Settings) -> [f64; 2] {
        let (batch, tokens) = (2, 11);
        let operands = operands(s, batch, tokens, 5);
        let vars = variables(&operands, s, batch, tokens);
        // The second row ends within its second mini-batch.
        let lengths = [11, 7];
        let loss = with_learned(s, &vars, |learned| {
            inner_loss(&vars[0], &vars[1], learned, s, &lengths).unwrap()
        });
        let means = loss.means().unwrap();
        let expected = oracle_inner_loss(s, &operands, tokens, &lengths);
        for (mean, expected) in means.iter().zip(expected) {
            assert!(
                (mean - expected).abs() < 1e-4 * expected,
                "{means:?}, {expected}"
            );
        }
        means
    }

    #[test]
    fn it_is_the_loss_of_the_primal_form_before_and_after_its_step() {
        for inner in [Inner::Linear, Inner::Mlp] {
            let [before, after] = check(&settings(inner, 2, 8, 4));
            assert!(after < before, "{before}, {after}");
        }
    }

    #[test]
    fn nothing_changes_where_nothing_is_learned() {
        let frozen = Settings {
            base_lr: 0.0,
            anchor_decay: false,
            ..settings(Inner::Linear, 2, 8, 4)
        };
        let [before, after] = check(&frozen);
        assert_eq!(before, after);
    }
}
