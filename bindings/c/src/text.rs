//! Text and tokens, by the tokenizer in the blob.

use crate::pointer::{addresses, given};
use crate::session::Session;
use crate::status::{Status, status};
use bitttt_core::Tokenizer;
use core::ffi::c_char;

/// Turns text into tokens. Never makes special tokens: put `document_token` in front of a document yourself.
///
/// `text`: `text_len` bytes, any; the 0 at the end of a C string does not count.
/// `tokens`: room for `tokens_len` tokens; as many as the text has bytes are always enough.
/// `count`: set to the number of tokens.
///
/// Errors: `BITTTT_STATUS_BUFFER` (some of `tokens` may have been written then), `BITTTT_STATUS_NO_TOKENIZER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_encode(
    session: *const Session,
    text: *const c_char,
    text_len: usize,
    tokens: *mut u32,
    tokens_len: usize,
    count: *mut usize,
) -> Status {
    given!(session, text, tokens, count);
    status(|| {
        let session = session.session()?;
        let [memory, blob] = session.taken();
        let text = text.bytes(text_len, &[memory.clone(), blob.clone()])?;
        let tokens = tokens.items(tokens_len, &[memory, blob, addresses(text)])?;
        let count = count.place()?;
        count.write(tokenizer(session)?.encode(text, tokens)?);
        Ok(())
    })
}

/// The bytes of a token, which may be part of a UTF-8 character only.
///
/// `text`: set to the bytes, which lie in the blob and have no 0 at their end.
/// `len`: set to their number; 0 for special tokens and for tokens out of range.
///
/// Errors: `BITTTT_STATUS_NO_TOKENIZER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bitttt_decode(
    session: *const Session,
    token: u32,
    text: *mut *const c_char,
    len: *mut usize,
) -> Status {
    given!(session, text, len);
    status(|| {
        let (text, len) = (text.place()?, len.place()?);
        let bytes = tokenizer(session.session()?)?.decode(token);
        text.write(bytes.as_ptr().cast());
        len.write(bytes.len());
        Ok(())
    })
}

fn tokenizer(session: &Session) -> Result<Tokenizer<'static>, Status> {
    session.model().tokenizer().ok_or(Status::NoTokenizer)
}
