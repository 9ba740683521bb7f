//! The gated feed-forward network with a norm before its last projection (BitNet b1.58 2B4T).

use crate::block::Block;
use crate::format::Role;
use crate::kernel::parallel::{nothing, split_tokens};
use crate::workspace::{Pass, Workspace};

/// Runs `n` tokens: `space.x` holds the normed input and receives the result.
#[cfg_attr(bitttt_micro, inline(never))]
pub(crate) fn forward(block: &Block<'_, '_>, pass: &Pass<'_>, space: &mut Workspace<'_>) {
    let config = pass.config;
    let (d_model, d_ffn) = (config.d_model as usize, (config.d_ffn as usize).max(1));
    pass.quantise(&mut space.quantised, space.x, d_model);
    let n = pass.tokens * d_ffn;
    let (gate, rest) = space.hidden.split_at_mut(n.min(space.hidden.len()));
    let (up, _) = rest.split_at_mut(n.min(rest.len()));
    let products = [(Role::FfnGate, &mut *gate), (Role::FfnUp, &mut *up)];
    pass.matmul(block, &space.quantised, space.x, products);
    let rows = [(&mut *gate, d_ffn), (up, d_ffn), nothing()];
    split_tokens(pass.parallel, pass.tokens, rows, &|_, [gate, up, _]| {
        pass.backend.activate(gate, up, config.activation);
    });
    if let Some(gain) = block.floats(Role::FfnSubNorm) {
        pass.rms_norm(gate, gain);
    }
    pass.quantise(&mut space.quantised, gate, d_ffn);
    let down = [(Role::FfnDown, &mut *space.x)];
    pass.matmul(block, &space.quantised, gate, down);
}
