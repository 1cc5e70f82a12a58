//! The `--name value` pairs of the command line.

use std::collections::BTreeMap;

/// What was said on the command line; a flag without a value counts as `1`.
pub struct Arguments(BTreeMap<String, String>);

impl Arguments {
    /// Reads `--name value` pairs.
    ///
    /// # Errors
    /// A word that is neither a name nor a value.
    pub fn read(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut words = words.peekable();
        let mut pairs = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .ok_or_else(|| format!("{word} stands where a --name should"))?;
            let value = words
                .next_if(|next| !next.starts_with("--"))
                .unwrap_or_else(|| "1".to_owned());
            pairs.insert(name.to_owned(), value);
        }
        Ok(Self(pairs))
    }

    /// The value of `name`, which must be there.
    ///
    /// # Errors
    /// The name is missing.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        self.0
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| format!("--{name} is missing"))
    }

    /// The whole number after `name`, or `otherwise`.
    ///
    /// # Errors
    /// The value is no whole number.
    pub fn number(&self, name: &str, otherwise: usize) -> Result<usize, String> {
        match self.0.get(name) {
            None => Ok(otherwise),
            Some(value) => value
                .parse()
                .map_err(|_| format!("--{name} {value} is no whole number")),
        }
    }

    /// The comma-separated whole numbers after `name`; none when it is not said.
    ///
    /// # Errors
    /// One of the values is no whole number above 0.
    pub fn numbers(&self, name: &str) -> Result<Vec<usize>, String> {
        let Some(value) = self.0.get(name) else {
            return Ok(Vec::new());
        };
        value
            .split(',')
            .map(|part| {
                part.parse()
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(|| format!("--{name} {value} is no list"))
            })
            .collect()
    }
}
