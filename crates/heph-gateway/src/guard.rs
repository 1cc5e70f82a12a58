//! Who may come in: the token, the host that was meant, and the page that asks.
//!
//! A browser sends whatever a page wants to this machine. The host's name stops names that were bound anew to it (DNS
//! rebinding), the origin stops foreign pages that no person let in, and the token stops everybody else.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};

use crate::caller;
use crate::connection::Way;
use crate::error::Refusal;
use crate::house::now_ms;
use crate::mcp::agent::WITHOUT_TOOLS;
use crate::pairing::{Leave, Pairings, Scope};
use crate::rate::Rate;

/// What is asked of everybody who knocks.
#[derive(Debug, Clone)]
pub struct Guard {
    /// The token to show; nobody is asked for one where there is none, nor at the local socket.
    pub token: Option<String>,
    /// Names that this machine goes by, besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Origins whose pages may ask, besides this one and those of loopback.
    pub origins: Vec<String>,
    /// Origins that a person let in, each with a token of its own.
    pub pairings: Arc<Pairings>,
    /// How often the person's programs may ask.
    pub rate: Arc<Rate>,
}

/// Who came in.
enum Caller {
    /// The person, or somebody who needs no leave: for the page's files, or for asking to be let in.
    Anybody,
    /// A page of an origin that was let in, for as long as it is.
    Paired(Leave),
}

/// Paths that show nothing of anybody and ask for no token.
const OPEN_PATHS: [&str; 2] = ["/health", "/openapi.json"];

/// By this header browsers say how far away a request was made.
const SITE: &str = "sec-fetch-site";

/// Headers that a page may send which asks to be let in. One that was let in may send whatever it asks for, since clients have many
/// of their own; what they may do hangs on the token.
const SENT: &str = "authorization, content-type";

/// Headers that a page of another origin may read.
const SHOWN: &str = "heph-request-id, heph-mode, heph-exactness, heph-receipt, heph-cache, retry-after";

impl Guard {
    fn admits(&self, request: &Request) -> Result<Caller, Refusal> {
        self.host(request)?;
        let headers = request.headers();
        let origin = headers.get(header::ORIGIN);
        let foreign = origin.filter(|origin| !self.knows(origin, headers));
        let shown = shown(headers);
        if is_asking(request) {
            return Ok(Caller::Anybody);
        }
        if let Some(token) = shown.iter().find(|token| Pairings::is_token(token)) {
            let origin = origin.and_then(|origin| origin.to_str().ok()).unwrap_or_default();
            return self.paired(request, origin, token);
        }
        if let Some(origin) = foreign {
            let asks_first = request.method() == Method::OPTIONS && self.was_let_in(origin);
            return match asks_first {
                true => Ok(Caller::Anybody),
                false => Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "pages of this origin may not ask here; POST /heph/v1/pairing asks the person to let them in",
                )
                .code("origin")),
            };
        }
        let way = way(request);
        let token = self.token.as_ref().filter(|_| way != Way::Local);
        // A browser says no origin with what a page only shows, as a picture: without a token this tells a foreign one.
        let from_afar = headers.get(SITE).is_some_and(|site| site == "cross-site");
        if token.is_none() && origin.is_none() && from_afar && !is_page(request) {
            let sentence = "this belongs to no page of another site";
            return Err(Refusal::new(StatusCode::FORBIDDEN, sentence).code("origin"));
        }
        let path = request.uri().path();
        let open = OPEN_PATHS.contains(&path) || request.method() == Method::OPTIONS || is_page(request);
        let is_right = |token: &String| shown.iter().any(|shown| same(shown.as_bytes(), token.as_bytes()));
        if open {
            return Ok(Caller::Anybody);
        }
        if token.is_some_and(|token| !is_right(token)) {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "the token is missing or wrong; it stands in the file gateway.token of HEPH's home folder",
            )
            .code("invalid_api_key"));
        }
        let sentence = "so many requests came from there in this minute that --rate allows no more";
        let begun = self.rate.begin(now_ms(), way);
        begun.map_err(|wait_s| self.too_often(sentence, wait_s))?;
        Ok(Caller::Anybody)
    }

    fn too_often(&self, sentence: &str, wait_s: u64) -> Refusal {
        self.rate.refused();
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, sentence);
        refusal.retry_after(wait_s).code("rate_limit_exceeded")
    }

    /// A page that shows a token of its own: it is asked for its origin and its leave, whoever else might ask the same.
    fn paired(&self, request: &Request, origin: &str, token: &str) -> Result<Caller, Refusal> {
        let mut leave = self.pairings.admit(now_ms(), origin, token).ok_or_else(|| {
            let sentence = "this token was revoked, or belongs to pages of another origin";
            Refusal::new(StatusCode::UNAUTHORIZED, sentence).code("invalid_api_key")
        })?;
        let sentence = "this page asks for too much at once, or too often";
        let begun = self.pairings.begin(now_ms(), &mut leave);
        begun.map_err(|wait_s| self.too_often(sentence, wait_s))?;
        let (method, path) = (request.method().as_str(), request.uri().path());
        match Scope::of(method, path) {
            Some(scope) if leave.scopes.contains(&scope) => Ok(Caller::Paired(leave)),
            Some(scope) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!("this page was let in without the scope {:?}", scope.name()),
            )
            .code("scope")),
            None if request.method() == Method::OPTIONS || OPEN_PATHS.contains(&path) => {
                Ok(Caller::Paired(leave))
            }
            None => Err(Refusal::new(StatusCode::FORBIDDEN, "only the person may do this").code("scope")),
        }
    }

    fn was_let_in(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.pairings.knows(origin))
    }

    /// Whether pages of `origin` may read what they are told.
    fn may_read(&self, request: &Request, origin: &HeaderValue) -> bool {
        is_asking(request) || self.knows(origin, request.headers()) || self.was_let_in(origin)
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

/// The way by which a request came.
fn way(request: &Request) -> Way {
    let known = request.extensions().get::<Way>();
    known.copied().unwrap_or(Way::From(Ipv4Addr::UNSPECIFIED.into()))
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
    let of_api = [
        "/v1/",
        "/api/",
        "/heph/",
        "/mcp",
        "/metrics",
        "/tokenize",
        "/detokenize",
    ];
    matches!(*request.method(), Method::GET | Method::HEAD)
        && !of_api.iter().any(|start| path.starts_with(start))
}

/// Whether somebody asks to be let in, or looks what became of that: pages of all origins may.
fn is_asking(request: &Request) -> bool {
    let asked = match *request.method() {
        Method::OPTIONS => request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD),
        _ => None,
    };
    let method = asked.map_or(request.method().as_str(), |method| {
        method.to_str().unwrap_or_default()
    });
    let rest = request.uri().path().strip_prefix("/heph/v1/pairing");
    match (method, rest) {
        ("POST", Some("")) => true,
        ("GET", Some(rest)) => rest
            .strip_prefix('/')
            .is_some_and(|id| !id.is_empty() && !id.contains('/')),
        _ => false,
    }
}

/// The token that stands in the usual header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let said = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, shown) = said.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| shown.trim())
}

/// The tokens that the headers show.
pub(crate) fn shown(headers: &HeaderMap) -> Vec<&str> {
    let key = headers.get("x-api-key").and_then(|h| h.to_str().ok());
    bearer(headers).into_iter().chain(key).collect()
}

/// Compares in a time that tells nothing of where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Asks everybody who knocks.
pub(crate) async fn guarded(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    request.headers_mut().remove(WITHOUT_TOOLS);
    let origin = request.headers().get(header::ORIGIN).cloned();
    let reader = origin.filter(|origin| guard.may_read(&request, origin));
    let preflight = request.method() == Method::OPTIONS;
    let sends = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let sends = sends.filter(|_| !is_asking(&request)).cloned();
    let mut response = match guard.admits(&request) {
        // A page that may read is told why it was refused.
        Err(refusal) => {
            let mut response = refusal.into_response();
            if let Some(origin) = reader {
                guard.welcome(&origin, response.headers_mut());
            }
            return response;
        }
        Ok(_) if preflight => (StatusCode::NO_CONTENT, Body::empty()).into_response(),
        Ok(Caller::Anybody) => {
            caller::Caller::of(request.headers())
                .asks(next.run(request))
                .await
        }
        Ok(Caller::Paired(leave)) => {
            if !leave.scopes.contains(&Scope::Tools) {
                request
                    .headers_mut()
                    .insert(WITHOUT_TOOLS, HeaderValue::from_static("1"));
            }
            let caller = caller::Caller::of(request.headers());
            while_it_holds(leave, caller.asks(next.run(request))).await
        }
    };
    if let Some(origin) = reader {
        let headers = response.headers_mut();
        guard.welcome(&origin, headers);
        if preflight {
            let fixed = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE"),
                (header::ACCESS_CONTROL_MAX_AGE, "600"),
            ];
            for (name, value) in fixed {
                headers.insert(name, HeaderValue::from_static(value));
            }
            let sends = sends.unwrap_or(HeaderValue::from_static(SENT));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, sends);
        }
    }
    response
}

/// The response, and its body piece by piece, until the leave is taken back: then the connection breaks off, which no reader takes
/// for the end of an answer.
async fn while_it_holds(mut leave: Leave, response: impl Future<Output = Response>) -> Response {
    let response = tokio::select! {
        biased;
        () = leave.revoked() => {
            return Refusal::new(StatusCode::UNAUTHORIZED, "this page's leave was taken back").into_response();
        }
        response = response => response,
    };
    let (head, body) = response.into_parts();
    let pieces = stream::unfold(Some((leave, body.into_data_stream())), |open| async {
        let (mut leave, mut body) = open?;
        tokio::select! {
            biased;
            () = leave.revoked() => Some((Err(axum::Error::new("this page's leave was taken back")), None)),
            piece = body.next() => piece.map(|piece| (piece, Some((leave, body)))),
        }
    });
    Response::from_parts(head, Body::from_stream(pieces))
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
            pairings: Arc::new(Pairings::at(std::path::Path::new("/nowhere"))),
            rate: Arc::new(Rate::new(None)),
        }
    }

    fn status(method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let admitted = guard().admits(&asked(method, path, headers));
        admitted.map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
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
    fn what_a_foreign_page_shows_is_refused_where_no_token_is_asked_for() {
        let open = Guard {
            token: None,
            ..guard()
        };
        let status = |path: &str, headers: &[(&str, &str)]| {
            let admitted = open.admits(&asked("GET", path, headers));
            admitted.map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
        };
        for (site, expected) in [
            ("cross-site", 403),
            ("same-site", 200),
            ("same-origin", 200),
            ("none", 200),
        ] {
            let headers = [("host", "127.0.0.1:11500"), ("sec-fetch-site", site)];
            assert_eq!(status("/heph/v1/chats", &headers), expected, "{site}");
            assert_eq!(status("/", &headers), 200, "{site}");
        }
        let page = [
            ("host", "127.0.0.1:11500"),
            ("sec-fetch-site", "cross-site"),
            ("origin", "https://app.example"),
        ];
        assert_eq!(status("/heph/v1/chats", &page), 200);
    }

    #[test]
    fn at_the_local_socket_no_token_is_asked_for_and_foreign_pages_are_refused_all_the_same() {
        let status = |path: &str, headers: &[(&str, &str)]| {
            let mut request = asked("POST", path, &[&[("host", "localhost")][..], headers].concat());
            request.extensions_mut().insert(Way::Local);
            let admitted = guard().admits(&request);
            admitted.map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
        };
        let path = "/v1/chat/completions";
        assert_eq!(status(path, &[]), 200);
        assert_eq!(status(path, &[("authorization", "Bearer anything")]), 200);
        assert_eq!(status(path, &[("origin", "https://evil.example")]), 403);
        assert_eq!(status(path, &[("sec-fetch-site", "cross-site")]), 403);
        // What a page was given opens no more there than elsewhere.
        assert_eq!(status(path, &[("authorization", "Bearer heph-page-x")]), 401);
        let mut elsewhere = asked("POST", path, &[("host", "localhost")]);
        elsewhere
            .extensions_mut()
            .insert(Way::From([127, 0, 0, 1].into()));
        assert!(guard().admits(&elsewhere).is_err());
    }

    #[test]
    fn the_persons_programs_begin_so_many_in_a_minute_and_the_page_is_shown_all_the_same() {
        let guard = Guard {
            rate: Arc::new(Rate::new(std::num::NonZeroU32::new(2))),
            ..guard()
        };
        let token = format!("Bearer {}", "secret".repeat(6));
        let asks = |headers: &[(&str, &str)], path| {
            let admitted = guard.admits(&asked("GET", path, headers));
            admitted.map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
        };
        let mine = [("authorization", token.as_str())];
        // Who has no token uses nothing up.
        assert_eq!([(); 5].map(|()| asks(&[], "/metrics")), [401; 5]);
        let seen = [(); 6].map(|()| asks(&mine, "/metrics"));
        // A minute may end in between.
        let refused = seen.iter().filter(|&&status| status == 429).count();
        assert!((2..=4).contains(&refused) && seen[..2] == [200, 200], "{seen:?}");
        assert_eq!(guard.rate.refusals(), refused as u64);
        assert_eq!((asks(&[], "/"), asks(&[], "/health")), (200, 200));
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
