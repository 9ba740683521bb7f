//! Text to tokens and back.

use crate::support::*;
use bitttt_c::status::Status;
use bitttt_c::text::*;
use bitttt_core::format::Config;
use bitttt_export::random::FULL_LAYER;
use std::ptr::{null, null_mut};

#[test]
fn text_goes_to_tokens_and_back() {
    let live = Live::new(learner(1));
    let mut tokens = [0u32; 3];
    let at = tokens.as_mut_ptr();
    let encode = |at, len| {
        // SAFETY: as C must.
        result(|to| unsafe { bitttt_encode(live.session, c"Ada".as_ptr(), 3, at, len, to) })
    };
    assert_eq!(encode(at, 2), Err(Status::Buffer));
    assert_eq!(encode(null_mut(), 3), Err(Status::Null));
    assert_eq!(encode(at, 3), Ok(3));
    let (mut text, mut len) = (null(), 0);
    let mut decode = |token| {
        // SAFETY: as C must; the text lies in the blob.
        unsafe {
            let status = bitttt_decode(live.session, token, &raw mut text, &raw mut len);
            assert_eq!(status, Status::Ok);
            std::slice::from_raw_parts(text.cast::<u8>(), len)
        }
    };
    assert_eq!(decode(tokens[0]), b"A");
    assert_eq!(decode(tokens[1]), b"d");
    assert_eq!(decode(0), b"");
    assert_eq!(decode(257), b"");
}

#[test]
fn a_text_over_its_own_tokens_is_refused() {
    let live = Live::new(learner(1));
    let mut both = [0u32; 8];
    let at = both.as_mut_ptr();
    // SAFETY: the overlap is refused before either is followed.
    let encoded = result(|to| unsafe { bitttt_encode(live.session, at.cast(), 3, at, 8, to) });
    assert_eq!(encoded, Err(Status::Overlap));
}

#[test]
fn a_blob_without_tokenizer_has_no_text() {
    let config = Config {
        vocab_size: 100,
        ..tiny()
    };
    let live = Live::new(blob(&config, FULL_LAYER, 1));
    let (mut tokens, mut text, mut len) = ([0; 3], null(), 0);
    // SAFETY: as C must.
    unsafe {
        let at = tokens.as_mut_ptr();
        let encoded = result(|to| bitttt_encode(live.session, c"Ada".as_ptr(), 3, at, 3, to));
        assert_eq!(encoded, Err(Status::NoTokenizer));
        let decoded = bitttt_decode(live.session, 1, &raw mut text, &raw mut len);
        assert_eq!(decoded, Status::NoTokenizer);
    }
}
