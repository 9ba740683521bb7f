//! What a model writes, token by token, and the texts that end it.

use super::Utf8Stream;

/// Tokens' bytes to text that may be shown: whole characters, up to a text to stop at.
#[derive(Debug)]
pub struct Written {
    characters: Utf8Stream,
    stop: StopText,
}

impl Written {
    /// Stops at any of these texts.
    pub fn new(stops: &[String]) -> Self {
        Self {
            characters: Utf8Stream::default(),
            stop: StopText::new(stops),
        }
    }

    /// Takes a token's bytes; returns what may be shown now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.stop.push(&self.characters.push(bytes))
    }

    /// Whether a text to stop at has come.
    pub fn stopped(&self) -> bool {
        self.stop.found()
    }

    /// What was held back to the end.
    pub fn finish(mut self) -> String {
        let last = self.stop.push(&self.characters.finish());
        last + &self.stop.finish()
    }
}

/// Lets text through until one of some texts comes, which never is let through: what may be the beginning of one is
/// held back until it is clear.
#[derive(Clone, Debug, Default)]
pub struct StopText {
    stops: Vec<String>,
    held: String,
    found: bool,
}

impl StopText {
    /// Stops at any of these; empty ones are left out.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            ..Self::default()
        }
    }

    /// Whether a text has come; then nothing is let through any more.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Takes text; returns what is let through.
    pub fn push(&mut self, text: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held += text;
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop));
        let clear = match first.min() {
            Some(at) => {
                self.found = true;
                at
            }
            None => self.held.len() - self.begun(),
        };
        let rest = self.held.split_off(clear);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back and did not become one.
    pub fn finish(self) -> String {
        if self.found { String::new() } else { self.held }
    }

    /// Bytes at the end that may begin one.
    fn begun(&self) -> usize {
        let longest = |stop: &String| {
            let starts = stop.char_indices().map(|(at, _)| at).rev();
            starts
                .into_iter()
                .find(|&n| self.held.ends_with(&stop[..n]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(texts: &[&str]) -> StopText {
        StopText::new(&texts.iter().map(|&s| s.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_may_begin_a_stop_is_held_back_until_it_is_clear() {
        let mut stop = stops(&["\nUser:", "###"]);
        assert_eq!(stop.push("one\nU"), "one");
        assert_eq!(stop.push("s"), "");
        assert_eq!(stop.push("ual\n"), "\nUsual");
        assert_eq!(stop.push("##"), "\n");
        assert!(!stop.found());
        assert_eq!(stop.push("# more"), "");
        assert!(stop.found());
        assert_eq!(stop.push("and more"), "");
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn what_was_held_back_comes_out_at_the_end() {
        let mut stop = stops(&["日本"]);
        assert_eq!(stop.push("今日"), "今");
        assert_eq!(stop.finish(), "日");
    }

    proptest! {
        #[test]
        fn what_comes_out_does_not_depend_on_the_pieces(text in "[ab日]{0,12}", cut in 1usize..5, stop in "[ab日]{1,3}") {
            let chars: Vec<char> = text.chars().collect();
            let mut matcher = stops(&[&stop]);
            let mut shown = String::new();
            for piece in chars.chunks(cut) {
                shown += &matcher.push(&piece.iter().collect::<String>());
            }
            shown += &matcher.finish();
            prop_assert_eq!(shown, text.split(&stop).next().unwrap());
        }
    }
}
