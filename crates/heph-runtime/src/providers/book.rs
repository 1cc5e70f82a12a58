//! The providers that a person added, in a file that can be read and written by hand.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use heph_providers::{Provider, ProviderError};
use serde::{Deserialize, Serialize};

/// The file below HEPH's folder.
pub(crate) const FILE: &str = "providers.toml";

/// Bytes of it.
const BYTES_MAX: u64 = 1 << 20;

/// Providers in it.
const PROVIDERS_MAX: usize = 64;

/// What stands above them, for whoever opens the file.
const TITLE: &str = "\
# Outside providers that you added (`heph providers add`). Keys are kept elsewhere.
# sees = \"text\" lets a provider see what it is asked; without it nothing is sent there.
# price: credits for a million tokens. retention: \"nothing\", \"30 days\", \"trains\" or \"unknown\".
";

/// Why the providers are not known.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The file cannot be read or written.
    #[error("cannot {step} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It says something that has no meaning, so nothing is sent to anybody.
    #[error("{} cannot be read, so no provider is asked: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What has no meaning.
        why: String,
    },
    /// An entry is none.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// There is one of that name.
    #[error("there is a provider called {0} already")]
    Taken(String),
    /// There is none.
    #[error("no provider is called {0:?}")]
    Unknown(String),
    /// There are as many as may be.
    #[error("there are {PROVIDERS_MAX} providers, and no more are kept")]
    Full,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, rename = "provider")]
    providers: Vec<Provider>,
}

/// The providers of one person.
#[derive(Debug)]
pub struct ProviderBook {
    path: PathBuf,
    list: Vec<Provider>,
}

impl ProviderBook {
    /// Those kept below `home`, HEPH's folder; none where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, or any of it has no meaning.
    pub fn open(home: &Path) -> Result<Self, BookError> {
        let path = home.join(FILE);
        let failed = |cause| BookError::Io {
            step: "read",
            path: path.clone(),
            cause,
        };
        let text = match fs::metadata(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => String::new(),
            Err(cause) => return Err(failed(cause)),
            Ok(about) if about.len() > BYTES_MAX => {
                return Err(failed(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is too long",
                )));
            }
            Ok(_) => fs::read_to_string(&path).map_err(failed)?,
        };
        match read(&text) {
            Ok(list) => Ok(Self { path, list }),
            Err(why) => Err(BookError::Damaged { path, why }),
        }
    }

    /// All of them.
    pub fn list(&self) -> &[Provider] {
        &self.list
    }

    /// The provider of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<&Provider, BookError> {
        let found = self.list.iter().find(|provider| provider.name == name);
        found.ok_or_else(|| BookError::Unknown(name.chars().take(64).collect()))
    }

    /// The provider and its model of a name such as `openai/gpt-x`; nothing where no provider is called so.
    pub fn named<'a>(&self, name: &'a str) -> Option<(&Provider, &'a str)> {
        let (provider, model) = name.split_once('/')?;
        Some((self.find(provider).ok()?, model))
    }

    /// Adds a provider, and keeps the list.
    ///
    /// # Errors
    /// When it is none, its name is taken, or the file cannot be written.
    pub fn add(&mut self, provider: Provider) -> Result<(), BookError> {
        let provider = provider.checked()?;
        if self.find(&provider.name).is_ok() {
            return Err(BookError::Taken(provider.name));
        }
        if self.list.len() >= PROVIDERS_MAX {
            return Err(BookError::Full);
        }
        self.list.push(provider);
        self.keep()
    }

    /// Changes the provider of that name, and keeps the list.
    ///
    /// # Errors
    /// As [`ProviderBook::add`].
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Provider)) -> Result<(), BookError> {
        let mut changed = self.find(name)?.clone();
        change(&mut changed);
        let changed = changed.checked()?;
        if let Some(place) = self.list.iter_mut().find(|provider| provider.name == name) {
            *place = changed;
        }
        self.keep()
    }

    /// Removes the provider of that name, and keeps the list.
    ///
    /// # Errors
    /// When there is none, or the file cannot be written.
    pub fn remove(&mut self, name: &str) -> Result<Provider, BookError> {
        let found = self.find(name)?.clone();
        self.list.retain(|provider| provider.name != name);
        self.keep()?;
        Ok(found)
    }

    fn keep(&self) -> Result<(), BookError> {
        let failed = |cause| BookError::Io {
            step: "write",
            path: self.path.clone(),
            cause,
        };
        let written = Written {
            providers: self.list.clone(),
        };
        let body = toml::to_string(&written).map_err(|error| failed(io::Error::other(error)))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        // There whole or not at all, and only for its owner.
        let mut beside = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        io::Write::write_all(&mut beside, format!("{TITLE}\n{body}").as_bytes()).map_err(failed)?;
        beside.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn read(text: &str) -> Result<Vec<Provider>, String> {
    let written: Written = toml::from_str(text).map_err(|error| first_line(&error.to_string()))?;
    if written.providers.len() > PROVIDERS_MAX {
        return Err(format!("it names more than {PROVIDERS_MAX}"));
    }
    let mut list: Vec<Provider> = Vec::new();
    for provider in written.providers {
        let provider = provider.checked().map_err(|error| error.to_string())?;
        if list.iter().any(|known| known.name == provider.name) {
            return Err(format!("two are called {}", provider.name));
        }
        list.push(provider);
    }
    Ok(list)
}

/// A parser's sentence without its picture of the place.
fn first_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    match lines.next_back() {
        Some(last) => format!("{first}: {last}"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use heph_types::Leaves;

    use super::*;

    const SAID: &str = r#"
        [[provider]]
        name = "eu-cloud"
        dialect = "vllm"
        url = "https://llm.example/v1"
        models = ["big", "org/small"]
        sees = "text"
        region = "eu-west"
        retention = "30 days"
        price = { prompt = 0.5, answer = 1.5 }
        speed = { first_token_ms = 300, tokens_per_s = 60 }

        [[provider]]
        name = "laptop"
        dialect = "ollama"
        url = "http://192.168.1.9:11434"
        models = ["m"]
        role = "own"
    "#;

    #[test]
    fn what_is_written_by_hand_is_read_kept_and_read_again() {
        let home = tempfile::tempdir().unwrap();
        assert!(ProviderBook::open(home.path()).unwrap().list().is_empty());
        fs::write(home.path().join(FILE), SAID).unwrap();
        let mut book = ProviderBook::open(home.path()).unwrap();
        let (provider, model) = book.named("eu-cloud/org/small").unwrap();
        assert_eq!((provider.name.as_str(), model), ("eu-cloud", "org/small"));
        assert!(book.named("nobody/x").is_none() && book.named("laptop").is_none());
        book.change("laptop", |provider| provider.sees = Leaves::Text)
            .unwrap();
        let again = ProviderBook::open(home.path()).unwrap();
        assert_eq!(again.list(), book.list());
        assert!(
            fs::read_to_string(home.path().join(FILE))
                .unwrap()
                .starts_with("# Outside")
        );
        let eu = book.remove("eu-cloud").unwrap();
        assert!(matches!(book.remove("eu-cloud"), Err(BookError::Unknown(_))));
        book.add(eu.clone()).unwrap();
        assert!(matches!(book.add(eu), Err(BookError::Taken(_))));
    }

    #[test]
    fn a_file_that_cannot_be_understood_lets_nothing_leave() {
        let home = tempfile::tempdir().unwrap();
        let one = |change: (&str, &str)| SAID.replacen(change.0, change.1, 1);
        let wrong = [
            "[[provider]".to_owned(),
            one(("dialect = \"vllm\"", "dialect = \"telepathy\"")),
            one(("sees = \"text\"", "sees = \"all\"")),
            one(("sees = \"text\"", "seen = \"text\"")),
            one(("https://llm.example", "http://llm.example")),
            one(("name = \"laptop\"", "name = \"eu-cloud\"")),
            one(("answer = 1.5", "answer = -1.5")),
            one(("\"30 days\"", "\"a while\"")),
            one(("models = [\"m\"]", "models = []")),
        ];
        for text in wrong {
            fs::write(home.path().join(FILE), &text).unwrap();
            let opened = ProviderBook::open(home.path());
            assert!(matches!(opened, Err(BookError::Damaged { .. })), "{text}");
        }
    }
}
