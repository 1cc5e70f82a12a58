//! The name of a model in the store: also the name of its folder, so it may not lead anywhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes: file systems stop at 255, and the staging folder adds `.` and `.import`.
pub const NAME_LEN_MAX: usize = 100;

/// A checked name: letters, digits, `.`, `_` and `-`, not starting with a dot or a dash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a model: 1 to {NAME_LEN_MAX} letters, digits, '.', '_' or '-', and no '.' or '-' first"
)]
pub struct NameError(String);

impl ModelName {
    /// `text` as a name.
    ///
    /// # Errors
    /// When it has other characters, is empty or too long.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let good = (1..=NAME_LEN_MAX).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.starts_with(['.', '-'])
            && !text.ends_with('.');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.to_owned()))
        }
    }

    /// The name a file or repository suggests: its last part without `.gguf` or a shard number.
    ///
    /// # Errors
    /// When nothing of it can be a name.
    pub fn suggested_by(path: &str) -> Result<Self, NameError> {
        let last = path
            .trim_end_matches(['/', '\\'])
            .rsplit(['/', '\\'])
            .next()
            .unwrap_or_default();
        let stem = last.strip_suffix(".gguf").unwrap_or(last);
        let stem = super::source::shard(stem).map_or(stem, |s| s.stem);
        let kept: String = stem
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "._-".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        Self::new(kept.trim_start_matches(['.', '-']).trim_end_matches('.'))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ModelName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.0
    }
}

/// The known name that `text` most likely meant, if one is close: at most a third of it typed wrongly.
pub(super) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let close = known.map(|name| (distance(text, name), name));
    let (steps, name) = close.min()?;
    (steps * 3 <= text.chars().count().max(3)).then(|| name.to_owned())
}

/// Single-letter changes between two texts (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(NAME_LEN_MAX).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(NAME_LEN_MAX).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            ".hidden",
            "-rf",
            "a b",
            "ä",
            "nul.",
            &"x".repeat(101),
        ] {
            assert!(ModelName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "TinyLlama-1.1B.Q4_K_M", &"x".repeat(100)] {
            assert_eq!(ModelName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn paths_and_repositories_suggest_names() {
        let cases = [
            ("some/where/tiny.gguf", "tiny"),
            ("owner/Tiny Chat", "Tiny-Chat"),
            ("big-00001-of-00003.gguf", "big"),
            ("folder/", "folder"),
        ];
        for (path, name) in cases {
            assert_eq!(ModelName::suggested_by(path).unwrap().as_str(), name, "{path}");
        }
        assert!(ModelName::suggested_by("/").is_err());
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = || ["heph-story", "tiny"].into_iter();
        assert_eq!(nearest("heph-stroy", known()), Some("heph-story".into()));
        assert_eq!(nearest("tony", known()), Some("tiny".into()));
        assert_eq!(nearest("mistral", known()), None);
    }
}
