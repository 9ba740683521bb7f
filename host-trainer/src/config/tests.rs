use super::*;

fn refused(text: &str) -> String {
    format!("{:#}", Config::parse(text).expect_err("must be refused"))
}

#[test]
fn a_config_survives_a_round_trip_through_toml() {
    let mut config = Config::quickstart();
    config.data = ["a.txt", "b=2.bin=0.25"].map(|f| f.parse().unwrap()).into();
    config.data[0].weight = Some(0.75);
    let text = toml::to_string(&config).unwrap();
    assert_eq!(Config::parse(&text).unwrap(), config);
}

#[test]
fn an_empty_config_is_the_default() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

#[test]
fn an_unknown_field_is_refused_with_its_name_and_line() {
    let error = refused("[model]\nd_modle = 128\n");
    assert!(
        error.contains("d_modle") && error.contains("line 2"),
        "{error}"
    );
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn impossible_fields_are_refused_by_name() {
    for (text, name) in [
        ("[model]\nd_model = 100\nn_heads = 3", "d_model"),
        ("[model]\nd_model = 12\nn_heads = 4", "n_heads"),
        ("[model]\nmini_batch = 0", "mini_batch"),
        ("[model]\nn_layers = 1000000000000", "n_layers"),
        ("[model]\nnorm_eps = 1.0", "norm_eps"),
        ("[model]\nrope_theta = 1.0", "rope_theta"),
        ("[train]\nbatch = 1000000000000", "batch"),
        ("[model]\nmixer = \"mamba\"", "mamba"),
        ("[model]\nmixers = [\"attention\", \"mamba\"]", "mamba"),
        (
            "[model]\nn_layers = 4\nmixers = [\"attention\", \"ttt-lite\", \"ttt-mlp\"]",
            "model.mixers",
        ),
        (
            "[model]\nmixer = \"attention\"\nn_heads = 4\nkv_heads = 3",
            "kv_heads",
        ),
        ("[model]\nkv_heads = 2", "kv_heads"),
        ("[model]\nwindow = 64", "window"),
        ("[model]\ncontext = 64", "model.context"),
        (
            "[model]\nmixer = \"attention\"\ncontext = 64\nwindow = 64",
            "model.window",
        ),
        (
            "[model]\nmixer = \"ttt-lite\"\nd_model = 90\nn_heads = 9",
            "d_model",
        ),
        ("[model]\nmixer = \"ttt-lite\"\ngate = true", "model.gate"),
        ("[[data]]\nweight = 1.0", "path"),
        ("[[data]]\npath = \"a\"\nweight = -1.0", "a has weight -1"),
        (
            "[[data]]\npath = \"a\"\nweight = 1.0\n[[data]]\npath = \"b\"",
            "b has no weight",
        ),
        ("[train]\nlr = -1.0", "train.lr"),
        ("[train]\nbeta2 = 1.0", "beta2"),
        ("[train]\ncontext = 1", "context"),
    ] {
        let error = refused(text);
        assert!(error.contains(name), "{text}: {error}");
    }
}

#[test]
fn a_vocabulary_smaller_than_the_tokenizers_is_refused() {
    let mut model = ModelConfig {
        vocab_size: 100,
        ..ModelConfig::default()
    };
    let error = model.fit_vocab(257).unwrap_err().to_string();
    assert!(error.contains("100") && error.contains("257"), "{error}");
    model.vocab_size = 0;
    model.fit_vocab(257).unwrap();
    assert_eq!(model.vocab_size, 257);
}

#[test]
fn a_cache_holds_what_the_training_saw_unless_told_otherwise() {
    let context = |model: &str| {
        let text = format!("[model]\n{model}\n[train]\ncontext = 96");
        Config::parse(&text).unwrap().kv_context()
    };
    assert_eq!(context("mixers = [\"ttt-linear\", \"attention\"]"), 96);
    assert_eq!(context("mixer = \"attention\"\ncontext = 500"), 500);
    assert_eq!(context("mixer = \"attention\"\nwindow = 32"), 0);
    assert_eq!(context("mixer = \"ttt-mlp\""), 0);
}

#[test]
fn a_weight_is_what_stands_behind_the_last_equals_sign() {
    let parse = |text: &str| {
        let file: DataFile = text.parse().unwrap();
        (file.path.to_str().unwrap().to_owned(), file.weight)
    };
    assert_eq!(parse("a.bin=0.7"), ("a.bin".into(), Some(0.7)));
    assert_eq!(parse("a=b.bin=3"), ("a=b.bin".into(), Some(3.0)));
    assert_eq!(parse("a=b.bin"), ("a=b.bin".into(), None));
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("lr=0.1");
    std::fs::write(&odd, "x").unwrap();
    assert_eq!(
        parse(odd.to_str().unwrap()),
        (odd.to_str().unwrap().into(), None)
    );
}
