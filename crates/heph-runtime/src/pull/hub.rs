//! Talks HTTP with a hub: addresses, redirects, deadlines. Knows no file on this side.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::{Patience, PullError};
use crate::egress::{self, Errand, Kind};
use crate::guard::Outlet;

/// Redirects followed for one question: the hub, its cache, a content network, and two to spare.
const REDIRECTS_MAX: usize = 5;

/// Longest listing read: the largest repositories have some 10,000 files of 200 bytes each.
const LISTING_BYTES_MAX: u64 = 16 << 20;

/// A repository's name on a hub, `owner/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository(String);

impl Repository {
    /// `text` as a repository's name.
    ///
    /// # Errors
    /// When it is not two words of letters, digits, `.`, `_`, `-` with a slash between.
    pub fn new(text: &str) -> Result<Self, PullError> {
        let word = |w: &str| {
            !w.is_empty()
                && w.len() <= 100
                && !w.starts_with('.')
                && w.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        match text.split_once('/') {
            Some((owner, name)) if word(owner) && word(name) => Ok(Self(text.to_owned())),
            _ => Err(PullError::Repository(text.to_owned())),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hub and how we talk with it.
pub struct Hub {
    address: String,
    token: Option<String>,
    agent: Agent,
    errand: Errand,
    patience: Patience,
}

/// The token is no business of a log.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What a hub tells of a repository.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit the revision stands for.
    #[serde(rename = "sha")]
    pub(super) commit: Option<String>,
    /// Its files.
    #[serde(rename = "siblings", default)]
    pub(super) files: Vec<Listed>,
    /// What its publisher wrote at the head of its page.
    #[serde(rename = "cardData", default)]
    pub(super) card: Option<Card>,
    /// Words by which it is found; `license:NAME` among them.
    #[serde(default)]
    pub(super) tags: Vec<String>,
    /// Whether one has to agree to something first.
    #[serde(default)]
    pub(super) gated: serde_json::Value,
}

/// The head of a repository's page, of which only the licence matters here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Card {
    /// A name, or several.
    #[serde(default)]
    pub(super) license: serde_json::Value,
    /// The name of one that is called `other`.
    #[serde(default)]
    pub(super) license_name: serde_json::Value,
}

/// One file of a listing.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    /// Its path inside the repository.
    #[serde(rename = "rfilename")]
    pub(super) path: String,
    /// Its length.
    pub(super) size: Option<u64>,
    /// What is known of a large file.
    pub(super) lfs: Option<Lfs>,
}

/// A large file's entry.
#[derive(Debug, Deserialize)]
pub(super) struct Lfs {
    /// Its SHA-256.
    pub(super) sha256: Option<String>,
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    /// Who sends the body in the end.
    pub(super) host: String,
    /// The HTTP status.
    pub(super) status: u16,
    /// Identifies the content, across redirects.
    pub(super) tag: Option<String>,
    /// The SHA-256 the hub names for it.
    pub(super) sha256: Option<String>,
    /// Bytes of the whole file.
    pub(super) total: Option<u64>,
    /// Where in the file the body starts.
    pub(super) start: u64,
    /// The body.
    pub(super) body: Body,
}

impl Hub {
    /// The hub at `address`; `token` is sent to it and to no other host. Its connections are those of the guard behind
    /// `outlet`.
    pub fn new(address: &str, token: Option<&str>, patience: Patience, outlet: Outlet) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_send_request(Some(patience.response))
            .timeout_recv_response(Some(patience.response))
            .timeout_per_read(Some(patience.silence))
            .user_agent(concat!("heph/", env!("CARGO_PKG_VERSION")))
            .build();
        let errand = Errand::new(Kind::Pull, "model");
        let agent = egress::agent(config, outlet, errand.clone());
        let address = address.trim_end_matches('/').to_owned();
        Self {
            address,
            token: token.map(str::to_owned),
            agent,
            errand,
            patience,
        }
    }

    /// Its address, without a slash at the end.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Where a file is.
    pub(super) fn file_url(&self, repository: &Repository, revision: &str, path: &str) -> String {
        format!(
            "{}/{repository}/resolve/{}/{}",
            self.address,
            escaped(revision, ""),
            escaped(path, "/")
        )
    }

    /// What the hub tells of `revision`.
    pub(super) fn list(&self, repository: &Repository, revision: &str) -> Result<Listing, PullError> {
        let revision = escaped(revision, "");
        let url = format!(
            "{}/api/models/{repository}/revision/{revision}?blobs=true",
            self.address
        );
        let answer = self.get(&url, 0)?;
        let mut text = Vec::new();
        let mut body = answer.body.into_reader().take(LISTING_BYTES_MAX);
        let host = answer.host;
        body.read_to_end(&mut text).map_err(|e| PullError::Unreachable {
            host: host.clone(),
            reason: e.to_string(),
        })?;
        serde_json::from_slice(&text).map_err(|e| PullError::Nonsense {
            host,
            reason: format!("the list of files is not JSON: {e}"),
        })
    }

    /// Asks for `url` from byte `from` on, and follows redirects. A status of 400 or more is an error, but for
    /// 416, which says that there is nothing from there on.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Answer, PullError> {
        let mut url = url.to_owned();
        let mut told = Told::default();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.ask(&url, from)?;
            told.hear(response.headers());
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => url = redirect(&url, response.headers())?,
                200..=299 | 416 => return answer(&url, told, response),
                status => return Err(refusal(&url, status, response.headers())),
            }
        }
        Err(PullError::Nonsense {
            host: host(&url),
            reason: "it redirects without end".into(),
        })
    }

    fn ask(&self, url: &str, from: u64) -> Result<Response<Body>, PullError> {
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        if let Some(token) = self
            .token
            .as_ref()
            .filter(|_| origin(url) == origin(&self.address))
        {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.errand.next("", None, 0);
        request.call().map_err(|e| PullError::Unreachable {
            host: host(url),
            reason: e.to_string(),
        })
    }
}

/// What the hops of one question tell of the content; the hub knows more than the content network behind it.
#[derive(Default)]
struct Told {
    linked_tag: Option<String>,
    tag: Option<String>,
}

impl Told {
    fn hear(&mut self, headers: &HeaderMap) {
        let tag =
            |name| header(headers, name).map(|v| v.trim_start_matches("W/").trim_matches('"').to_owned());
        self.linked_tag = self.linked_tag.take().or_else(|| tag("x-linked-etag"));
        self.tag = tag("etag").or(self.tag.take());
    }

    /// The SHA-256 that a linked tag is, if it is one.
    fn sha256(&self) -> Option<String> {
        self.linked_tag
            .as_ref()
            .filter(|t| is_sha256(t))
            .map(|t| t.to_ascii_lowercase())
    }
}

fn answer(url: &str, told: Told, response: Response<Body>) -> Result<Answer, PullError> {
    let headers = response.headers();
    let status = response.status().as_u16();
    let range = header(headers, "content-range").map(str::to_owned);
    let (start, range_total) = match (status, &range) {
        (206, Some(text)) => content_range(text).ok_or_else(|| PullError::Nonsense {
            host: host(url),
            reason: format!("its content-range is {text:?}"),
        })?,
        // An unsatisfied range tells the length as `bytes */10`.
        (416, Some(text)) => (0, text.strip_prefix("bytes */").and_then(|t| t.parse().ok())),
        (206, None) => {
            let reason = "a part of a file without its content-range".into();
            return Err(PullError::Nonsense {
                host: host(url),
                reason,
            });
        }
        _ => (0, None),
    };
    let length = header(headers, "content-length")
        .and_then(|v| v.parse().ok())
        .filter(|_| status == 200);
    Ok(Answer {
        host: host(url),
        status,
        sha256: told.sha256(),
        tag: told.linked_tag.or(told.tag),
        total: range_total.or(length),
        start,
        body: response.into_body(),
    })
}

fn refusal(url: &str, status: u16, headers: &HeaderMap) -> PullError {
    let wait = header(headers, "retry-after")
        .and_then(|v| v.parse().ok())
        .map(Duration::from_secs);
    PullError::Refused {
        host: host(url),
        path: path(url).to_owned(),
        status,
        wait,
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Start and, where told, total of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

/// Where a redirect from `url` leads. Never from `https` to `http`.
fn redirect(url: &str, headers: &HeaderMap) -> Result<String, PullError> {
    let nonsense = |reason: &str| PullError::Nonsense {
        host: host(url),
        reason: reason.to_owned(),
    };
    let location = header(headers, "location").ok_or_else(|| nonsense("a redirect without a location"))?;
    let target = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", url.split("://").next().unwrap_or("https"))
    } else if location.starts_with('/') {
        format!("{}{location}", origin(url))
    } else {
        let folder = url
            .split('?')
            .next()
            .and_then(|u| u.rsplit_once('/'))
            .map_or(url, |(f, _)| f);
        format!("{folder}/{location}")
    };
    let secure = |u: &str| u.starts_with("https://");
    match secure(&target) || (target.starts_with("http://") && !secure(url)) {
        true => Ok(target),
        false => Err(nonsense("a redirect to an insecure place")),
    }
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |i| i + 3);
    let end = url[after_scheme..]
        .find(['/', '?'])
        .map_or(url.len(), |i| after_scheme + i);
    &url[..end]
}

fn host(url: &str) -> String {
    origin(url).rsplit("://").next().unwrap_or(url).to_owned()
}

fn path(url: &str) -> &str {
    let path = &url[origin(url).len()..];
    path.split('?').next().unwrap_or(path)
}

/// `text` with everything but letters, digits, `-._~` and `kept` percent-encoded (RFC 3986).
fn escaped(text: &str, kept: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || kept.as_bytes().contains(&b);
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// Whether `text` has the form of a SHA-256.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_two_words() {
        for bad in ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a b/c", "a/b?x"] {
            assert!(Repository::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            Repository::new("Own-er/name.v1_2").unwrap().to_string(),
            "Own-er/name.v1_2"
        );
    }

    #[test]
    fn odd_characters_of_a_path_are_escaped() {
        let hub = Hub::new(
            "https://h.example/",
            None,
            Patience::default(),
            Outlet::at("no/folder".as_ref(), &[]),
        );
        let url = hub.file_url(&Repository::new("a/b").unwrap(), "refs/pr/1", "sub dir/ä#.gguf");
        assert_eq!(
            url,
            "https://h.example/a/b/resolve/refs%2Fpr%2F1/sub%20dir/%C3%A4%23.gguf"
        );
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let cases = [
            ("https://a/x/y?q", "https://b/z", Some("https://b/z")),
            ("https://a/x/y?q", "//b/z", Some("https://b/z")),
            ("https://a/x/y?q", "/z?r", Some("https://a/z?r")),
            ("https://a/x/y?q", "z", Some("https://a/x/z")),
            ("http://a:1/x", "http://b/z", Some("http://b/z")),
            ("https://a/x", "http://b/z", None),
            ("https://a/x", "file:///etc/passwd", None),
        ];
        for (from, location, to) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("location", location.parse().unwrap());
            assert_eq!(
                redirect(from, &headers).ok().as_deref(),
                to,
                "{from} -> {location}"
            );
        }
    }

    #[test]
    fn a_content_range_says_where_it_starts() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes x-9/10", "items 5-9/10", "bytes */10"] {
            assert_eq!(content_range(bad), None, "{bad:?}");
        }
    }
}
