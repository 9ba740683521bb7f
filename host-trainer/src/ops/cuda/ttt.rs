//! TTT-Linear: one launch a direction, a block for each head of each row of the batch.

use candle_core::{Result, bail};

use super::{Arg, Launch, Machine, Program, Span, sum_rows};
use crate::ops::ttt::{Inner, Settings};

/// Operands of the operation, as [`crate::ops::ttt`] gets them.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// `[R, T, 3 H d]`.
    pub qkv: Span<'a, f32>,
    /// `[R, T, H]`.
    pub lr: Span<'a, f32>,
    /// Learned values, flat.
    pub learned: Span<'a, f32>,
    /// Cosines and sines of the positions of a mini-batch, `[2, b, d / 2]`.
    pub rope: Span<'a, f32>,
    /// Rows of the batch and tokens of a row.
    pub dims: (usize, usize),
}

/// Gradients for `qkv`, `lr` and the learned values.
pub type Gradients<M> = [<M as Machine>::Memory<f32>; 3];

/// A direction of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Values.
    Forward,
    /// Gradients.
    Backward,
}

/// Threads of a block: wide heads have more to do at the same time.
const fn threads(d_head: usize) -> usize {
    match d_head {
        0..=16 => 64,
        17..=32 => 128,
        _ => 256,
    }
}

/// The program for heads of this width and mini-batches of this length.
pub fn program(d_head: usize, mini_batch: usize) -> Program {
    Program::Ttt {
        d_head,
        mini_batch,
        threads: threads(d_head),
    }
}

/// Bytes of shared memory of a block: `FORWARD_FLOATS` and `BACKWARD_FLOATS` of the kernels.
pub fn shared_bytes(direction: Direction, d_head: usize, mini_batch: usize) -> usize {
    let (d, b) = (d_head.next_multiple_of(16), mini_batch.next_multiple_of(16));
    let (matrix, rows, att) = (d * (d + 4) + d, b * (d + 4), b * (b + 4));
    4 * match direction {
        Direction::Forward => 2 * matrix + 7 * rows + att + 2 * b,
        Direction::Backward => 3 * matrix + 11 * rows + 3 * att + 8 * b + 32,
    }
}

/// Whether the kernels can run these settings on a machine whose blocks have `max_shared` bytes.
///
/// # Errors
/// One line that says what is too large and what to do.
pub fn check(s: &Settings, max_shared: usize) -> Result<()> {
    if s.inner != Inner::Linear {
        bail!("ttt-mlp has no CUDA kernel; use --device cpu");
    }
    let needed = shared_bytes(Direction::Backward, s.d_head, s.mini_batch);
    if needed > max_shared || s.mini_batch > threads(s.d_head) {
        bail!(
            "heads of width {} with mini-batches of {} need {needed} bytes of shared memory, a block has {max_shared}; \
             use more heads, a smaller model.mini_batch, or --device cpu",
            s.d_head,
            s.mini_batch
        );
    }
    Ok(())
}

/// Floats of the fast states that [`forward`] keeps: one at every mini-batch start.
fn states_len(s: &Settings, (rows, tokens): (usize, usize)) -> usize {
    rows * s.heads * tokens.div_ceil(s.mini_batch) * (s.d_head + 1) * s.d_head
}

fn launch(s: &Settings, direction: Direction, rows: usize) -> Launch {
    Launch {
        program: program(s.d_head, s.mini_batch),
        kernel: match direction {
            Direction::Forward => "ttt_forward",
            Direction::Backward => "ttt_backward",
        },
        grid: [s.heads, rows],
        block: threads(s.d_head),
        shared: shared_bytes(direction, s.d_head, s.mini_batch),
    }
}

fn fixed(s: &Settings, tokens: usize) -> [Arg; 4] {
    [
        tokens.into(),
        s.heads.into(),
        s.base_lr.into(),
        s.anchor_decay.into(),
    ]
}

/// Output `[R, T, H d]` and the fast states `[R, H, mini-batches, (d + 1) d]` that [`backward`] starts from.
///
/// # Errors
/// Settings that the kernels cannot run, too little memory, or a kernel that does not start.
pub fn forward<M: Machine>(
    m: &M,
    s: &Settings,
    o: Operands<'_>,
) -> Result<(M::Memory<f32>, M::Memory<f32>)> {
    check(s, m.max_shared())?;
    let (rows, tokens) = o.dims;
    let out = m.alloc(rows * tokens * s.heads * s.d_head)?;
    let states = m.alloc(states_len(s, o.dims))?;
    let operands = [o.qkv, o.lr, o.learned, o.rope].map(Arg::from);
    let results = [m.span(&out), m.span(&states)].map(Arg::from);
    let args = [&operands[..], &fixed(s, tokens), &results].concat();
    m.launch(&launch(s, Direction::Forward, rows), &args)?;
    Ok((out, states))
}

/// Gradients from that of the output.
///
/// # Errors
/// As [`forward`].
pub fn backward<M: Machine>(
    m: &M,
    s: &Settings,
    o: Operands<'_>,
    states: Span<'_, f32>,
    grad: Span<'_, f32>,
) -> Result<Gradients<M>> {
    let (rows, tokens) = o.dims;
    let (dqkv, dlr) = (m.alloc(o.qkv.len())?, m.alloc(o.lr.len())?);
    let without_tau = o.learned.len() - s.mini_batch;
    let parts = m.alloc::<f32>(rows * without_tau)?;
    let tau_parts = m.alloc::<f32>(rows * s.heads * s.mini_batch)?;
    let operands = [o.qkv, o.lr, o.learned, o.rope, states, grad].map(Arg::from);
    let results = [&dqkv, &dlr, &parts, &tau_parts].map(|memory| m.span(memory).into());
    let args = [&operands[..], &fixed(s, tokens), &results].concat();
    m.launch(&launch(s, Direction::Backward, rows), &args)?;
    let learned = m.alloc(o.learned.len())?;
    let whole = m.span(&learned);
    let (most, tau) = (
        whole.part(0, without_tau),
        whole.part(without_tau, s.mini_batch),
    );
    sum_rows(m, m.span(&parts), (rows, without_tau), most)?;
    sum_rows(m, m.span(&tau_parts), (rows * s.heads, s.mini_batch), tau)?;
    Ok([dqkv, dlr, learned])
}
