//! Bytes of tokens joined to characters.

/// Joins token bytes to characters: a character split over tokens is held back until it is whole.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes a token's bytes; returns the text that is complete now. Bytes that can never become a character
    /// come out as U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend(bytes);
        let whole = complete(&self.pending);
        let rest = self.pending.split_off(whole);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    /// What is left at the end.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Length of what no further bytes can change: all but a character begun at the end.
fn complete(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Err(error) = std::str::from_utf8(&bytes[at..]) {
        at += error.valid_up_to();
        match error.error_len() {
            Some(broken) => at += broken,
            None => return at,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_split_over_tokens_comes_out_whole() {
        let mut stream = Utf8Stream::default();
        let shown: Vec<String> = "aé日".bytes().map(|b| stream.push(&[b])).collect();
        assert_eq!(shown, ["a", "", "é", "", "", "日"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn broken_bytes_are_replaced_and_do_not_block_what_follows() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(&[0xFF]), "\u{FFFD}");
        assert_eq!(stream.push(b"ok"), "ok");
        assert_eq!(stream.push(&[0xFF, 0xE6]), "\u{FFFD}");
        assert_eq!(stream.push(&[0x97, 0xA5]), "日");
        assert_eq!(stream.push(&[0xE6]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }
}
