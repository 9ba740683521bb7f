//! Times `cortex_rust` on a model of random weights: `peer-cortex HIDDEN LAYERS VOCAB SECONDS TEST [packed]`, TEST
//! `decode` or `prefill:TOKENS`. It prints one line of JSON with the tokens per second of every repetition.
//!
//! The model is built as its loader of safetensors builds it, f32 weights as they are; `packed` then calls
//! `precompute_packed`, as its Python class does, which takes it to its 2-bit kernel. The state is given here: the one
//! it makes itself has another shape than its layers want.

use candle_core::{DType, Device, Error, Result, Tensor, bail};
use cortex_rust::{ActivationType, BitLlama, BitLlamaConfig, ModelArch};
use std::collections::HashMap;
use std::time::Instant;

/// Tokens that prefill reads with the same fast weights, as its trainer does.
const CHUNK: usize = 32;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [hidden, layers, vocab, seconds, test, packed @ ..] = arguments.as_slice() else {
        bail!("usage: peer-cortex HIDDEN LAYERS VOCAB SECONDS TEST [packed]");
    };
    let config = config(parse(hidden)?, parse(layers)?, parse(vocab)?);
    let mut model = BitLlama::load_direct(config.clone(), &weights(&config)?)?;
    if !packed.is_empty() {
        model.precompute_packed()?;
    }
    let seconds: f64 = seconds.parse().map_err(Error::wrap)?;
    let rates = match test.split_once(':') {
        None if test == "decode" => decode(&mut model, &config, seconds)?,
        Some(("prefill", tokens)) => prefill(&model, &config, parse(tokens)?, seconds)?,
        _ => bail!("{test} is not a test: decode or prefill:TOKENS"),
    };
    println!(r#"{{"tokens_per_s":{rates:?}}}"#);
    Ok(())
}

fn parse(number: &str) -> Result<usize> {
    number.parse().map_err(Error::wrap)
}

/// The seed's kind of model: `ttt-lite` mixers, an FFN of four times the width.
fn config(hidden_dim: usize, num_layers: usize, vocab_size: usize) -> BitLlamaConfig {
    BitLlamaConfig {
        arch: ModelArch::TTT,
        vocab_size,
        hidden_dim,
        num_layers,
        n_heads: hidden_dim / 64,
        n_kv_heads: hidden_dim / 64,
        intermediate_dim: Some(4 * hidden_dim),
        inner_lr: 0.1,
        n_gpu_layers: Some(0),
        rope_theta: 10_000.0,
        max_position_embeddings: 2048,
        lm_head_cpu: true,
        sliding_window: None,
        attention_sink_size: None,
        quantization: None,
        rms_norm_eps: 1e-5,
        activation: ActivationType::SiLU,
    }
}

fn weights(config: &BitLlamaConfig) -> Result<HashMap<String, Tensor>> {
    let (width, ffn, vocab) = (config.hidden_dim, 4 * config.hidden_dim, config.vocab_size);
    let small = width / 4;
    let norm = Tensor::ones(width, DType::F32, &Device::Cpu)?;
    let mut all = HashMap::from([("norm_f.weight".to_owned(), norm.clone())]);
    let mut matrix = |name: String, rows: usize, columns: usize| -> Result<()> {
        let weight = Tensor::randn(0_f32, 0.05, (rows, columns), &Device::Cpu)?;
        all.insert(format!("{name}.weight"), weight);
        Ok(())
    };
    matrix("embed".into(), vocab, width)?;
    matrix("lm_head".into(), vocab, width)?;
    for layer in 0..config.num_layers {
        matrix(format!("layers.{layer}.ttt.down"), small, width)?;
        matrix(format!("layers.{layer}.ttt.up"), width, small)?;
        matrix(format!("layers.{layer}.mlp.gate_proj"), ffn, width)?;
        matrix(format!("layers.{layer}.mlp.up_proj"), ffn, width)?;
        matrix(format!("layers.{layer}.mlp.down_proj"), width, ffn)?;
    }
    for layer in 0..config.num_layers {
        for name in ["norm1", "norm2"] {
            all.insert(format!("layers.{layer}.{name}.weight"), norm.clone());
        }
    }
    Ok(all)
}

/// One zero matrix a layer, with as many leading ones as the call wants.
fn state(config: &BitLlamaConfig, batch_dims: usize) -> Result<Vec<Tensor>> {
    let small = config.hidden_dim / 4;
    let shape = [vec![1; batch_dims], vec![small, small]].concat();
    let zeros = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
    Ok(vec![zeros; config.num_layers])
}

/// Tokens per second, one token a repetition.
fn decode(model: &mut BitLlama, config: &BitLlamaConfig, seconds: f64) -> Result<Vec<f64>> {
    let mut state = state(config, 2)?;
    let mut token = 0_u32;
    repeat(1, seconds, || {
        token = (token + 1) % config.vocab_size as u32;
        let token = Tensor::new(&[[token]], &Device::Cpu)?;
        read(&model.forward_one(&token, &mut state)?)
    })
}

/// Tokens per second, one prompt a repetition.
fn prefill(
    model: &BitLlama,
    config: &BitLlamaConfig,
    tokens: usize,
    seconds: f64,
) -> Result<Vec<f64>> {
    let prompt: Vec<u32> = (0..tokens as u32).collect();
    let prompt = Tensor::new(prompt, &Device::Cpu)?.unsqueeze(0)?;
    repeat(tokens, seconds, || {
        let logits = model.forward_chunkwise(&prompt, &mut state(config, 1)?, CHUNK)?;
        read(&logits.narrow(1, tokens - 1, 1)?)
    })
}

/// Reads the logits, so that nothing may be left out; they must be numbers.
fn read(logits: &Tensor) -> Result<()> {
    let sum: f32 = logits.flatten_all()?.to_vec1::<f32>()?.iter().sum();
    if !sum.is_finite() {
        bail!("the logits are not finite");
    }
    Ok(())
}

/// Repeats within the time, at least three times, after once to warm up.
fn repeat(tokens: usize, seconds: f64, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    run()?;
    let mut rates = Vec::new();
    let start = Instant::now();
    while rates.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        let one = Instant::now();
        run()?;
        rates.push(tokens as f64 / one.elapsed().as_secs_f64());
    }
    Ok(rates)
}
