use super::*;

fn refused(text: &str) -> String {
    format!("{:#}", Config::parse(text).expect_err("must be refused"))
}

#[test]
fn a_config_survives_a_round_trip_through_toml() {
    let config = Config::quickstart();
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
