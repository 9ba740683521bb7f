use std::path::Path;

use super::gradients::input;
use super::*;
use crate::config::Mixer;
use crate::data::batch::Batch;
use crate::data::store::Builder;
use crate::engine::Blob;
use crate::engine::export::{Storage, Trained, write};
use crate::model::Model;
use crate::ops::loss::cross_entropy;

const TEXT: &str = "Ada Varga lives by the mill. The mill is old. Ada Varga likes it.\n";

fn source(text: &str, weight: Option<f64>) -> Source {
    let mut builder = Builder::in_memory();
    for i in 0..12 {
        let ids = Tokenizer::bytes().encode(&text.repeat(1 + i % 3)).unwrap();
        builder.push(&ids).unwrap();
        builder.end_document().unwrap();
    }
    Source {
        name: text.into(),
        tokens: builder.finish_in_memory().unwrap(),
        weight,
    }
}

fn small() -> Config {
    let mut config = Config::default();
    config.model = ModelConfig {
        d_model: 16,
        n_layers: 2,
        n_heads: 2,
        d_ffn: 24,
        mini_batch: 4,
        gate: true,
        tie_embeddings: false,
        ..config.model
    };
    config.train.steps = 20;
    config.train.batch = 3;
    config.train.context = 48;
    config.train.checkpoint_every = 7;
    config.train.log_every = 2;
    config.train.eval_every = 4;
    config
}

fn request(config: Config, out: &Path) -> Request {
    Request {
        config,
        data: vec![source(TEXT, None)],
        tokenizer: Tokenizer::bytes(),
        out: out.to_owned(),
        resume: false,
        new_data: false,
        stop_after: None,
        progress: false,
        device: Device::Cpu,
        group: Box::new(Alone),
    }
}

/// Weights and moments by name, without the seconds in the metadata.
fn state(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(dir.join(checkpoint::FILE)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = tensors
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, t.data().to_vec()))
        .collect();
    all.sort();
    all
}

fn steps_logged(dir: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let line = |l: &str| serde_json::from_str::<Line>(l).unwrap().step;
    text.lines().map(line).collect()
}

#[test]
fn a_resumed_run_ends_with_the_very_same_weights_and_moments() {
    let (whole, halves) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(request(small(), whole.path())).unwrap();
    run(Request {
        stop_after: Some(10),
        ..request(small(), halves.path())
    })
    .unwrap();
    assert_ne!(state(whole.path()), state(halves.path()));
    run(Request {
        resume: true,
        ..request(small(), halves.path())
    })
    .unwrap();
    assert_eq!(state(whole.path()), state(halves.path()));
    assert_eq!(steps_logged(whole.path()), steps_logged(halves.path()));
}

/// Two files in other proportions than their sizes.
fn weighted(request: Request) -> Request {
    let other = "12:30, a dog barks. 12:40, it barks again.\n";
    Request {
        data: vec![source(TEXT, Some(1.0)), source(other, Some(4.0))],
        ..request
    }
}

#[test]
fn a_run_on_weighted_files_resumes_on_the_same_rows_and_refuses_others() {
    let (whole, halves) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(weighted(request(small(), whole.path()))).unwrap();
    let part = |stop_after, resume| Request {
        stop_after,
        resume,
        ..request(small(), halves.path())
    };
    run(weighted(part(Some(9), false))).unwrap();
    let error = format!("{:#}", run(part(None, true)).unwrap_err());
    assert!(error.contains("--new-data"), "{error}");
    run(weighted(part(None, true))).unwrap();
    assert_eq!(state(whole.path()), state(halves.path()));
    run(Request {
        new_data: true,
        ..part(Some(20), true)
    })
    .expect_err("the run is at its end");
}

#[test]
fn metrics_after_the_checkpoint_are_dropped_on_resume() {
    let dir = tempfile::tempdir().unwrap();
    run(Request {
        stop_after: Some(6),
        ..request(small(), dir.path())
    })
    .unwrap();
    let path = dir.path().join("metrics.jsonl");
    let kept = std::fs::read_to_string(&path).unwrap();
    let later =
        r#"{"step":8,"loss":1.0,"lr":0.1,"grad_norm":1.0,"tokens_per_second":1.0,"seconds":1.0}"#;
    std::fs::write(&path, format!("{kept}{later}\n{{\"step\":9,\"lo")).unwrap();
    let metrics = Metrics::open(dir.path(), 6).unwrap();
    drop(metrics);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), kept);
}

#[test]
fn a_line_of_a_validation_tells_what_the_model_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small();
    config.model.mixers = vec![Mixer::TttLinear, Mixer::Attention];
    let summary = run(weighted(request(config, dir.path()))).unwrap();
    let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    let lines: Vec<Line> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let probed: Vec<u64> = lines
        .iter()
        .filter(|l| l.probe.is_some())
        .map(|l| l.step)
        .collect();
    assert_eq!(probed, [4, 8, 12, 16, 20]);
    let last = lines.last().unwrap();
    let probe = last.probe.as_ref().unwrap();
    let by_source: f64 = probe
        .by_source
        .iter()
        .zip([0.2, 0.8])
        .map(|(s, share)| share * s.loss)
        .sum();
    assert!((by_source - last.val_loss.unwrap()).abs() < 1e-9);
    assert_eq!(summary.val_loss, last.val_loss);
    let buckets: Vec<_> = probe.by_position.iter().map(|b| (b.from, b.to)).collect();
    assert_eq!(buckets, [(0, 16), (16, 32), (32, 48)]);
    assert_eq!(
        probe.inner_loss.iter().map(|b| b.layer).collect::<Vec<_>>(),
        [0]
    );
    assert!(
        probe.inner_loss.iter().all(|b| b.after < b.before),
        "{:?}",
        probe.inner_loss
    );
    // q, k, v, gate, o, and the network's three, in both blocks.
    assert_eq!(probe.zero_weights.len(), 16);
    assert!(
        probe
            .zero_weights
            .iter()
            .all(|z| (0.1..0.6).contains(&z.share)),
        "{:?}",
        probe.zero_weights
    );
}

#[test]
fn training_lowers_the_loss_and_draws_the_curves() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small();
    config.train.steps = 60;
    let summary = run(request(config, dir.path())).unwrap();
    assert!(summary.loss < 3.6, "{summary:?}");
    assert!(summary.val_loss.unwrap() < 3.6, "{summary:?}");
    let svg = std::fs::read_to_string(dir.path().join("loss.svg")).unwrap();
    assert!(svg.contains("<svg") && svg.contains("held out"));
    let html = std::fs::read_to_string(dir.path().join(report::FILE)).unwrap();
    assert!(html.contains("<h2>Inner loss</h2>"));
}

#[test]
fn a_checkpoint_of_another_configuration_is_refused_by_field() {
    let dir = tempfile::tempdir().unwrap();
    run(Request {
        stop_after: Some(1),
        ..request(small(), dir.path())
    })
    .unwrap();
    let mut other = small();
    other.model.d_ffn = 32;
    let error = run(Request {
        resume: true,
        ..request(other, dir.path())
    })
    .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("model.d_ffn = 24") && error.contains("32"),
        "{error}"
    );
}

#[test]
fn a_damaged_or_missing_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let resume = || {
        run(Request {
            resume: true,
            ..request(small(), dir.path())
        })
    };
    assert!(format!("{:#}", resume().unwrap_err()).contains("checkpoint.safetensors"));
    run(Request {
        stop_after: Some(1),
        ..request(small(), dir.path())
    })
    .unwrap();
    let path = dir.path().join(checkpoint::FILE);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(format!("{:#}", resume().unwrap_err()).contains("not a whole checkpoint"));
}

#[test]
fn a_checkpoint_loads_into_a_model_that_computes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let summary = run(Request {
        stop_after: Some(3),
        ..request(small(), dir.path())
    })
    .unwrap();
    let saved = Checkpoint::load(&summary.checkpoint).unwrap();
    let model = Model::load(&saved.config.model, &saved.weights).unwrap();
    let data = Dataset::new(vec![source(TEXT, None)], 0.1, 48).unwrap();
    let mut sum = 0.0;
    let batches: Vec<_> = data.held_out(0, 85, 64).collect();
    for batch in &batches {
        let logits = model.forward(&input(batch).unwrap()).unwrap();
        let loss = cross_entropy(&logits, &batch.targets).unwrap();
        sum += f64::from(loss.to_scalar::<f32>().unwrap());
    }
    let loss = sum / batches.len() as f64;
    assert!((loss - summary.val_loss.unwrap()).abs() < 1e-5);
}

#[test]
fn the_rate_warms_up_peaks_and_ends_at_the_floor() {
    let train = &Config::default().train;
    let at = |done| schedule::learning_rate(train, done);
    assert!(at(0.0) > 0.0 && at(0.0) < 0.02 * train.lr);
    assert!((at(train.warmup) - train.lr).abs() < 1e-12);
    assert!((at(1.0) - train.lr * train.min_lr).abs() < 1e-12);
    assert!(at(0.3) > at(0.6));
}

#[test]
fn a_time_budget_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small();
    config.train.seconds = Some(2.0);
    config.train.steps = 1_000_000;
    let summary = run(request(config, dir.path())).unwrap();
    assert!(summary.seconds < 20.0 && summary.steps > 1, "{summary:?}");
}

#[test]
fn a_model_of_tokens_alone_is_trained_saved_resumed_and_exported() {
    let mut config = small();
    config.model.vocab_size = 11;
    let rows = Batch {
        rows: 2,
        len: 9,
        tokens: (0..18).map(|i| i % 11).collect(),
        targets: (1..19).map(|i| i % 11).collect(),
    };
    let mut one = Trainer::new(config.clone(), &Device::Cpu).unwrap();
    one.train(&rows).unwrap();
    let dir = tempfile::tempdir().unwrap();
    one.save(dir.path(), None).unwrap();
    let saved = Checkpoint::load(dir.path()).unwrap();
    let mut other = Trainer::new(saved.config.clone(), &Device::Cpu).unwrap();
    other.restore(&saved).unwrap();
    let losses = [&mut one, &mut other].map(|trainer| trainer.train(&rows).unwrap());
    assert_eq!((losses[0], one.step()), (losses[1], 2));

    let error = saved.tokenizer().err().unwrap().to_string();
    assert!(error.contains("tokens alone"), "{error}");
    let path = dir.path().join("model.bttt");
    let trained = Trained {
        config: one.config(),
        weights: &one.weights().unwrap(),
        tokenizer: None,
        steps: one.step(),
    };
    let storage = Storage {
        packed: bitttt_core::format::DType::T2,
        halves: false,
    };
    let row = rows.tokens[..9].to_vec();
    write(&trained, &[row], storage, &path).unwrap();
    assert!(Blob::open(&path).unwrap().model().tokenizer().is_none());
}

#[test]
fn a_schedule_that_has_ended_is_not_gone_on_with_at_a_rate_of_zero() {
    let mut config = small();
    config.model.vocab_size = 5;
    config.train.steps = 1;
    let mut trainer = Trainer::new(config, &Device::Cpu).unwrap();
    let rows = Batch {
        rows: 1,
        len: 4,
        tokens: vec![0, 1, 2, 3],
        targets: vec![1, 2, 3, 4],
    };
    trainer.train(&rows).unwrap();
    let error = trainer.train(&rows).unwrap_err().to_string();
    assert!(error.contains("train.steps"), "{error}");
    trainer.update(&Alone, &rows, 1e-3).unwrap();
}
