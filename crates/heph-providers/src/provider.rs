//! What a person says of a provider: where it is, what it speaks, what it keeps, costs and may see.

use std::net::IpAddr;
use std::str::FromStr;

use heph_privacy::policy::Destination;
use heph_types::{Leaves, NodeId, Role};
use serde::{Deserialize, Serialize};
use url::Url;

/// Bytes of a name, and of a model's.
const NAME_MAX: usize = 64;
const MODEL_MAX: usize = 200;

/// Models of one provider.
const MODELS_MAX: usize = 256;

/// What a provider's API looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// OpenAI's chat completions, and whoever else speaks them.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Ollama's chat.
    Ollama,
    /// vLLM and SGLang: OpenAI's shape with more numbers, tokens as prompts, and probabilities of a prompt.
    #[serde(rename = "vllm")]
    Vllm,
    /// llama.cpp's server.
    LlamaServer,
    /// Google's Gemini.
    Gemini,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::OpenAi,
        Self::Anthropic,
        Self::Ollama,
        Self::Vllm,
        Self::LlamaServer,
        Self::Gemini,
    ];

    /// The word for it in settings and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
            Self::Vllm => "vllm",
            Self::LlamaServer => "llama-server",
            Self::Gemini => "gemini",
        }
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|dialect| dialect.name() == text);
        known.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("{text:?} is no dialect; known are {}", names.join(", "))
        })
    }
}

/// Where a provider is asked, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(Url);

/// Why an address is none to send a text to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no address.
    #[error("{0:?} is no address that starts with https:// or http://")]
    NoAddress(String),
    /// A name, a key or a question stands in it.
    #[error("an address holds no user, key, question or fragment")]
    More,
    /// The text would go over the internet for everybody to read.
    #[error("http:// is for machines of one's own network; {0} needs https://")]
    Plain(String),
}

impl Address {
    /// Whether only programs of this machine can read what is sent there.
    pub fn is_loopback(&self) -> bool {
        self.ip()
            .map_or(self.host() == "localhost", |ip| ip.is_loopback())
    }

    /// Whether what is sent there is encrypted on the way.
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The host's name.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The host's name as resolvers know it: an address of IPv6 without its brackets.
    pub fn bare_host(&self) -> &str {
        self.host().trim_matches(['[', ']'])
    }

    /// The port, also where it is the usual one and stands nowhere.
    pub fn port(&self) -> u16 {
        let usual = if self.is_encrypted() { 443 } else { 80 };
        self.0.port().unwrap_or(usual)
    }

    /// What stands in the first line of a request for `path` below this address.
    pub(crate) fn target(&self, path: &str) -> String {
        format!("{}{path}", self.0.path().trim_end_matches('/'))
    }

    fn ip(&self) -> Option<IpAddr> {
        self.bare_host().parse().ok()
    }

    fn is_near(&self) -> bool {
        let private = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        };
        self.ip().map_or(self.host() == "localhost", private)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let none = || AddressError::NoAddress(text.chars().take(NAME_MAX).collect());
        let url = Url::parse(text.trim()).map_err(|_| none())?;
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
            return Err(none());
        }
        let more = !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if more {
            return Err(AddressError::More);
        }
        let address = Self(url);
        match address.is_encrypted() || address.is_near() {
            true => Ok(address),
            false => Err(AddressError::Plain(address.host().to_owned())),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// What a provider keeps of what it is shown, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Retention {
    /// Nothing.
    Nothing,
    /// All of it, for so many days.
    Days(u32),
    /// All of it, and it trains models with it.
    Trains,
    /// It does not say.
    #[default]
    Unknown,
}

impl FromStr for Retention {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let days = || text.strip_suffix(" days").or_else(|| text.strip_suffix(" day"));
        match text {
            "nothing" => Ok(Self::Nothing),
            "trains" => Ok(Self::Trains),
            "unknown" => Ok(Self::Unknown),
            _ => days()
                .and_then(|days| days.trim().parse().ok())
                .map(Self::Days)
                .ok_or_else(|| format!("{text:?} is none of nothing, \"30 days\", trains and unknown")),
        }
    }
}

impl std::fmt::Display for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Days(days) => write!(f, "{days} days"),
            Self::Trains => f.write_str("trains"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl TryFrom<String> for Retention {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Retention> for String {
    fn from(retention: Retention) -> Self {
        retention.to_string()
    }
}

/// Where a provider computes: a word of small letters, digits and dashes, as in `eu` or `us-east`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(String);

impl FromStr for Region {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sound = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match (2..=32).contains(&text.len()) && text.bytes().all(sound) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is no region; write it as in eu or us-east")),
        }
    }
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Region {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0
    }
}

/// Credits for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Of the prompt.
    pub prompt: f64,
    /// Of the answer.
    pub answer: f64,
}

impl Rates {
    /// Credits for so many tokens.
    pub fn of(&self, prompt: u64, answer: u64) -> f64 {
        (self.prompt * prompt as f64 + self.answer * answer as f64) / 1e6
    }

    /// Tokens of an answer that `credits` pay for, after a prompt of at most so many tokens; `None` where they do not even
    /// pay for one.
    pub fn answer_tokens(&self, credits: f64, prompt_max: u64) -> Option<u64> {
        let left = credits - self.of(prompt_max, 0);
        let tokens = match self.answer > 0.0 {
            true => (left * 1e6 / self.answer).floor(),
            false => f64::MAX,
        };
        (left >= 0.0 && tokens >= 1.0).then_some(tokens as u64)
    }

    fn is_sound(&self) -> bool {
        let sound = |rate: f64| rate.is_finite() && rate >= 0.0;
        sound(self.prompt) && sound(self.answer)
    }
}

/// How fast a provider is thought to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Milliseconds until the first token.
    pub first_token_ms: f64,
    /// Tokens a second after it.
    pub tokens_per_s: f64,
}

/// An outside provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// What the person calls it: small letters, digits, dots and dashes. `NAME/MODEL` asks it for a model.
    pub name: String,
    /// What it speaks.
    pub dialect: Dialect,
    /// Where.
    pub url: Address,
    /// Models that are asked for, as it calls them.
    pub models: Vec<String>,
    /// What it is to the person: `cloud`, unless it is a machine of one's own or a data centre near by.
    #[serde(default = "cloud")]
    pub role: Role,
    /// What it may see: `text` where the person allowed it.
    #[serde(default = "nothing", with = "sees")]
    pub sees: Leaves,
    /// Where it computes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// What it keeps.
    #[serde(default)]
    pub retention: Retention,
    /// What it costs; not said where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Rates>,
    /// How fast it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Pace>,
}

fn cloud() -> Role {
    Role::Cloud
}

fn nothing() -> Leaves {
    Leaves::Nothing
}

/// What a provider may see is nothing or the text.
mod sees {
    use heph_types::Leaves;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(sees: &Leaves, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(if *sees == Leaves::Text { "text" } else { "nothing" })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Leaves, D::Error> {
        match String::deserialize(from)?.as_str() {
            "text" => Ok(Leaves::Text),
            "nothing" => Ok(Leaves::Nothing),
            other => Err(de::Error::custom(format!(
                "{other:?} is neither text nor nothing"
            ))),
        }
    }
}

/// Why an entry is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The name is none.
    #[error("{0:?} is no name for a provider: 1 to {NAME_MAX} small letters, digits, dots and dashes")]
    Name(String),
    /// There are no models, too many, or one whose name is none.
    #[error("the provider {0} needs 1 to {MODELS_MAX} models whose names have up to {MODEL_MAX} letters")]
    Models(String),
    /// A number means nothing.
    #[error("the provider {0} has a price or a speed that is no number from 0 on")]
    Numbers(String),
}

impl Provider {
    /// The provider, where everything that is said of it has a meaning.
    ///
    /// # Errors
    /// The first thing that has none.
    pub fn checked(self) -> Result<Self, ProviderError> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
        let named = !self.name.is_empty()
            && self.name.len() <= NAME_MAX
            && self.name.bytes().all(letter)
            && !self.name.starts_with('.');
        if !named {
            return Err(ProviderError::Name(self.name.chars().take(NAME_MAX).collect()));
        }
        let model = |name: &String| {
            !name.is_empty() && name.len() <= MODEL_MAX && name.bytes().all(|b| b.is_ascii_graphic())
        };
        if self.models.is_empty() || self.models.len() > MODELS_MAX || !self.models.iter().all(model) {
            return Err(ProviderError::Models(self.name));
        }
        let fast = |pace: &Pace| {
            let sound = |number: f64| number.is_finite() && number >= 0.0;
            sound(pace.first_token_ms) && sound(pace.tokens_per_s)
        };
        if !self.price.iter().all(Rates::is_sound) || !self.speed.iter().all(fast) {
            return Err(ProviderError::Numbers(self.name));
        }
        Ok(self)
    }

    /// Where it is, for rules. Whoever does not say how long it keeps what it sees, or trains with it, keeps it for ever.
    pub fn destination(&self) -> Destination {
        Destination {
            kind: self.role.into(),
            name: self.name.clone(),
            id: self.node().to_string(),
            region: self.region.as_ref().map(Region::to_string).unwrap_or_default(),
            retention_days: match self.retention {
                Retention::Nothing => Some(0),
                Retention::Days(days) => Some(days),
                Retention::Trains | Retention::Unknown => None,
            },
        }
    }

    /// Its name among nodes: derived from what it is called and where it is, so that no machine can have it.
    pub fn node(&self) -> NodeId {
        let material = format!("{}\n{}", self.name, self.url);
        NodeId(blake3::derive_key(
            "HEPH 2026-11 outside provider",
            material.as_bytes(),
        ))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A provider that may see text.
    pub(crate) fn provider(dialect: &str, url: &str) -> Provider {
        Provider {
            name: "mock".to_owned(),
            dialect: dialect.parse().unwrap(),
            url: url.parse().unwrap(),
            models: vec!["m".to_owned()],
            role: Role::Cloud,
            sees: Leaves::Text,
            region: None,
            retention: Retention::Unknown,
            price: None,
            speed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::provider;
    use super::*;

    #[test]
    fn a_text_goes_unencrypted_to_ones_own_network_alone() {
        for sound in [
            "https://api.example/v1",
            "http://127.0.0.1:8000",
            "http://localhost:1/v1/",
            "http://[::1]:9",
            "http://192.168.1.7:8000/v1",
            "http://10.0.0.1",
        ] {
            let address: Address = sound.parse().unwrap();
            assert_eq!(address.to_string(), sound.trim_end_matches('/'));
        }
        let plain = |text: &str| matches!(text.parse::<Address>(), Err(AddressError::Plain(_)));
        assert!(plain("http://api.example/v1") && plain("http://8.8.8.8") && plain("http://10.example"));
        for wrong in ["", "ftp://x", "api.example", "https://", "javascript:1"] {
            assert!(
                matches!(wrong.parse::<Address>(), Err(AddressError::NoAddress(_))),
                "{wrong}"
            );
        }
        for more in ["https://u:p@x", "https://k@x", "https://x?key=1", "https://x#y"] {
            assert_eq!(more.parse::<Address>(), Err(AddressError::More), "{more}");
        }
    }

    #[test]
    fn what_is_said_of_a_provider_is_read_back_as_it_was() {
        for word in ["nothing", "30 days", "trains", "unknown"] {
            assert_eq!(word.parse::<Retention>().unwrap().to_string(), word);
        }
        assert!("soon".parse::<Retention>().is_err() && "-1 days".parse::<Retention>().is_err());
        assert!("eu-west".parse::<Region>().is_ok() && "E U".parse::<Region>().is_err());
        let sound = provider("openai", "https://x/v1");
        let wrong = |change: fn(&mut Provider)| {
            let mut provider = sound.clone();
            change(&mut provider);
            provider.checked().is_err()
        };
        assert!(wrong(|p| p.name = "My Cloud".to_owned()) && wrong(|p| p.name = "../x".to_owned()));
        assert!(wrong(|p| p.models.clear()) && wrong(|p| p.models[0] = "a b".to_owned()));
        assert!(wrong(|p| p.price = Some(Rates {
            prompt: -1.0,
            answer: 0.0
        })));
        assert!(wrong(|p| p.price = Some(Rates {
            prompt: 0.0,
            answer: f64::NAN
        })));
        assert!(sound.clone().checked().is_ok());
        let other = provider("openai", "https://y/v1");
        assert_ne!(sound.node(), other.node());
    }

    #[test]
    fn credits_pay_for_so_many_tokens_and_no_more() {
        let rates = Rates {
            prompt: 2.0,
            answer: 10.0,
        };
        assert_eq!(rates.of(500_000, 100_000), 2.0);
        assert_eq!(rates.answer_tokens(2.0, 500_000), Some(100_000));
        assert_eq!(rates.answer_tokens(1.0, 500_000), None);
        assert_eq!(rates.answer_tokens(0.5, 500_000), None);
        let free = Rates {
            prompt: 0.0,
            answer: 0.0,
        };
        assert!(free.answer_tokens(0.0, u64::MAX).is_some());
    }
}
