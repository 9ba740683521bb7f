//! Loss and gradients of a batch: over whole rows, or segment by segment in memory that does not grow with the rows.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};

use super::group::Group;
use crate::data::batch::Batch;
use crate::model::{Carry, Model};
use crate::ops::dropout::Dropout;
use crate::ops::loss::losses;

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
    dropout: Option<Dropout>,
) -> Result<(f64, GradStore)> {
    if is_whole(batch, segment) {
        let loss = model.loss(&input(batch)?, &batch.targets, None, dropout)?;
        return Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?));
    }
    let counted = batch.counted() as f64;
    let mut carry = Carry::default();
    let mut sum: Option<(f64, GradStore)> = None;
    // Padding stands at the end of rows: behind a segment without targets there are none.
    let segments = batch.segments(segment).take_while(|s| s.counted() > 0);
    for (n, part) in segments.enumerate() {
        let dropout = dropout.map(|d| d.at(n));
        let loss = model.loss(&input(&part)?, &part.targets, Some(&mut carry), dropout)?;
        let share = part.counted() as f64 / counted;
        let loss = (loss * share)?;
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

/// The same for a batch whose rows are spread over a group: every process gets loss and gradients of the whole batch.
///
/// The sums are those of one process in another order, so that results differ in the last places.
///
/// # Errors
/// As [`gradients`].
pub fn shared_gradients(
    group: &dyn Group,
    model: &Model,
    vars: &[(String, Var)],
    batch: &Batch,
    segment: usize,
    dropout: Option<Dropout>,
) -> Result<(f64, GradStore)> {
    if group.size() == 1 {
        return gradients(model, vars, batch, segment, dropout);
    }
    let bound = |rank: usize| batch.rows * rank / group.size();
    let own = batch.part(bound(group.rank())..bound(group.rank() + 1));
    let sizes = vars.iter().map(|(_, var)| var.elem_count());
    // The last place is the loss.
    let mut sums = vec![0.0; sizes.sum::<usize>() + 1];
    let mut grads = Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?;
    if own.counted() > 0 {
        let share = own.counted() as f64 / batch.counted() as f64;
        let dropout = dropout.map(|d| Dropout {
            first_row: bound(group.rank()),
            ..d
        });
        let (loss, found) = gradients(model, vars, &own, segment, dropout)?;
        let mut at = 0;
        for (_, var) in vars {
            let to = &mut sums[at..at + var.elem_count()];
            if let Some(grad) = found.get(var) {
                let grad = (grad * share)?.flatten_all()?.to_vec1::<f32>()?;
                to.copy_from_slice(&grad);
            }
            at += to.len();
        }
        sums[at] = (loss * share) as f32;
    }
    group.sum(&mut sums).map_err(candle_core::Error::wrap)?;
    let mut at = 0;
    for (_, var) in vars {
        let values = &sums[at..at + var.elem_count()];
        grads.insert(var, Tensor::from_slice(values, var.shape(), var.device())?);
        at += values.len();
    }
    Ok((f64::from(sums[at]), grads))
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
