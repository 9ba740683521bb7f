//! TTT-Linear (Sun et al. 2024, arXiv 2407.04620): per head a linear model `W, u` that is trained on the stream
//! itself, by one gradient step a mini-batch, in the dual form that needs no `W` per token.

use crate::format::Config;
use crate::kernel::ttt::{TttHead, TttToken};
use crate::math::sigmoid;
use crate::memory::head_state;
use crate::model::TttLinear;
use crate::workspace::{Pass, Workspace};

/// Runs `n` tokens through the mixer: `space.x` holds the normed input and afterwards is free; the result is in
/// `space.hidden[..n * D]`. Returns the number of heads whose update was dropped.
pub(crate) fn forward(
    mixer: &TttLinear<'_>,
    pass: &Pass<'_>,
    state: &mut [f32],
    space: &mut Workspace<'_>,
) -> u32 {
    let config = pass.config;
    let d_model = (config.d_model as usize).max(1);
    let heads = config.n_heads as usize * head_state(config);
    let Some((heads, history)) = state.split_at_mut_checked(heads) else {
        return 0;
    };
    if let Some(taps) = mixer.conv {
        space
            .x
            .chunks_exact_mut(d_model)
            .for_each(|x| pass.backend.conv(x, history, taps));
    }
    space.quantised.fill(pass.backend, space.x, d_model);
    let n = pass.tokens * d_model;
    let (q, rest) = space.hidden.split_at_mut(n.min(space.hidden.len()));
    let (k, rest) = rest.split_at_mut(n.min(rest.len()));
    let (v, rest) = rest.split_at_mut(n.min(rest.len()));
    let gate = rest.get_mut(..n);
    for (matrix, out) in [
        (&mixer.query, &mut *q),
        (&mixer.key, &mut *k),
        (&mixer.value, &mut *v),
    ] {
        pass.backend
            .matmul(matrix, &space.quantised.view(), space.x, out);
    }
    let gate = mixer.gate.as_ref().zip(gate).map(|(matrix, out)| {
        pass.backend
            .matmul(matrix, &space.quantised.view(), space.x, out);
        &*out
    });
    let mut dropped = 0;
    let rows = q
        .chunks_exact_mut(d_model)
        .zip(k.chunks_exact_mut(d_model))
        .zip(v.chunks_exact(d_model));
    for (t, (((q, k), v), x)) in rows.zip(space.x.chunks_exact_mut(d_model)).enumerate() {
        let mut token = Token { q, k, v, x, t };
        dropped += token.learn(mixer, pass, heads, space.rope, space.head);
        pass.backend
            .rms_norm(token.x, mixer.out_norm, config.norm_eps);
    }
    if let Some(gate) = gate {
        pass.backend.gate(space.x, gate);
    }
    space.quantised.fill(pass.backend, space.x, d_model);
    pass.backend
        .matmul(&mixer.output, &space.quantised.view(), space.x, q);
    dropped
}

/// One token's rows, `[D]` each; `x` holds the mixer's input and receives its output.
struct Token<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a [f32],
    x: &'a mut [f32],
    t: usize,
}

impl Token<'_> {
    /// Steps every head; returns how many dropped their update.
    fn learn(
        &mut self,
        mixer: &TttLinear<'_>,
        pass: &Pass<'_>,
        heads: &mut [f32],
        rope: &[f32],
        temp: &mut [f32],
    ) -> u32 {
        let config = pass.config;
        let (d, b) = (
            (config.d_head() as usize).max(1),
            config.mini_batch as usize,
        );
        let i = pass.place(self.t);
        let angles = rope.get(i * d..(i + 1) * d).unwrap_or(&[]);
        let Some((rates, temp)) = split_rates(temp, config) else {
            return 0;
        };
        for (h, rate) in rates.iter_mut().enumerate() {
            *rate = inner_rate(mixer, pass, h, self.x);
        }
        let rows = self
            .q
            .chunks_exact_mut(d)
            .zip(self.k.chunks_exact_mut(d))
            .zip(self.v.chunks_exact(d));
        let mut dropped = 0;
        for (h, (((q, k), v), out)) in rows.zip(self.x.chunks_exact_mut(d)).enumerate() {
            pass.backend.rotate(q, angles);
            pass.backend.rotate(k, angles);
            let rate = rates.get(h).copied().filter(|_| pass.learning);
            let token = TttToken {
                q,
                k,
                v,
                i,
                rate,
                tau: tau(mixer, i),
            };
            let Some(mut head) = head(mixer, config, heads, h) else {
                continue;
            };
            pass.backend.ttt_step(&mut head, &token, temp, out);
            if i + 1 == b && !pass.backend.ttt_close(&mut head, token.tau, temp) {
                dropped += 1;
            }
        }
        dropped
    }
}

/// `lr = base_lr * sigmoid(w_lr . x + b_lr) / d`.
fn inner_rate(mixer: &TttLinear<'_>, pass: &Pass<'_>, h: usize, x: &[f32]) -> f32 {
    let bias = mixer.lr_bias.get(h).copied().unwrap_or(0.0);
    let logit = pass.backend.dot_stored(mixer.lr.row(h, x.len()), x) + bias;
    (pass.config.ttt_base_lr * sigmoid(logit)) / pass.config.d_head() as f32
}

/// `tau_i = max(0, 1 / (i + 1) + c_i)`.
fn tau(mixer: &TttLinear<'_>, i: usize) -> f32 {
    let tau = 1.0 / (i + 1) as f32 + mixer.tau.get(i).copied().unwrap_or(0.0);
    if tau > 0.0 { tau } else { 0.0 }
}

/// The head's temporaries begin with the token's learning rates `[H]`.
fn split_rates<'a>(temp: &'a mut [f32], config: &Config) -> Option<(&'a mut [f32], &'a mut [f32])> {
    temp.split_at_mut_checked(config.n_heads as usize)
}

/// Cuts head `h` out of the layer's state and tensors.
fn head<'s, 'w>(
    mixer: &TttLinear<'w>,
    config: &Config,
    state: &'s mut [f32],
    h: usize,
) -> Option<TttHead<'s, 'w>> {
    let (d, b) = (config.d_head() as usize, config.mini_batch as usize);
    let own = state.chunks_exact_mut(head_state(config).max(1)).nth(h)?;
    let (fast, rest) = own.split_at_mut_checked(d * d + d)?;
    let (keys, rest) = rest.split_at_mut_checked(b * d)?;
    let (grads, rates) = rest.split_at_mut_checked(b * d)?;
    Some(TttHead {
        fast,
        keys,
        grads,
        rates,
        ln_scale: mixer.ln_scale.get(h * d..(h + 1) * d)?,
        ln_bias: mixer.ln_bias.get(h * d..(h + 1) * d)?,
        ln_eps: config.ln_eps,
        w0: mixer.w0.row(h, d * d),
        u0: mixer.u0.row(h, d),
        decay: mixer.decay.and_then(|decay| decay.get(h).copied()),
    })
}

/// Puts a layer's state back to the start of a document.
pub(crate) fn reset(mixer: &TttLinear<'_>, config: &Config, state: &mut [f32]) {
    state.fill(0.0);
    for h in 0..config.n_heads as usize {
        let Some(head) = head(mixer, config, state, h) else {
            return;
        };
        let d = head.ln_scale.len();
        if let Some((w, u)) = head.fast.split_at_mut_checked(d * d) {
            head.w0.copy_to(w);
            head.u0.copy_to(u);
        }
    }
}
