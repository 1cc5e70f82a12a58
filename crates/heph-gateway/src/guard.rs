//! Who may come in: the token, the host that was meant, and the page that asks.
//!
//! A browser sends whatever a page wants to this machine. The host's name stops names that were bound anew to it (DNS
//! rebinding), the origin stops foreign pages, and the token stops everybody else.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Refusal;

/// What is asked of everybody who knocks.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// The token to show; nobody is asked for one where there is none.
    pub token: Option<String>,
    /// Names that this machine goes by, besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Origins whose pages may ask, besides this one and those of loopback.
    pub origins: Vec<String>,
}

/// Paths that show nothing of anybody and ask for no token.
const OPEN_PATHS: [&str; 2] = ["/health", "/openapi.json"];

/// Headers that a page of another origin may send and read.
const SENT: &str = "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, last-event-id, heph-mode, \
                    heph-privacy, heph-max-price, heph-deadline-ms, heph-resume";
const SHOWN: &str = "heph-request-id, heph-mode, heph-exactness, heph-receipt, retry-after";

impl Guard {
    fn admits(&self, request: &Request) -> Result<(), Refusal> {
        self.host(request)?;
        let headers = request.headers();
        if let Some(origin) = headers.get(header::ORIGIN)
            && !self.knows(origin, headers)
        {
            return Err(
                Refusal::new(StatusCode::FORBIDDEN, "pages of this origin may not ask here").code("origin"),
            );
        }
        let path = request.uri().path();
        let open = OPEN_PATHS.contains(&path) || request.method() == Method::OPTIONS || is_page(request);
        match &self.token {
            Some(token) if !open && !shows(headers, token) => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "the token is missing or wrong; it stands in the file gateway.token of HEPH's home folder",
            )
            .code("invalid_api_key")),
            _ => Ok(()),
        }
    }

    fn host(&self, request: &Request) -> Result<(), Refusal> {
        let named = request.uri().host().map(str::to_owned);
        let header = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
        let host = named.or_else(|| header.map(|h| without_port(h).to_owned()));
        // HTTP/1.0 has no such header, and no browser speaks it.
        let Some(host) = host else { return Ok(()) };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let known = bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok()
            || self.hosts.iter().any(|name| name.eq_ignore_ascii_case(bare));
        match known {
            true => Ok(()),
            false => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!("this machine is not known as {bare:?}; --allow-host gives it that name"),
            )
            .code("host")),
        }
    }

    /// Whether pages of `origin` may ask.
    fn knows(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        if self
            .origins
            .iter()
            .any(|known| known.eq_ignore_ascii_case(origin))
        {
            return true;
        }
        let Some((scheme, rest)) = origin.split_once("://") else {
            return false;
        };
        if !matches!(scheme, "http" | "https") {
            return false;
        }
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
        let bare = without_port(rest).trim_start_matches('[').trim_end_matches(']');
        let loopback = bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        host == Some(rest) || bare.eq_ignore_ascii_case("localhost") || loopback
    }

    /// The CORS headers for a page that may ask.
    fn welcome(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(SHOWN),
        );
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

/// A host without its port.
fn without_port(host: &str) -> &str {
    match host.rfind(']') {
        Some(end) => &host[..=end],
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Whether the page itself is asked for: its files show nothing of anybody.
fn is_page(request: &Request) -> bool {
    let path = request.uri().path();
    let of_api = ["/v1/", "/api/", "/heph/", "/metrics", "/tokenize", "/detokenize"];
    matches!(*request.method(), Method::GET | Method::HEAD)
        && !of_api.iter().any(|start| path.starts_with(start))
}

/// Whether the headers show the token.
fn shows(headers: &HeaderMap, token: &str) -> bool {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|h| h.to_str().ok())
        .and_then(|h| h.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, shown)| shown.trim());
    let key = headers.get("x-api-key").and_then(|h| h.to_str().ok());
    [bearer, key]
        .into_iter()
        .flatten()
        .any(|shown| same(shown.as_bytes(), token.as_bytes()))
}

/// Compares in a time that tells nothing of where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Asks everybody who knocks.
pub(crate) async fn guarded(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if let Err(refusal) = guard.admits(&request) {
        let mut response = refusal.into_response();
        // A known page may read why it was refused.
        if let Some(origin) = origin.filter(|origin| guard.knows(origin, request.headers())) {
            guard.welcome(&origin, response.headers_mut());
        }
        return response;
    }
    let preflight = request.method() == Method::OPTIONS;
    let mut response = match preflight {
        true => (StatusCode::NO_CONTENT, Body::empty()).into_response(),
        false => next.run(request).await,
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        guard.welcome(&origin, headers);
        if preflight {
            let fixed = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, SENT),
                (header::ACCESS_CONTROL_MAX_AGE, "600"),
            ];
            for (name, value) in fixed {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn guard() -> Guard {
        Guard {
            token: Some("secret".repeat(6)),
            hosts: vec!["box.lan".to_owned()],
            origins: vec!["https://app.example".to_owned()],
        }
    }

    fn status(method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let admitted = guard().admits(&asked(method, path, headers));
        admitted.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn only_the_whole_token_opens_the_door() {
        let token = format!("Bearer {}", "secret".repeat(6));
        let alike = token.replace("tsecret", "tsecreT");
        let host = ("host", "127.0.0.1:11500");
        let cases = [
            (vec![host], 401),
            (vec![host, ("authorization", "Bearer wrong")], 401),
            (vec![host, ("authorization", &token[..token.len() - 1])], 401),
            (vec![host, ("authorization", &token[7..])], 401),
            (vec![host, ("authorization", &alike)], 401),
            (vec![host, ("authorization", &token)], 200),
            (vec![host, ("x-api-key", &token[7..])], 200),
        ];
        for (headers, expected) in cases {
            assert_eq!(
                status("POST", "/v1/chat/completions", &headers),
                expected,
                "{headers:?}"
            );
            assert_eq!(status("GET", "/heph/v1/chats", &headers), expected, "{headers:?}");
            assert_eq!(status("GET", "/metrics", &headers), expected, "{headers:?}");
        }
        assert_eq!(status("GET", "/health", &[host]), 200);
        assert_eq!(status("GET", "/", &[host]), 200);
        assert_eq!(status("POST", "/", &[host]), 401);
    }

    #[test]
    fn a_name_that_was_bound_anew_is_refused() {
        for (host, expected) in [
            ("evil.example:11500", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost.evil.example", 403),
            ("localhost:11500", 200),
            ("[::1]:11500", 200),
            ("192.168.1.7", 200),
            ("BOX.lan", 200),
        ] {
            assert_eq!(status("GET", "/health", &[("host", host)]), expected, "{host}");
        }
    }

    #[test]
    fn foreign_pages_are_refused() {
        for (origin, expected) in [
            ("https://evil.example", 403),
            ("null", 403),
            ("http://localhost.evil.example", 403),
            ("http://127.0.0.1.evil.example", 403),
            ("file://localhost", 403),
            ("http://10.0.0.7:3000", 403),
            ("http://localhost:3000", 200),
            ("http://127.0.0.1:5173", 200),
            ("http://[::1]:5173", 200),
            ("https://app.example", 200),
            ("http://box.lan", 200),
        ] {
            let headers = [("host", "box.lan"), ("origin", origin)];
            assert_eq!(status("GET", "/health", &headers), expected, "{origin}");
        }
    }
}
