//! Why a call to Stripe failed.

use std::fmt;

use serde::Deserialize;

use crate::egress::WholeReply;

/// Why a call has no answer of 2xx.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Stripe refused it.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// No whole answer came. The request may have had its effect.
    #[error("Stripe did not answer: {0}")]
    Unknown(String),
    /// The answer is not what the API describes.
    #[error("Stripe's answer cannot be read: {0}")]
    Unreadable(String),
    /// The key is of another account than the one whose objects the database has.
    #[error("{0}")]
    OtherAccount(String),
}

impl CallError {
    /// Stripe's refusal, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Unknown(_) | Self::Unreadable(_) | Self::OtherAccount(_) => None,
        }
    }

    /// Whether Stripe does not have the object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.status == 404)
    }

    /// Whether the key is good, and may not do this.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.status == 403)
    }

    /// Whether the key itself is refused, or may not do this: every such call fails alike.
    #[must_use]
    pub fn is_of_key(&self) -> bool {
        self.refusal().is_some_and(|refusal| matches!(refusal.status, 401 | 403))
    }

    /// Whether a later attempt may succeed: nothing is wrong with the request itself.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            // A key that does not work may be replaced.
            Self::Refused(refusal) => refusal.status == 401 || is_worth_repeating(refusal.status),
            Self::Unknown(_) => true,
            Self::Unreadable(_) | Self::OtherAccount(_) => false,
        }
    }
}

/// Whether a status says nothing about the request itself. A server, or a proxy before it, answers 408 on a
/// connection that was open and unused for too long
/// (<https://www.rfc-editor.org/rfc/rfc9110#name-408-request-timeout>).
pub(super) fn is_worth_repeating(status: u16) -> bool {
    matches!(status, 408 | 409 | 429) || status >= 500
}

/// An error that Stripe answered (<https://docs.stripe.com/api/errors>).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Such as `invalid_request_error`.
    pub kind: String,
    /// Such as `resource_missing`.
    pub code: Option<String>,
    /// Stripe's sentence for people.
    pub message: String,
    /// The parameter that is wrong.
    pub param: Option<String>,
    /// `Stripe-Rate-Limited-Reason`.
    pub limit_reason: Option<String>,
    /// `req_…`, for Stripe's support.
    pub request_id: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stripe answered {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " ({code})")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " [{id}]")?;
        }
        Ok(())
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    error: Fields,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Fields {
    r#type: Option<String>,
    code: Option<String>,
    message: Option<String>,
    param: Option<String>,
}

/// Longest message of Stripe's that is kept, in characters.
const LONGEST_MESSAGE: usize = 500;

impl Refusal {
    /// Reads an answer whose status is not 2xx. A body of another form gives an empty message.
    pub(super) fn of(reply: &WholeReply) -> Self {
        let text =
            |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let Body { error } = serde_json::from_slice(&reply.body).unwrap_or_default();
        Self {
            status: reply.status,
            kind: error.r#type.unwrap_or_default(),
            code: error.code,
            message: error.message.unwrap_or_default().chars().take(LONGEST_MESSAGE).collect(),
            param: error.param,
            limit_reason: text("stripe-rate-limited-reason"),
            request_id: text("request-id"),
        }
    }
}
