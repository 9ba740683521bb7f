//! `ttt-lite`: features of a quarter of the width, one matrix that learns to reproduce them token by token (the delta
//! rule; Widrow and Hoff 1960), and its prediction as the mixer's output. The least state and arithmetic of all mixers.

use crate::block::Block;
use crate::format::Role;
use crate::kernel::lite::LiteStep;
use crate::pieces::Cut;
use crate::workspace::{Cutter, Pass, Workspace};

/// Runs the pass's tokens, see [`super::forward`]. Returns how many updates were dropped.
#[cfg_attr(bitttt_micro, inline(never))]
pub(super) fn forward(
    block: &Block<'_, '_>,
    pass: &Pass<'_>,
    w: &mut [f32],
    space: &mut Workspace<'_>,
) -> u32 {
    let config = pass.config;
    let (d_model, m) = (config.d_model as usize, (config.d_lite() as usize).max(1));
    let mut cutter = Cutter(&mut *space.hidden);
    let out = cutter.take(pass.tokens * d_model);
    let (f, p) = (cutter.take(pass.tokens * m), cutter.take(pass.tokens * m));
    pass.quantise(&mut space.quantised, space.x, d_model);
    let down = [(Role::Down, &mut *f)];
    pass.matmul(block, &space.quantised, space.x, down);
    let decay = block
        .vector(Role::Decay)
        .and_then(|decay| decay.first().copied());
    let mut dropped = 0;
    for (t, (f, p)) in f.pieces_mut(m).zip(p.pieces_mut(m)).enumerate() {
        let last = pass.place(t) + 1 == usize::from(config.mini_batch);
        let step = LiteStep {
            rate: pass.learning.then_some(config.ttt_base_lr),
            decay: decay.filter(|_| last),
        };
        dropped += u32::from(!pass.backend.lite_step(w, step, f, p));
    }
    pass.quantise(&mut space.quantised, p, m);
    pass.matmul(block, &space.quantised, p, [(Role::Up, out)]);
    dropped
}
