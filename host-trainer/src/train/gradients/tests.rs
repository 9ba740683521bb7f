use super::*;
use crate::config::{FastStart, Mixer, ModelConfig};
use crate::model;
use crate::ops::loss::IGNORE;

fn config(mixer: Mixer) -> ModelConfig {
    ModelConfig {
        vocab_size: 30,
        d_model: 16,
        n_layers: 2,
        n_heads: 2,
        d_ffn: 24,
        mixer,
        mini_batch: 4,
        ffn_conv: true,
        ..ModelConfig::default()
    }
}

fn built(config: &ModelConfig) -> (Model, Vec<(String, Var)>) {
    let vars = model::init(config, 3).unwrap();
    (Model::from_vars(config, &vars).unwrap(), vars)
}

/// Two rows, the second one shorter.
fn batch(len: usize, short: usize) -> Batch {
    let token = |i: usize| (i * i % 29) as u32;
    let target = |i: usize| match (i / len, i % len) {
        (1, place) if place >= short => IGNORE,
        _ => token(i + 1),
    };
    Batch {
        rows: 2,
        len,
        tokens: (0..2 * len).map(token).collect(),
        targets: (0..2 * len).map(target).collect(),
    }
}

#[test]
fn segments_lose_nothing_of_what_came_before() {
    for mixer in [Mixer::TttLinear, Mixer::TttMlp] {
        let (model, _) = built(&config(mixer));
        let batch = batch(22, 9);
        let whole = token_losses(&model, &batch, 0).unwrap();
        for segment in [4, 8, 12] {
            assert_eq!(
                token_losses(&model, &batch, segment).unwrap(),
                whole,
                "{mixer} {segment}"
            );
        }
    }
}

#[test]
fn the_loss_of_segments_is_that_of_whole_rows_and_every_weight_has_a_gradient() {
    let (model, vars) = built(&config(Mixer::TttLinear));
    let batch = batch(22, 9);
    let (whole, _) = gradients(&model, &vars, &batch, 0, None).unwrap();
    let (cut, grads) = gradients(&model, &vars, &batch, 8, None).unwrap();
    assert!((whole - cut).abs() < 1e-6, "{whole} {cut}");
    for (name, var) in &vars {
        let grad = grads
            .get(var)
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        let size = grad
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(size.is_finite() && size > 0.0, "{name}: {size}");
    }
}

#[test]
fn a_segment_as_long_as_the_rows_changes_no_bit() {
    let (model, vars) = built(&ModelConfig {
        fast_start: FastStart::Identity,
        ..config(Mixer::TttLinear)
    });
    let batch = batch(16, 16);
    let [a, b] = [0, 16].map(|segment| gradients(&model, &vars, &batch, segment, None).unwrap());
    assert_eq!(a.0, b.0);
    for (name, var) in &vars {
        let [a, b] = [&a.1, &b.1].map(|grads| {
            let grad = grads.get(var).unwrap();
            grad.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        assert_eq!(a, b, "{name}");
    }
}

/// What a segment's loss owes to the one before it through the fast weights is cut off; everything else is there: with
/// segments of one mini-batch and fast weights that learn nothing, nothing is cut but the convolutions' edges.
#[test]
fn where_nothing_is_carried_nothing_is_cut() {
    let still = ModelConfig {
        conv: false,
        ffn_conv: false,
        anchor_decay: false,
        fast_start: FastStart::Identity,
        ..config(Mixer::TttLinear)
    };
    let (mut model, vars) = built(&still);
    model.set_base_lr(0.0);
    let batch = batch(12, 12);
    let [whole, cut] =
        [0, 4].map(|segment| gradients(&model, &vars, &batch, segment, None).unwrap().1);
    for (name, var) in vars.iter().filter(|(name, _)| !name.contains("mixer.")) {
        let [whole, cut] = [&whole, &cut].map(|grads| {
            let grad = grads.get(var).unwrap();
            grad.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        let largest = whole.iter().fold(0.0f32, |max, g| max.max(g.abs()));
        for (w, c) in whole.iter().zip(&cut) {
            assert!((w - c).abs() <= 1e-5 * largest, "{name}: {w} {c}");
        }
    }
}

/// What several processes do: each takes its rows, and leaves out of them what one process would.
#[test]
fn rows_apart_leave_out_what_they_leave_out_together() {
    let (model, vars) = built(&config(Mixer::TttLinear));
    let batch = batch(12, 12);
    let dropout = |first_row| {
        Some(Dropout {
            share: 0.3,
            key: 9,
            first_row,
        })
    };
    let loss = |rows: std::ops::Range<usize>, dropout| {
        let part = batch.part(rows);
        gradients(&model, &vars, &part, 0, dropout).unwrap().0
    };
    let whole = loss(0..2, dropout(0));
    let apart = (loss(0..1, dropout(0)) + loss(1..2, dropout(1))) / 2.0;
    assert!((whole - apart).abs() < 1e-6, "{whole} {apart}");
    assert!((whole - loss(0..2, None)).abs() > 1e-4);
}
