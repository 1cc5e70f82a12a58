//! A key: sent to its provider, and shown to nobody.

/// Bytes of a key.
const BYTES_MAX: usize = 4096;

/// What stands where a key stood.
const HIDDEN: &str = "[key]";

/// A provider's key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// `text` without the spaces around it; `None` where it cannot stand in a header, or is too long.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let sound =
            !text.is_empty() && text.len() <= BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
        sound.then(|| Self(text.to_owned()))
    }

    /// The key itself, for the one header that carries it and the place that keeps it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// `text` without the key, wherever it stands in it: providers repeat keys in what they refuse.
    pub fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }
}

/// A key is no business of a log.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HIDDEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key = Secret::new(" sk-abc \n").unwrap();
        assert_eq!((key.reveal(), format!("{key:?}").as_str()), ("sk-abc", HIDDEN));
        assert_eq!(key.hide_in("wrong key sk-abc given"), "wrong key [key] given");
        let long = "k".repeat(BYTES_MAX + 1);
        for wrong in ["", "  ", "two words", "new\nline", "ü", &long] {
            assert!(Secret::new(wrong).is_none(), "{wrong:?}");
        }
    }
}
