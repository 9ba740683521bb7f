//! The gated feed-forward network with a norm before its last projection (BitNet b1.58 2B4T).

use crate::model::Ffn;
use crate::workspace::{Pass, Workspace};

/// Runs `n` tokens: `space.x` holds the normed input and receives the result.
pub(crate) fn forward(ffn: &Ffn<'_>, pass: &Pass<'_>, space: &mut Workspace<'_>) {
    let config = pass.config;
    let (d_model, d_ffn) = (config.d_model as usize, (config.d_ffn as usize).max(1));
    space.quantised.fill(pass.backend, space.x, d_model);
    let n = pass.tokens * d_ffn;
    let (gate, rest) = space.hidden.split_at_mut(n.min(space.hidden.len()));
    let (up, _) = rest.split_at_mut(n.min(rest.len()));
    pass.backend
        .matmul(&ffn.gate, &space.quantised.view(), space.x, gate);
    pass.backend
        .matmul(&ffn.up, &space.quantised.view(), space.x, up);
    pass.backend.activate(gate, up, config.activation);
    for row in gate.chunks_exact_mut(d_ffn) {
        pass.backend.rms_norm(row, ffn.sub_norm, config.norm_eps);
    }
    space.quantised.fill(pass.backend, gate, d_ffn);
    pass.backend
        .matmul(&ffn.down, &space.quantised.view(), gate, space.x);
}
