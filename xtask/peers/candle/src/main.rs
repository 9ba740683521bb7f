//! Times Candle's quantised llama on a GGUF file: `peer-candle FILE SECONDS TEST...`, TEST one of `decode:TOKENS` and
//! `prefill:TOKENS`. For each test it prints one line of JSON with the tokens per second of every repetition.

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Result, Tensor, bail};
use candle_transformers::models::quantized_llama::ModelWeights;
use std::fs::File;
use std::io::BufReader;
use std::time::Instant;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, seconds, tests @ ..] = arguments.as_slice() else {
        bail!("usage: peer-candle FILE SECONDS TEST...");
    };
    let seconds: f64 = seconds.parse().map_err(candle_core::Error::wrap)?;
    let mut model = load(file)?;
    for test in tests {
        let Some((name, tokens)) = test.split_once(':') else {
            bail!("{test} is not a test: decode:TOKENS or prefill:TOKENS");
        };
        let tokens: usize = tokens.parse().map_err(candle_core::Error::wrap)?;
        let run: fn(&mut ModelWeights, usize) -> Result<()> = match name {
            "decode" => decode,
            "prefill" => prefill,
            _ => bail!("{name} is not a test: decode or prefill"),
        };
        let rates = rates(tokens, seconds, || run(&mut model, tokens))?;
        println!(r#"{{"test":"{name}","tokens_per_s":{rates:?}}}"#);
    }
    Ok(())
}

fn load(file: &str) -> Result<ModelWeights> {
    let mut reader = BufReader::new(File::open(file)?);
    let content = Content::read(&mut reader)?;
    ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)
}

/// Token by token from an empty context.
fn decode(model: &mut ModelWeights, tokens: usize) -> Result<()> {
    model.clear_kv_cache();
    for position in 0..tokens {
        forward(model, &[position as u32], position)?;
    }
    Ok(())
}

/// All tokens at once into an empty context.
fn prefill(model: &mut ModelWeights, tokens: usize) -> Result<()> {
    model.clear_kv_cache();
    let prompt: Vec<u32> = (0..tokens as u32).collect();
    forward(model, &prompt, 0)
}

/// Runs the tokens and reads the logits, so that nothing may be left out; they must be numbers.
fn forward(model: &mut ModelWeights, tokens: &[u32], position: usize) -> Result<()> {
    let logits = model.forward(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?, position)?;
    let sum: f32 = logits.flatten_all()?.to_vec1::<f32>()?.iter().sum();
    if !sum.is_finite() {
        bail!("the logits are not finite");
    }
    Ok(())
}

/// Tokens per second of every repetition within the time, at least one, after one to warm up.
fn rates(tokens: usize, seconds: f64, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    run()?;
    let mut rates = Vec::new();
    let start = Instant::now();
    while rates.is_empty() || start.elapsed().as_secs_f64() < seconds {
        let one = Instant::now();
        run()?;
        rates.push(tokens as f64 / one.elapsed().as_secs_f64());
    }
    Ok(rates)
}
