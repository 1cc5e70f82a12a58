//! The page: files that were there when the program was built.

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};

use crate::error::Refusal;

/// Path and content of every file, in the order of their paths.
static FILES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// What the page may do: nothing but ask this door.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; \
                      connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What stands at `/` in a program that was built without the page.
const WITHOUT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>HEPH</title>\
<h1>HEPH is running</h1><p>This program was built without its page. Build the page with Node, then the program again:</p>\
<pre>cd ui &amp;&amp; npm ci &amp;&amp; npm run build\ncargo build --release</pre>\
<p>The programs that speak to HEPH do not need it: <a href=\"/v1/models\">/v1/models</a>, \
<a href=\"/openapi.json\">/openapi.json</a>.</p></html>";

/// The file of a path, the page for a path without a dot, and a refusal for everything else.
pub(crate) async fn page(uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    if let Some(found) = file(path) {
        return found;
    }
    if path.contains('.') || ["v1/", "api/", "heph/"].iter().any(|api| path.starts_with(api)) {
        return Refusal::missing(format!("there is nothing at /{path}")).into_response();
    }
    file("index.html").unwrap_or_else(|| Html(WITHOUT).into_response())
}

fn file(path: &str) -> Option<Response> {
    let at = FILES.binary_search_by_key(&path, |(name, _)| *name).ok()?;
    let (name, bytes) = FILES[at];
    let kind = match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "json" | "webmanifest" => "application/json",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    };
    // Built files carry a hash of their content in their names; the page itself does not.
    let keep = if name.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let fixed = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static(keep)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    Some((StatusCode::OK, fixed, bytes).into_response())
}
