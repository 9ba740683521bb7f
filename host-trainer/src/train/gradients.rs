//! Loss and gradients of a batch: over whole rows, or segment by segment in memory that does not grow with the rows.

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};

use crate::data::batch::Batch;
use crate::model::{Carry, Model};
use crate::ops::loss::{cross_entropy, losses};

/// Mean loss over the targets that count, in nats, and its gradients. With a `segment`, rows longer than it are read in
/// segments of so many tokens, whose gradients add up: truncated back-propagation through time (Williams and Peng 1990).
///
/// # Errors
/// When a token is out of range, or a block of the model carries no state.
pub fn gradients(
    model: &Model,
    vars: &[(String, Var)],
    batch: &Batch,
    segment: usize,
) -> Result<(f64, GradStore)> {
    if is_whole(batch, segment) {
        let loss = cross_entropy(&model.forward(&input(batch)?)?, &batch.targets)?;
        return Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?));
    }
    let counted = batch.counted() as f64;
    let mut carry = Carry::default();
    let mut sum: Option<(f64, GradStore)> = None;
    // Padding stands at the end of rows: behind a segment without targets there are none.
    let segments = batch.segments(segment).take_while(|s| s.counted() > 0);
    for part in segments {
        let logits = model.forward_segment(&input(&part)?, &mut carry)?;
        let share = part.counted() as f64 / counted;
        let loss = (cross_entropy(&logits, &part.targets)? * share)?;
        let mut grads = loss.backward()?;
        let mut total = f64::from(loss.to_scalar::<f32>()?);
        if let Some((before, earlier)) = &sum {
            total += before;
            add(&mut grads, earlier, vars)?;
        }
        sum = Some((total, grads));
    }
    sum.ok_or_else(|| candle_core::Error::msg("no target counts"))
}

/// Loss of every token of a batch, 0 for padding: `[rows, len]`.
///
/// # Errors
/// As [`gradients`].
pub fn token_losses(model: &Model, batch: &Batch, segment: usize) -> Result<Vec<f32>> {
    if is_whole(batch, segment) {
        return losses(&model.forward(&input(batch)?)?, &batch.targets);
    }
    let mut all = vec![0.0; batch.rows * batch.len];
    let (mut carry, mut at) = (Carry::default(), 0);
    for part in batch.segments(segment) {
        let logits = model.forward_segment(&input(&part)?, &mut carry)?;
        let found = losses(&logits, &part.targets)?;
        for (row, found) in all.chunks_mut(batch.len).zip(found.chunks(part.len)) {
            row[at..at + part.len].copy_from_slice(found);
        }
        at += part.len;
    }
    Ok(all)
}

fn is_whole(batch: &Batch, segment: usize) -> bool {
    segment == 0 || batch.len <= segment
}

/// Tokens stay on the CPU: the embedding reads them there, whatever runs the model.
pub fn input(batch: &Batch) -> Result<Tensor> {
    Tensor::from_slice(&batch.tokens, (batch.rows, batch.len), &Device::Cpu)
}

/// Adds the gradients of `vars` in `earlier`. What a segment does not reach, the start of fast weights, has a gradient in
/// one of the two only.
fn add(grads: &mut GradStore, earlier: &GradStore, vars: &[(String, Var)]) -> Result<()> {
    for (_, var) in vars {
        let Some(before) = earlier.get(var) else {
            continue;
        };
        let sum = match grads.get(var) {
            Some(now) => (before + now)?,
            None => before.clone(),
        };
        grads.insert(var, sum);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
