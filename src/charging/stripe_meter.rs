//! A meter at Stripe, as Stripe describes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Error;
use crate::stripe::client::{self, Call, CallError, StripeClient};

/// How long somebody who names a meter waits for Stripe.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What Stripe's meter takes events for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    Hour,
    Day,
}

impl Window {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Hour, Self::Day].into_iter().find(|window| window.name() == name)
    }

    /// Its length in seconds. Windows are those of UTC.
    #[must_use]
    pub fn seconds(self) -> i64 {
        match self {
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

/// A meter at Stripe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StripeMeter {
    /// `mtr_…`
    pub id: String,
    /// The name of its events.
    pub event_name: String,
    /// The window in which the most recent event overwrites; null: events add up.
    pub event_time_window: Option<Window>,
    /// The key of the value in an event's payload.
    pub value_key: String,
    /// The key of the customer in an event's payload.
    pub customer_key: String,
}

impl StripeMeter {
    /// The window of its buckets. Deltas, which add up, have those of hours.
    #[must_use]
    pub fn window(&self) -> Window {
        self.event_time_window.unwrap_or(Window::Hour)
    }
}

#[derive(Deserialize)]
struct Shown {
    event_name: String,
    status: Option<String>,
    event_time_window: Option<Window>,
    default_aggregation: Option<Formula>,
    value_settings: Option<PayloadKey>,
    customer_mapping: Option<PayloadKey>,
}

#[derive(Deserialize)]
struct Formula {
    formula: String,
}

#[derive(Deserialize)]
struct PayloadKey {
    event_payload_key: String,
}

/// Reads a meter at Stripe (<https://docs.stripe.com/api/billing/meter/object>).
///
/// # Errors
/// [`Error::Invalid`] names `stripe_meter`: Stripe has no such meter, it does not sum, or it is inactive;
/// [`Error::Conflict`] when Stripe cannot be asked.
pub async fn read(client: &StripeClient, account: &str, id: &str) -> Result<StripeMeter, Error> {
    let is_id = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !id.starts_with("mtr_") || !is_id(id) || id.len() > 255 {
        return Err(Error::invalid("stripe_meter", "must be the id of a meter at Stripe (`mtr_…`)"));
    }
    let call = Call::get(&format!("/v1/billing/meters/{id}"), &[]).of(account);
    let answer = client::within(ANSWER_WITHIN, client.send(&call)).await;
    let shown: Shown = answer.and_then(|answer| answer.read()).map_err(|error| {
        if error.is_not_found() {
            return Error::invalid("stripe_meter", "is no meter of this account and mode at Stripe");
        }
        unanswered(&error)
    })?;
    if shown.status.as_deref() == Some("inactive") {
        return Err(Error::invalid("stripe_meter", "is inactive at Stripe: reactivate it, or make another"));
    }
    if shown.default_aggregation.is_none_or(|aggregation| aggregation.formula != "sum") {
        return Err(Error::invalid("stripe_meter", "must sum its values (formula `sum`)"));
    }
    let key = |key: Option<PayloadKey>, usual: &str| {
        key.map_or_else(|| usual.to_owned(), |key| key.event_payload_key)
    };
    Ok(StripeMeter {
        id: id.to_owned(),
        event_name: shown.event_name,
        event_time_window: shown.event_time_window,
        value_key: key(shown.value_settings, "value"),
        customer_key: key(shown.customer_mapping, "stripe_customer_id"),
    })
}

/// The error of a command that needs Stripe's answer.
fn unanswered(error: &CallError) -> Error {
    match error {
        CallError::Unknown(_) => Error::conflict("stripe_unanswered", format!("{error}: try again")),
        _ if error.is_of_key() => {
            Error::conflict("stripe_refused", format!("{error}: correct STRIPE_SECRET_KEY, or its rights"))
        }
        _ if error.is_temporary() => Error::conflict("stripe_refused", format!("{error}: try again")),
        _ => Error::conflict("stripe_refused", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::client::Refusal;

    #[test]
    fn advice_fits_what_happened() {
        let refused = |status| CallError::Refused(Box::new(Refusal { status, ..Refusal::default() }));
        for (error, told) in [
            (
                CallError::Unknown("no answer within 20 s".to_owned()),
                "Stripe did not answer: no answer within 20 s: try again",
            ),
            (refused(403), "Stripe answered 403: correct STRIPE_SECRET_KEY, or its rights"),
            (refused(401), "Stripe answered 401: correct STRIPE_SECRET_KEY, or its rights"),
            (refused(503), "Stripe answered 503: try again"),
            (refused(400), "Stripe answered 400"),
            (CallError::OtherAccount("the key is another's".to_owned()), "the key is another's"),
        ] {
            assert_eq!(unanswered(&error).to_string(), told);
        }
    }
}
