//! Any calls on sessions of any valid model: what is promised of every stream holds.

use crate::models::{bits, memory, tiny_config};
use arbitrary::{Arbitrary, Result, Unstructured};
use bitttt_core::format::{Activation, Config, DType, LayerConfig, Mixer};
use bitttt_core::{Backend, Batch, Learning, Model, Session, snapshot};
use bitttt_export::random::blueprint;
use bitttt_export::{AlignedCopy, Blueprint, TensorData};

/// One call on a session.
#[derive(Arbitrary, Debug)]
enum Call {
    Step(u16),
    Prefill([u8; 7], u8),
    Freeze,
    Learn,
    Reset,
    /// Saved, disturbed, restored.
    Restore(u16),
}

/// Most calls that one input makes.
const CALLS: usize = 24;
/// What fast weights are held within (docs/NUMERICS.md).
const BOUND: f32 = 65_536.0;

/// A model and calls by the bytes.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(blueprint) = model(&mut input) else {
        return;
    };
    let blob = AlignedCopy::of(&blueprint.to_bytes().expect("drawn by the rules"));
    let model = Model::from_bytes(blob.bytes()).expect("what the exporter writes loads");
    model.verify().expect("what the exporter writes is valid");
    let batch = Batch::new(5);
    let memories = memory(&model, batch).zip(memory(&model, Batch::ONE));
    let Some((mut fast, mut plain)) = memories else {
        return;
    };
    let mut fast = Session::new(model, batch, &mut fast).expect("enough memory");
    let mut plain = Session::with_backend(model, Batch::ONE, &mut plain, Backend::SCALAR)
        .expect("enough memory");
    for _ in 0..CALLS {
        let Ok(call) = Call::arbitrary(&mut input) else {
            return;
        };
        both(&call, &mut fast, &mut plain);
        assert_eq!(fast.state_hash(), plain.state_hash(), "{call:?}");
        check(&fast);
        if input.is_empty() {
            return;
        }
    }
}

/// The same call on both, which must do the same.
fn both<'m, 's>(call: &Call, fast: &mut Session<'m, 's>, plain: &mut Session<'m, 's>) {
    let vocab = fast.model().config().vocab_size;
    match call {
        Call::Step(token) => read(&[u32::from(*token)], fast, plain),
        Call::Prefill(bytes, count) => {
            let count = usize::from(*count) % (bytes.len() + 1);
            let tokens: Vec<u32> = bytes[..count]
                .iter()
                .map(|&b| u32::from(b) % vocab)
                .collect();
            read(&tokens, fast, plain);
        }
        Call::Freeze => [fast, plain]
            .into_iter()
            .for_each(|s| s.set_learning(Learning::Frozen)),
        Call::Learn => [fast, plain]
            .into_iter()
            .for_each(|s| s.set_learning(Learning::On)),
        Call::Reset => [fast, plain].into_iter().for_each(Session::reset),
        Call::Restore(token) => {
            for session in [fast, plain] {
                let mut bytes = vec![0; snapshot::HEADER_BYTES + 4 * session.state().len()];
                session.snapshot(&mut bytes).expect("room for it");
                let before = session.state_hash();
                let _ = session.step(u32::from(*token) % vocab);
                session.restore(&bytes).expect("its own snapshot");
                assert_eq!(before, session.state_hash());
            }
        }
    }
}

/// Tokens at once and one by one: the same logits, or the same refusal with nothing read.
fn read(tokens: &[u32], fast: &mut Session<'_, '_>, plain: &mut Session<'_, '_>) {
    let before = fast.state_hash();
    let mut rows = Vec::new();
    let together = fast.prefill_with(tokens, &mut |_, logits| rows.push(bits(logits)));
    if together.is_err() {
        assert_eq!(before, fast.state_hash());
        return;
    }
    for (&token, row) in tokens.iter().zip(&rows) {
        let logits = plain.step(token).expect("the other session took it");
        assert_eq!(&bits(logits), row, "token {token}");
        assert!(logits.iter().all(|x| x.is_finite()), "token {token}");
    }
}

/// Everything learned is finite, and fast weights are bounded. What else a state holds, gradients and inputs of a model with
/// weights as extreme as these, is bounded by nothing else.
fn check(session: &Session<'_, '_>) {
    let layer = session.model().layer_config(0).expect("one layer");
    if layer.needs_context() || layer.mixer == Mixer::Attention {
        return; // halves, two to a word; the logits tell
    }
    let state = session.state();
    assert!(state.iter().all(|x| x.is_finite()));
    let (heads, fast) = fast_weights(session.model().config(), layer.mixer);
    for head in state.chunks_exact(heads.1).take(heads.0) {
        let largest = head[..fast].iter().fold(0.0f32, |max, x| max.max(x.abs()));
        assert!(largest <= BOUND, "{largest}");
    }
}

/// Heads and words of each, and how many of them, at the front, are fast weights (docs/FORMAT.md, "Snapshot").
fn fast_weights(config: &Config, mixer: Mixer) -> ((usize, usize), usize) {
    let (h, b) = (usize::from(config.n_heads), usize::from(config.mini_batch));
    let d = config.d_model as usize / h;
    match mixer {
        Mixer::TttMlp => {
            let fast = 8 * d * d + 5 * d;
            ((h, fast + 10 * b * d + b), fast)
        }
        Mixer::TttLite => {
            let quarter = d * h / 4;
            ((1, quarter * quarter), quarter * quarter)
        }
        _ => ((h, d * d + d + 2 * b * d + b), d * d + d),
    }
}

/// A valid model of one layer with weights that may be extreme.
fn model(input: &mut Unstructured<'_>) -> Result<Blueprint> {
    let layer = layer(input)?;
    let config = Config {
        activation: *input.choose(&[Activation::Silu, Activation::Relu2])?,
        ttt_base_lr: *input.choose(&[0.0, 0.1, 1.0, 30.0, 1e4])?,
        mini_batch: *input.choose(&[1, 2, 4, 16])?,
        float_activations: input.arbitrary()?,
        tied: input.arbitrary()?,
        ..tiny_config()
    };
    let dtypes = [DType::T2, DType::T5, DType::I8, DType::F16, DType::F32];
    let mut blueprint = blueprint(
        &config,
        &[layer],
        *input.choose(&dtypes)?,
        input.arbitrary::<u8>()?.into(),
    );
    let factor = *input.choose(&[1.0f32, 0.0, 1e-6, 100.0, 1e4])?;
    for data in blueprint.tensors.values_mut() {
        if input.ratio(1, 4)? {
            scale(data, factor);
        }
    }
    Ok(blueprint)
}

fn scale(data: &mut TensorData, factor: f32) {
    match data {
        TensorData::Ternary { scale, .. } => *scale *= factor,
        TensorData::TernaryRows { scales, .. } | TensorData::Int8 { scales, .. } => {
            scales.iter_mut().for_each(|s| *s *= factor);
        }
        TensorData::F16(values) => values
            .iter_mut()
            .for_each(|x| *x = (*x * factor).clamp(-6e4, 6e4)),
        TensorData::F32(values) => values.iter_mut().for_each(|x| *x *= factor),
    }
}

fn layer(input: &mut Unstructured<'_>) -> Result<LayerConfig> {
    let mixer = *input.choose(&Mixer::ALL)?;
    let flags: u16 = input.arbitrary::<u16>()? & mixer.allowed_flags();
    let attention = mixer == Mixer::Attention;
    let kv_heads = *input.choose(&[1, 3])?;
    let window = *input.choose(&[0, 1, 9])?;
    use bitttt_core::format::layer::*;
    let on = |flag: u16| flags & flag != 0;
    Ok(LayerConfig {
        conv: on(LAYER_CONV),
        ffn_conv: on(LAYER_FFN_CONV),
        identity: on(LAYER_IDENTITY),
        head_rates: on(LAYER_HEAD_RATES),
        gate: on(LAYER_GATE),
        decay: on(LAYER_DECAY),
        plain: on(LAYER_PLAIN),
        layer_norm: on(LAYER_LAYER_NORM),
        pre_conv: on(LAYER_PRE_CONV),
        shared_qk: on(LAYER_SHARED_QK),
        gelu_gate: on(LAYER_GELU_GATE),
        kv_f32: on(LAYER_KV_F32),
        kv_heads: if attention { kv_heads } else { 0 },
        window: if attention { window } else { 0 },
        ..LayerConfig::of(mixer)
    })
}
