//! `bitttt bench`

use super::machine::{backend, parse_threads};
use crate::engine::blob::Blob;
use crate::engine::machine::Machine;
use crate::engine::measure::{Bench, Figure, Test};
use crate::output::Output;
use anyhow::{Result, ensure};
use bitttt_core::Backend;
use bitttt_threads::physical_cores;
use std::path::PathBuf;
use std::time::Duration;

/// Measure decode and prefill: tokens/s, weight bytes a token, and the share of the memory bandwidth that is reached
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The model, a .bttt blob
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Threads to run on; 1 and one for each physical core unless given. May be repeated
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Vec<usize>,
    /// Backend to run on instead of the fastest; `all` runs each that this machine has
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// What to measure, both unless given. May be repeated
    #[arg(long, value_enum)]
    pub test: Vec<Test>,
    /// Time for each figure
    #[arg(long, value_name = "F", default_value_t = 3.0)]
    pub seconds: f64,
    /// Tokens of prefill
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub prompt: usize,
    /// Decode after so many tokens instead of near the start, e.g. 1k,16k,256k,1M; also shows the session's state
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = parse_tokens)]
    pub context: Vec<usize>,
}

const AFTER_HELP: &str = "Examples:
  bitttt synth --shape small --out small.bttt && bitttt bench --model small.bttt
  bitttt bench --model small.bttt --threads 1 --backend all --json
  bitttt bench --model small.bttt --test decode --context 1k,16k,256k

Weight bytes a token are those of all matrices, norms and one row of the embedding; in prefill a batch of tokens shares
them. Fast weights, keys and values are state and do not count. The bandwidth is what the same threads read of the same
file in a plain sum, in turns with the model. Beyond 1024 tokens a context is not read but set: attention then reads a
cache of that length that holds mostly zeros. The file is not checked byte by byte, as other commands do.";

/// Runs the command.
///
/// # Errors
/// An unreadable model, a backend that this machine has not, too little memory.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    ensure!(
        args.seconds.is_finite() && args.seconds > 0.0,
        "--seconds {} must be more than 0",
        args.seconds
    );
    ensure!(
        args.prompt > 0,
        "--prompt 0 leaves nothing to read; give at least 1"
    );
    let backends = match args.backend.as_deref() {
        None => vec![Backend::detect()],
        Some("all") => Backend::all().collect(),
        Some(name) => vec![backend(name)?],
    };
    let mut threads = args.threads.clone();
    if threads.is_empty() {
        threads = vec![1, physical_cores()];
        threads.dedup();
    }
    let blob = Blob::open_unverified(&args.model)?;
    out.say(format!(
        "{}: {:.1} MB",
        args.model.display(),
        blob.bytes().len() as f64 / 1e6
    ));
    out.say(heading(args));
    let mut figures = Vec::new();
    for backend in backends {
        for &threads in &threads {
            let machine = Machine::new(backend, threads)?;
            let bench = Bench {
                blob: &blob,
                machine: &machine,
                time: Duration::from_secs_f64(args.seconds),
            };
            measure(&bench, args, &mut |figure| {
                out.say(line(&figure));
                figures.push(figure);
            })?;
        }
    }
    out.result(&figures)
}

/// All figures of one backend and number of threads.
fn measure(bench: &Bench<'_>, args: &Args, show: &mut dyn FnMut(Figure)) -> Result<()> {
    let wanted = |test| args.test.is_empty() || args.test.contains(&test);
    if wanted(Test::Decode) && args.context.is_empty() {
        show(bench.decode(None)?);
    }
    if wanted(Test::Decode) {
        for &context in &args.context {
            show(bench.decode(Some(context))?);
        }
    }
    if wanted(Test::Prefill) {
        show(bench.prefill(args.prompt)?);
    }
    Ok(())
}

fn heading(args: &Args) -> String {
    let state = if args.context.is_empty() {
        ""
    } else {
        "   context     state MB"
    };
    format!(
        "{:<8} {:>7}  {:<7} {:>10}  {:>10}  {:>9}  {:>6}{state}",
        "backend", "threads", "test", "tokens/s", "MB a token", "read GB/s", "share"
    )
}

fn line(figure: &Figure) -> String {
    let test = match figure.test {
        Test::Decode => "decode",
        Test::Prefill => "prefill",
    };
    let state = match (figure.context, figure.state_bytes) {
        (Some(context), Some(bytes)) => format!("{context:>10} {:>12.3}", bytes as f64 / 1e6),
        _ => String::new(),
    };
    format!(
        "{:<8} {:>7}  {test:<7} {:>10.1}  {:>10.3}  {:>9.1}  {:>5.1}%{state}",
        figure.backend,
        figure.threads,
        figure.tokens_per_s,
        figure.weight_bytes_per_token / 1e6,
        figure.read_gb_s,
        figure.bandwidth_share * 100.0
    )
}

/// `512`, `16k` (16 * 1024), `1M`.
fn parse_tokens(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        _ => (text, 1),
    };
    let tokens = number.parse::<usize>().ok();
    match tokens.and_then(|tokens| tokens.checked_mul(unit)) {
        Some(tokens) if tokens > 0 => Ok(tokens),
        _ => Err(format!(
            "`{text}` is not a number of tokens; write 512, 16k or 1M"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_take_units() {
        assert_eq!(parse_tokens("512"), Ok(512));
        assert_eq!(parse_tokens("16k"), Ok(16_384));
        assert_eq!(parse_tokens("1M"), Ok(1 << 20));
        for bad in [
            "",
            "k",
            "0",
            "1.5k",
            "99999999999999999999",
            "99999999999999M",
        ] {
            assert!(parse_tokens(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn columns_stand_under_their_headings() {
        let figure = Figure {
            backend: "avx512",
            threads: 16,
            test: Test::Prefill,
            tokens_per_s: 123_456.78,
            weight_bytes_per_token: 4.5e8,
            read_gb_s: 356.7,
            bandwidth_share: 0.876,
            context: None,
            state_bytes: None,
        };
        let args = Args {
            model: PathBuf::new(),
            threads: vec![],
            backend: None,
            test: vec![],
            seconds: 1.0,
            prompt: 1,
            context: vec![],
        };
        assert_eq!(heading(&args).len(), line(&figure).len());
        let (args, figure) = (
            Args {
                context: vec![5],
                ..args
            },
            Figure {
                context: Some(1 << 20),
                state_bytes: Some(1 << 32),
                ..figure
            },
        );
        assert_eq!(heading(&args).len(), line(&figure).len());
    }
}
