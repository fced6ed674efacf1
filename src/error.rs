//! Errors and their answers: every one is `application/problem+json` (RFC 9457) with a stable `code`.

mod database;

use std::borrow::Cow;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use diesel::result::Error as DieselError;
use serde::Serialize;
use utoipa::ToSchema;

use self::database::{is_about_data, is_transient};
pub(crate) use self::database::{is_disconnected, is_want_of_room};
use crate::limits;

const UNKNOWN_ORG: &str = "there is no org here with this id or external id: correct it, or create the org";

/// An operation's failure, in the caller's terms.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule. `field` names the place, `rule` the rule and what to do.
    #[error("{field}: {rule}")]
    Invalid {
        /// Dotted path, query parameter or header name.
        field: Cow<'static, str>,
        /// A sentence: what must hold.
        rule: String,
    },
    /// The body could not be read at all (not JSON, wrong encoding, …).
    #[error("{0}")]
    Malformed(String),
    /// The `Stripe-Signature` header does not prove that Stripe sent this body.
    #[error("{0}")]
    Signature(String),
    /// No key, or not a valid one.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The key is valid, but lacks a scope.
    #[error("this API key lacks the scope {0}")]
    Forbidden(&'static str),
    /// The request is about a key that may do more than the caller's.
    #[error("{field}: this API key lacks the scope {scope}")]
    Beyond {
        /// The place that gives the scope, or names the key that has it.
        field: Cow<'static, str>,
        /// The scope that the caller lacks.
        scope: &'static str,
    },
    /// There is no such thing, or it is not yours.
    #[error("there is no {0} here with this id")]
    NotFound(&'static str),
    /// There is nothing here yet. Holds the whole sentence.
    #[error("{0}")]
    Nothing(&'static str),
    /// There is no such org, or it is not the caller's; the answer does not say which. Holds the field,
    /// parameter or path segment that names the org.
    #[error("{0}: {UNKNOWN_ORG}")]
    UnknownOrg(Cow<'static, str>),
    /// There is no such route.
    #[error("{0}")]
    NoRoute(&'static str),
    /// The path exists, but not with this method. Holds the methods that it has, separated by commas.
    #[error("this path does not have this method: use {0}")]
    WrongMethod(String),
    /// The request conflicts with what is stored.
    #[error("{detail}")]
    Conflict {
        /// Stable name of the conflict.
        code: &'static str,
        /// A sentence for people.
        detail: String,
        /// The field, parameter or path segment that names what it conflicts with; `None`: there is none.
        field: Option<Cow<'static, str>>,
    },
    /// A battery would hold, owe or set aside more than it can keep exactly. Nothing was done.
    #[error(
        "the org's battery would hold, owe or have set aside 10^16 units or more, which is more than it \
         can keep"
    )]
    BatteryFull {
        /// Row id of the org.
        org_id: i64,
    },
    /// The body is over the limit.
    #[error("the body is larger than {limit_bytes} bytes, the limit of this route")]
    TooLarge {
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The body has more events than one request may have.
    #[error("the body must have at most {0} events: send them in several requests")]
    TooManyEvents(usize),
    /// The client sent too slowly.
    #[error("the request did not arrive within {0} seconds")]
    TooSlow(u64),
    /// Overload: try again soon. Nothing was done.
    #[error("{0}")]
    Busy(&'static str),
    /// Too many requests wait: try again soon. Nothing was done.
    #[error("{0}")]
    TooMany(&'static str),
    /// The key or the address sent more requests than it may. Nothing was done.
    #[error("over the limit `{of}` of {quota} a minute: nothing was done, send it again in {wait_s} s")]
    RateLimited {
        /// Name of the limit: `key`, `address` or `verify`.
        of: &'static str,
        /// How many a minute.
        quota: u32,
        /// Seconds until all of them may be sent at once.
        reset_s: u64,
        /// Seconds to wait.
        wait_s: u64,
    },
    /// The machine's clock jumped by this many seconds, so a row would get a wrong date. Nothing was done.
    #[error(
        "the clock of this machine jumped by {0} s; nothing was done, send it again when the clock is back, \
         or in half a minute"
    )]
    ClockJumped(i64),
    /// The database answers, but nothing can be stored in it.
    #[error("{0}: nothing can be stored")]
    NotWritable(&'static str),
    /// The daemon is about to end. Nothing was done.
    #[error("this daemon is stopping: send it again in a second")]
    Stopping,
    /// The connection to the database was lost during COMMIT, or the transaction still runs.
    #[error(
        "it is not known whether this was done: the database did not say. Send it again with the same \
         Idempotency-Key or id, which does nothing twice; without one look first, in the audit log under \
         this request's id or where its effect shows"
    )]
    OutcomeUnknown,
    /// The route needs a setting that is not set.
    #[error("{0}")]
    NotConfigured(&'static str),
    /// The database refused the statement, or cannot be reached.
    #[error("the database failed: {0}")]
    Database(DieselError),
    /// A broken assumption of ours.
    #[error("{0}")]
    Internal(String),
    /// A caught panic. Holds the place in the source.
    #[error("a fault of ours at {0}")]
    Panicked(String),
    /// A thread has ended or hangs. Says which one.
    #[error("{0}")]
    Unwell(String),
}

/// Lets `?` pass on a database error; [`Error::is_transient`] says whether a retry can help.
impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

impl Error {
    /// An [`Error::Invalid`] about `field`.
    pub fn invalid(field: impl Into<Cow<'static, str>>, rule: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), rule: rule.into() }
    }

    /// The same error of a field within `place`: `name` becomes `keys.3.name`.
    #[must_use]
    pub fn within(self, place: &str) -> Self {
        match self {
            Self::Invalid { field, rule } => Self::Invalid { field: format!("{place}.{field}").into(), rule },
            Self::Conflict { code, detail, field: Some(field) } => {
                Self::Conflict { code, detail, field: Some(format!("{place}.{field}").into()) }
            }
            error => error,
        }
    }

    /// An [`Error::Conflict`] named `code`.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Conflict { code, detail: detail.into(), field: None }
    }

    /// The same conflict, about `field`.
    #[must_use]
    pub fn about(self, field: impl Into<Cow<'static, str>>) -> Self {
        match self {
            Self::Conflict { code, detail, .. } => Self::Conflict { code, detail, field: Some(field.into()) },
            error => error,
        }
    }

    /// The violated constraint's name, when this is a constraint violation.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Database(DieselError::DatabaseError(_, info)) => info.constraint_name(),
            _ => None,
        }
    }

    /// True when another transaction, a lost connection or a full server made this one fail: running it again
    /// can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Database(error) if is_transient(error)) || matches!(self, Self::Busy(_))
    }

    /// True when it waited for a lock, or ran, as long as it may.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Database(DieselError::DatabaseError(_, info))
            if info.message().contains("canceling statement due to"))
    }

    /// True when another transaction made this one fail: it may run again at once, on the same connection.
    #[must_use]
    pub fn is_lost_race(&self) -> bool {
        self.is_transient() && !self.is_disconnected() && !self.is_timeout()
    }

    /// True when the data is at fault (out of range, against a check): a retry cannot help, and other data
    /// may be stored. An unknown error counts as ours, since this decides who tries again.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::BatteryFull { .. } => true,
            Self::Database(error) => is_about_data(error),
            _ => false,
        }
    }

    /// True when a panic was caught. One of several inputs may be its cause.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }

    /// True when the connection is gone or useless.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Database(error) if is_disconnected(error))
            || matches!(self, Self::OutcomeUnknown)
    }

    /// The stable name of the kind of problem.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.parts().1
    }

    /// The field, parameter or header at fault, where there is one.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Invalid { field, .. } | Self::UnknownOrg(field) | Self::Beyond { field, .. } => Some(field),
            Self::Conflict { field, .. } => field.as_deref(),
            Self::Signature(_) => Some("Stripe-Signature"),
            _ => None,
        }
    }

    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid_request", "The request breaks a rule"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed_body", "The body cannot be read"),
            Self::Signature(_) => {
                (StatusCode::BAD_REQUEST, "invalid_signature", "The signature is not valid")
            }
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized", "A valid API key is needed"),
            Self::Forbidden(_) | Self::Beyond { .. } => {
                (StatusCode::FORBIDDEN, "missing_scope", "The API key may not do this")
            }
            Self::NotFound(_) | Self::Nothing(_) | Self::UnknownOrg(_) => {
                (StatusCode::NOT_FOUND, "not_found", "Not found")
            }
            Self::NoRoute(_) => (StatusCode::NOT_FOUND, "no_route", "No such route"),
            Self::WrongMethod(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The path does not have this method")
            }
            Self::Conflict { code, .. } => {
                (StatusCode::CONFLICT, code, "The request conflicts with what is stored")
            }
            Self::BatteryFull { .. } => {
                (StatusCode::CONFLICT, "amount_too_large", "The request conflicts with what is stored")
            }
            Self::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large")
            }
            Self::TooManyEvents(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_many_events", "The body has too many events")
            }
            Self::TooSlow(_) => {
                (StatusCode::REQUEST_TIMEOUT, "request_timeout", "The request came too slowly")
            }
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Try again in a moment"),
            Self::TooMany(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "Too many requests wait: send it again soon",
            ),
            Self::RateLimited { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Over the limit of requests")
            }
            Self::ClockJumped(_) => (StatusCode::SERVICE_UNAVAILABLE, "clock_jumped", "The clock jumped"),
            Self::NotWritable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "database_not_writable", "Nothing can be stored")
            }
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping", "Try again in a moment"),
            Self::OutcomeUnknown => {
                (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", "It is not known whether it was done")
            }
            Self::NotConfigured(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "not_configured", "A setting is missing")
            }
            Self::Database(error) if is_transient(error) => {
                (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", "Try again in a moment")
            }
            Self::Unwell(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "thread_unwell", "A thread does not do its work")
            }
            Self::Database(_) | Self::Internal(_) | Self::Panicked(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Something failed on our side")
            }
        }
    }
}

/// The code of a problem; its response carries it for the access log.
#[derive(Clone, Copy)]
pub(crate) struct ProblemCode(pub(crate) &'static str);

/// The error body of every route (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A URI reference for the kind of problem: `about:blank#` and the code.
    pub r#type: String,
    /// The kind of problem, for people.
    pub title: &'static str,
    /// The HTTP status.
    #[schema(value_type = u16, minimum = 400, maximum = 599)]
    pub status: u16,
    /// The kind of problem, for programs. Stable.
    pub code: String,
    /// What happened this time and what to do.
    pub detail: String,
    /// The field, parameter or header at fault, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        self.parts().0
    }

    fn error_response(&self) -> HttpResponse {
        let (status, code, title) = self.parts();
        let detail = if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %self, "request failed");
            "the failure is in the log under this request's id".to_owned()
        } else if self.is_timeout() {
            "the database was busy for too long; nothing was done, send the request again".to_owned()
        } else if let Self::Database(error) = self {
            tracing::warn!(%error, "database unavailable");
            "the database is away for the moment; nothing was done, send the request again".to_owned()
        } else if let Self::Invalid { rule, .. } = self {
            rule.clone()
        } else if let Self::UnknownOrg(_) = self {
            UNKNOWN_ORG.to_owned()
        } else {
            self.to_string()
        };
        let mut response = HttpResponseBuilder::new(status);
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            let wait_s = if let Self::RateLimited { wait_s, .. } = self { *wait_s } else { 1 };
            response.insert_header((header::RETRY_AFTER, wait_s));
        }
        if let Self::RateLimited { of, quota, reset_s, .. } = self {
            // As `api/http/limits.rs` tells it of requests that pass.
            let policy = format!("\"{of}\";q={quota};w={}", limits::WINDOW_S);
            response.insert_header(("RateLimit-Policy", policy));
            response.insert_header(("RateLimit", format!("\"{of}\";r=0;t={reset_s}")));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Self::WrongMethod(allowed) = self {
            response.insert_header((header::ALLOW, allowed.as_str()));
        }
        let mut problem = Problem::new(status, code, title, detail);
        problem.field = self.field().map(str::to_owned);
        Problem::answer(response, code, serde_json::to_vec(&problem).unwrap_or_default())
    }
}

impl Problem {
    /// A problem of this kind, about no field.
    #[must_use]
    pub fn new(status: StatusCode, code: &str, title: &'static str, detail: String) -> Self {
        let (r#type, status) = (format!("about:blank#{code}"), status.as_u16());
        Self { r#type, title, status, code: code.to_owned(), detail, field: None }
    }

    /// Answers with `body`: a problem, with members of its own where the route has some. The access log tells
    /// `code`.
    pub fn answer(mut response: HttpResponseBuilder, code: &'static str, body: Vec<u8>) -> HttpResponse {
        let mut answer =
            response.insert_header((header::CONTENT_TYPE, "application/problem+json")).body(body);
        answer.extensions_mut().insert(ProblemCode(code));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_fault_is_not_told_to_the_caller() {
        let secret = DieselError::QueryBuilderError("password=hunter2".into());
        let response = Error::Database(secret).error_response();
        assert_eq!(response.status(), 500);
        let body = actix_web::body::MessageBody::try_into_bytes(response.into_body()).expect("bytes");
        assert!(!String::from_utf8_lossy(&body).contains("hunter2"));
    }
}
