use super::*;
use crate::config;
use candle_core::Device;

/// A stack with every kind of mixer.
fn small() -> (ModelConfig, Vec<(String, Var)>) {
    use config::Mixer::{Attention, TttLinear, TttLite, TttMlp};
    small_of(&[TttLinear, TttMlp, TttLite, Attention])
}

fn small_of(mixers: &[config::Mixer]) -> (ModelConfig, Vec<(String, Var)>) {
    let config = ModelConfig {
        vocab_size: 30,
        d_model: 16,
        n_layers: mixers.len(),
        n_heads: 2,
        d_ffn: 24,
        mixers: mixers.to_vec(),
        kv_heads: usize::from(mixers.contains(&config::Mixer::Attention)),
        mini_batch: 4,
        gate: true,
        ..ModelConfig::default()
    };
    let vars = init(&config, 3).unwrap();
    (config, vars)
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    let tokens = Tensor::new(tokens, &Device::Cpu)
        .unwrap()
        .unsqueeze(0)
        .unwrap();
    model
        .forward(&tokens)
        .unwrap()
        .squeeze(0)
        .unwrap()
        .to_vec2()
        .unwrap()
}

#[test]
fn logits_depend_on_no_later_token() {
    let (config, vars) = small();
    let model = Model::from_vars(&config, &vars).unwrap();
    let (a, b) = (
        logits(&model, &[1, 2, 3, 4, 5, 6, 7]),
        logits(&model, &[1, 2, 3, 4, 5, 9, 8]),
    );
    assert_eq!(a[..5], b[..5]);
    assert_ne!(a[5..], b[5..]);
}

#[test]
fn every_weight_has_a_gradient() {
    let (config, vars) = small();
    check_gradients(&config, &vars);
}

fn check_gradients(config: &ModelConfig, vars: &[(String, Var)]) {
    let model = Model::from_vars(config, vars).unwrap();
    let tokens = Tensor::new(&[[1u32, 2, 3, 1, 2, 3, 1, 2, 3]], &Device::Cpu).unwrap();
    let gradients = model
        .forward(&tokens)
        .unwrap()
        .sqr()
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    for (name, var) in vars {
        let gradient = gradients
            .get(var)
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        let size = gradient
            .abs()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(size.is_finite() && size > 0.0, "{name}: {size}");
    }
}

#[test]
fn a_light_model_stores_no_starts_and_no_token_rates_and_has_all_gradients() {
    let config = ModelConfig {
        ffn_conv: true,
        fast_start: config::FastStart::Identity,
        inner_rate: config::InnerRate::Head,
        ..small_of(&[config::Mixer::TttLinear; 2]).0
    };
    let vars = init(&config, 3).unwrap();
    let has = |name: &str| vars.iter().any(|(n, _)| n == name);
    assert!(has("layers.1.ffn.conv.weight"));
    for name in ["w0", "u0", "lr.weight"] {
        assert!(!has(&format!("layers.1.mixer.{name}")), "{name}");
    }
    check_gradients(&config, &vars);
}

/// Both round activations to 8 bits; where a sum lies at a tie, another order of terms gives another code.
#[test]
fn the_plain_graph_has_the_same_logits_and_gradients() {
    let light = ModelConfig {
        ffn_conv: true,
        fast_start: config::FastStart::Identity,
        inner_rate: config::InnerRate::Head,
        ..small_of(&[config::Mixer::TttLinear; 2]).0
    };
    for config in [small_of(&[config::Mixer::TttLinear; 2]).0, light] {
        let vars = init(&config, 3).unwrap();
        let tokens = Tensor::new(&[[1u32, 2, 3, 1, 2, 3, 1, 2, 3, 4]], &Device::Cpu).unwrap();
        let fused = Model::from_vars(&config, &vars)
            .unwrap()
            .forward(&tokens)
            .unwrap();
        let plain = plain::PlainModel::from_vars(&config, &vars).unwrap();
        let plain = plain.forward(&tokens).unwrap();
        let length = |t: &Tensor| {
            let squares = t.sqr().unwrap().sum_all().unwrap();
            squares.to_scalar::<f32>().unwrap().sqrt()
        };
        let apart = |a: &Tensor, b: &Tensor| length(&(a - b).unwrap()) / length(b);
        assert!(apart(&fused, &plain) < 1e-3, "{}", apart(&fused, &plain));
        let [fused, plain] = [fused, plain].map(|y| y.sqr().unwrap().backward().unwrap());
        for (name, var) in &vars {
            let apart = apart(fused.get(var).unwrap(), plain.get(var).unwrap());
            assert!(apart < 2e-2, "{name}: {apart}");
        }
    }
}

#[test]
fn a_base_rate_of_zero_freezes_what_is_learned_in_the_stream() {
    use config::Mixer::{TttLinear, TttLite, TttMlp};
    for kind in [TttLinear, TttMlp, TttLite] {
        let (config, vars) = small_of(&[TttLinear, kind]);
        let mut model = Model::from_vars(&config, &vars).unwrap();
        let tokens = [1, 2, 1, 2, 1, 2, 1, 2, 1];
        let learning = logits(&model, &tokens);
        model.blocks[1].mixer.set_base_lr(0.0);
        assert_ne!(logits(&model, &tokens), learning, "{kind:?}");
    }
}

#[test]
fn every_block_that_learns_in_the_stream_tells_its_inner_loss() {
    let (config, vars) = small();
    let model = Model::from_vars(&config, &vars).unwrap();
    let tokens = Tensor::new(
        &[[1u32, 2, 1, 2, 1, 2, 1, 2], [3, 4, 3, 4, 0, 0, 0, 0]],
        &Device::Cpu,
    );
    let losses = model.inner_losses(&tokens.unwrap(), &[8, 4]).unwrap();
    let means: Vec<_> = losses.iter().map(|l| l.and_then(|l| l.means())).collect();
    assert!(
        means[..3]
            .iter()
            .all(|m| m.is_some_and(|[b, a]| b > 0.0 && a > 0.0 && a != b)),
        "{means:?}"
    );
    assert_eq!(means[3], None, "attention learns nothing");
}

#[test]
fn a_stack_repeats_its_mixers() {
    use config::Mixer::{Attention, TttLite};
    let mut config = small_of(&[TttLite, Attention]).0;
    config.n_layers = 4;
    let has = |l: usize, name: &str| {
        let name = format!("layers.{l}.{name}");
        specs(&config).iter().any(|spec| spec.name == name)
    };
    for l in 0..4 {
        assert_eq!(has(l, "mixer.down.weight"), l % 2 == 0);
        assert_eq!(has(l, "mixer.q.weight"), l % 2 == 1);
    }
}

#[test]
fn a_missing_or_misshapen_tensor_is_named() {
    let (config, vars) = small();
    let mut weights: HashMap<String, Tensor> = vars
        .iter()
        .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
        .collect();
    let name = "layers.1.mixer.o.weight";
    weights.insert(
        name.into(),
        Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap(),
    );
    assert!(
        Model::load(&config, &weights)
            .err()
            .unwrap()
            .to_string()
            .contains(name)
    );
    weights.remove(name);
    assert!(
        Model::load(&config, &weights)
            .err()
            .unwrap()
            .to_string()
            .contains(name)
    );
}

#[test]
fn memories_lie_geometrically_between_the_shortest_and_the_longest() {
    let decays = |n_heads, memory| {
        let config = ModelConfig {
            vocab_size: 30,
            d_model: 4 * n_heads,
            n_layers: 1,
            n_heads,
            d_ffn: 8,
            mini_batch: 16,
            memory,
            ..ModelConfig::default()
        };
        let vars = init(&config, 3).unwrap();
        let (_, var) = vars
            .iter()
            .find(|(name, _)| name.ends_with("decay"))
            .unwrap();
        let logits = var.to_vec1::<f32>().unwrap();
        // Mini-batches after which 1/e is left.
        let memory = |logit: f32| 1.0 + (-logit).exp();
        logits.into_iter().map(memory).collect::<Vec<_>>()
    };
    let close = |got: Vec<f32>, want: &[f32]| {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got / want - 1.0).abs() < 1e-3, "{got} {want}");
        }
    };
    close(
        decays(3, 32 * 16 * 64 * 64),
        &[32.0, 32.0 * 64.0, 32.0 * 64.0 * 64.0],
    );
    close(decays(1, 16_000), &[1000.0]);
    close(decays(2, 0), &[201.3, 201.3]);
}
