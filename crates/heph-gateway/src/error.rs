//! What a caller is told when a request is not answered, in the shape of the API that was asked.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use heph_engine::batch::BatchError;
use heph_runtime::service::{Fate, ServiceError};
use serde_json::{Value, json};

use crate::caller;
use crate::machines::NoCourse;

/// How long a caller is asked to wait where nobody knows for how long: a short answer of a small model.
const RETRY_AFTER_S: u64 = 1;

/// Whose error shape it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Ollama,
    Anthropic,
}

impl Dialect {
    /// The shape that callers of `path` expect.
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/api/") {
            Self::Ollama
        } else if path.starts_with("/v1/messages") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

/// Why a request is not answered.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    code: Option<&'static str>,
    param: Option<&'static str>,
    retry_after_s: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            code: None,
            param: None,
            retry_after_s: None,
        }
    }

    /// The request says something that has no meaning.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The value of `param` has no meaning.
    pub(crate) fn param(param: &'static str, message: impl Into<String>) -> Self {
        let mut refusal = Self::bad(message);
        refusal.param = Some(param);
        refusal
    }

    /// There is no such thing.
    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Something of ours failed.
    pub(crate) fn ours(error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }

    /// The caller may come again after so many seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The body in the shape of `dialect`.
    pub(crate) fn body(&self, dialect: Dialect) -> Value {
        let kind = self.kind();
        match dialect {
            Dialect::OpenAi => json!({ "error": {
                "message": self.message, "type": kind, "param": self.param, "code": self.code,
            } }),
            Dialect::Ollama => json!({ "error": self.message }),
            Dialect::Anthropic => {
                json!({ "type": "error", "error": { "type": self.anthropic_kind(), "message": self.message } })
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 | 405 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            503 => "overloaded_error",
            _ => "server_error",
        }
    }

    fn anthropic_kind(&self) -> &'static str {
        match self.status.as_u16() {
            413 => "request_too_large",
            500..=502 | 504..=599 => "api_error",
            _ => self.kind(),
        }
    }
}

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match error {
            ServiceError::Busy { again, .. } => {
                // Nobody is told to come back at once.
                let seconds = again.as_secs_f64().ceil().max(1.0) as u64;
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                    .code("busy")
                    .retry_after(seconds)
            }
            ServiceError::Batch(BatchError::Busy { .. }) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
                    .code("busy")
                    .retry_after(RETRY_AFTER_S)
            }
            ServiceError::Batch(BatchError::TooLong { .. }) => {
                Self::bad(message).code("context_length_exceeded")
            }
            ServiceError::Batch(
                BatchError::EmptyPrompt | BatchError::Sampling(_) | BatchError::Constraint(_),
            ) => Self::bad(message),
            ServiceError::Batch(BatchError::Forward(_) | BatchError::WrongCache { .. })
            | ServiceError::Unread => Self::ours(message),
            ServiceError::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, message),
            ServiceError::Elsewhere { fate, .. } => {
                let status = match fate {
                    Fate::Refused => StatusCode::BAD_REQUEST,
                    Fate::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                    Fate::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
                    Fate::Late => StatusCode::GATEWAY_TIMEOUT,
                    Fate::Broken => StatusCode::BAD_GATEWAY,
                };
                let mut refusal = Self::new(status, message);
                if let Fate::Limited(after) = fate {
                    refusal.retry_after_s = Some(after.map_or(RETRY_AFTER_S, |after| after.as_secs().max(1)));
                }
                refusal
            }
        }
    }
}

impl From<NoCourse> for Refusal {
    fn from(none: NoCourse) -> Self {
        // Which machines there are, and why one is away, is the person's alone.
        let hint = none.hint.filter(|_| !caller::is_page());
        let parts: Vec<String> = [Some(none.sentence), hint].into_iter().flatten().collect();
        Self::new(StatusCode::CONFLICT, parts.join("; ")).code("no_plan")
    }
}

/// The refusal travels with the response until its shape is known.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Marks a response whose body has its shape already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsItIs;

/// Gives every refusal, and what the router itself refuses, the shape that callers of the path expect.
pub(crate) async fn shaped(request: Request, next: Next) -> Response {
    let dialect = Dialect::of(request.uri().path());
    let what = format!("{} {}", request.method(), request.uri().path());
    let mut response = next.run(request).await;
    let refusal = match response.extensions_mut().remove::<Refusal>() {
        Some(refusal) => refusal,
        None if response.extensions().get::<AsItIs>().is_some() => return response,
        None if response.status() == StatusCode::METHOD_NOT_ALLOWED => Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{what} is not answered here"),
        ),
        None if response.status() == StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("{what} takes no body of that length"),
        ),
        // What the router's own readers of paths and queries refuse.
        None if response.status().is_client_error() => {
            Refusal::new(response.status(), format!("{what} cannot be read"))
        }
        None => return response,
    };
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = refusal.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    *response.body_mut() = Body::from(refusal.body(dialect).to_string());
    response
}
