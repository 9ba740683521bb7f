//! Public keys as text.

use bitttt_sign::{SecretKey, SignError, public_key};
use proptest::prelude::*;

/// As `openssl pkey -pubout` writes it.
const PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
";

const KEY: [u8; 32] = match public_key(PEM) {
    Ok(key) => key,
    Err(_) => panic!("known at compile time"),
};

#[test]
fn a_key_of_another_program_is_read_at_compile_time() {
    assert_eq!(KEY[..4], [0xd7, 0x5a, 0x98, 0x01]);
    assert_eq!(KEY[28..], [0xf7, 0x07, 0x51, 0x1a]);
    assert_eq!(public_key(&PEM.replace('\n', "\r\n")), Ok(KEY));
    assert_eq!(public_key(PEM.trim_end()), Ok(KEY));
}

#[test]
fn text_that_is_cut_or_changed_is_no_key_or_another() {
    for length in 0..PEM.trim_end().len() {
        assert_eq!(
            public_key(&PEM[..length]),
            Err(SignError::Pem),
            "{length} letters"
        );
    }
    for at in 0..PEM.trim_end().len() {
        for letter in ['#', '~', ' ', '-', 'Q', '='] {
            let mut text = PEM.to_owned();
            text.replace_range(at..=at, &letter.to_string());
            assert!(text == PEM || public_key(&text) != Ok(KEY), "{text}");
        }
    }
}

#[test]
fn a_secret_key_does_not_show_itself() {
    let secret = SecretKey::from_seed([0xAB; 32]);
    let shown = format!("{secret:?}");
    assert!(
        !shown.contains("171") && !shown.to_lowercase().contains("abab"),
        "{shown}"
    );
    assert!(
        shown.starts_with("SecretKey(") && shown.len() < 60,
        "{shown}"
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,120}", cut in 0..60usize) {
        let _ = public_key(&text);
        let damaged = [&PEM[..cut], &text].concat();
        prop_assert!(public_key(&damaged).is_err());
    }
}
