//! Requests by named fields: `quota(100).period("month")`, `usage("acme", "tokens").quantity(5)`.
//!
//! Each request starts with the values that most tests need, and `with` sets any other field. By default the
//! org is `acme` and the meter `tokens`.

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use super::json::place;

/// A request with a JSON body.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The body; null for none.
    pub body: Value,
    /// The path of the fields within the body.
    root: &'static str,
}

/// A request without a builder.
pub fn request(method: Method, path: impl Into<String>, body: Value) -> Request {
    Request { method, path: path.into(), body, root: "" }
}

fn post(path: impl Into<String>, body: Value) -> Request {
    request(Method::POST, path, body)
}

/// A new org, by its external id.
pub fn org(external_id: &str) -> Request {
    post("/v1/orgs", json!({ "name": external_id, "external_id": external_id, "time_zone": "UTC" }))
}

/// A new meter with this key: the sum of `value` over the events of the same name.
pub fn meter(key: &str) -> Request {
    let body = json!({ "key": key, "event_name": key, "aggregation": "sum", "value_field": "value" });
    post("/v1/meters", body)
}

/// Prices of a meter in US dollars, from now on.
pub fn rate_card(meter: &str, rates: Value) -> Request {
    post(format!("/v1/meters/{meter}/rate_cards"), json!({ "currency": "usd", "rates": rates }))
}

/// A quota by the day.
pub fn quota(limit: impl Into<Value>) -> Request {
    let limit: Value = limit.into();
    post("/v1/quotas", json!({ "org": "acme", "meter": "tokens", "period": "day", "limit": limit }))
}

/// A limit by the day in a plan: a quota that names no org.
pub fn limit(limit: impl Into<Value>) -> Request {
    quota(limit).without("org")
}

/// Exempts a subject from a quota by the day.
pub fn exempt(subject: &str) -> Request {
    let body = json!({ "org": "acme", "meter": "tokens", "period": "day", "subject": subject,
        "reason": "support" });
    post("/v1/quota_exemptions", body)
}

/// Asks whether usage would be allowed.
pub fn check() -> Request {
    let items = json!({ "items": [{ "org": "acme", "meter": "tokens" }] });
    Request { root: "items.0.", ..post("/v1/quota/check", items) }
}

/// Reserves an amount.
pub fn reserve(amount: impl Into<Value>) -> Request {
    let amount: Value = amount.into();
    post("/v1/quota/reserve", json!({ "org": "acme", "meter": "tokens", "amount": amount }))
}

/// Settles a reservation: all of it was used, unless an amount or an event says otherwise.
pub fn settle(id: &str) -> Request {
    post(format!("/v1/quota/{id}/settle"), json!({}))
}

/// Releases a reservation: nothing of it was used.
pub fn release(id: &str) -> Request {
    post(format!("/v1/quota/{id}/release"), json!({}))
}

/// Creates or changes a plan (`PUT`).
pub fn plan(id: &str) -> Request {
    request(Method::PUT, format!("/v1/plans/{id}"), json!({ "name": id }))
}

/// Replaces the limits of a plan.
pub fn plan_limits<const N: usize>(id: &str, limits: [Request; N]) -> Request {
    request(Method::PUT, format!("/v1/plans/{id}/quotas"), json!({})).limits(limits)
}

/// Begins a local subscription: a trial, unless `paid` is set.
pub fn subscribe(org: &str, plan: &str) -> Request {
    post(format!("/v1/orgs/{org}/subscription"), json!({ "plan": plan }))
}

/// `change`, `cancel` or `activate` of an org's local subscription.
pub fn subscription_command(org: &str, command: &str, body: Value) -> Request {
    post(format!("/v1/orgs/{org}/subscription/{command}"), body)
}

/// Creates or changes a pack of units (`PUT`).
pub fn pack(id: &str, units: impl Into<Value>) -> Request {
    let units: Value = units.into();
    request(Method::PUT, format!("/v1/battery/packs/{id}"), json!({ "name": id, "units": units }))
}

/// Units for an org's battery.
pub fn grant(org: &str, amount: impl Into<Value>) -> Request {
    let amount: Value = amount.into();
    post("/v1/battery/grants", json!({ "org": org, "amount": amount, "reason": "a test" }))
}

/// How far an org's battery may go below zero.
pub fn debt_limit(org: &str, limit: impl Into<Value>) -> Request {
    let limit: Value = limit.into();
    request(Method::PUT, format!("/v1/battery/settings/{org}"), json!({ "debt_limit": limit }))
}

/// Adds units to an org's battery, or takes units from it.
pub fn adjust(org: &str, amount: impl Into<Value>) -> Request {
    let amount: Value = amount.into();
    post("/v1/battery/adjustments", json!({ "org": org, "amount": amount, "reason": "a test" }))
}

/// Voids an event of the source `t`.
pub fn void(id: &str) -> Request {
    post("/v1/usage/void", json!({ "org": "acme", "source": "t", "id": id, "reason": "a mistake" }))
}

/// Amends an event of the source `t`.
pub fn amend(id: &str, by: Usage) -> Request {
    let event = by.without("id").without("source").without("org").json();
    post("/v1/usage/amend", void(id).with("event", event).body)
}

/// Closes a month such as `2026-10`, for all orgs or for the org that it names.
pub fn close(month: &str) -> Request {
    post("/v1/usage/closings", json!({ "month": month }))
}

impl Request {
    /// Sets a field; a path such as `monthly.amount` names a nested one.
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        *place(&mut self.body, &format!("{}{path}", self.root)) = value.into();
        self
    }

    /// Removes a field.
    pub fn without(mut self, field: &str) -> Self {
        self.body.as_object_mut().expect("an object").remove(field);
        self
    }

    pub fn org(self, org: &str) -> Self {
        self.with("org", org)
    }

    pub fn meter(self, key: &str) -> Self {
        self.with("meter", key)
    }

    pub fn name(self, name: &str) -> Self {
        self.with("name", name)
    }

    /// `day`, `month`, `billing` or `always`.
    pub fn period(self, period: &str) -> Self {
        self.with("period", period)
    }

    pub fn subject(self, subject: &str) -> Self {
        self.with("subject", subject)
    }

    pub fn per_subject(self) -> Self {
        self.with("per_subject", true)
    }

    pub fn amount(self, amount: impl Into<Value>) -> Self {
        self.with("amount", amount)
    }

    /// An id, which makes the request safe to repeat.
    pub fn id(self, id: &str) -> Self {
        self.with("id", id)
    }

    pub fn dimension(self, name: &str, value: &str) -> Self {
        self.with(&format!("dimensions.{name}"), value)
    }

    /// Counts only usage with this value of the dimension.
    pub fn only(self, dimension: &str, value: &str) -> Self {
        self.with(&format!("filter.{dimension}"), value)
    }

    /// Of an org: its time zone.
    pub fn zone(self, zone: &str) -> Self {
        self.with("time_zone", zone)
    }

    /// Of a meter: how it aggregates.
    pub fn aggregation(self, aggregation: &str) -> Self {
        let request = self.with("aggregation", aggregation);
        if aggregation == "count" { request.without("value_field") } else { request }
    }

    /// Of a meter: the name of its events.
    pub fn event_name(self, name: &str) -> Self {
        self.with("event_name", name)
    }

    /// Of a meter: the field of its events that has the value.
    pub fn value_field(self, name: &str) -> Self {
        self.with("value_field", name)
    }

    /// Of a meter: its dimensions.
    pub fn dimensions<const N: usize>(self, names: [&str; N]) -> Self {
        self.with("dimensions", names.to_vec())
    }

    /// Of a plan or a pack: the Stripe prices that buy it.
    pub fn prices<const N: usize>(self, ids: [&str; N]) -> Self {
        self.with("stripe_prices", ids.to_vec())
    }

    /// Of a plan: its limits.
    pub fn limits<const N: usize>(self, limits: [Request; N]) -> Self {
        self.with("quotas", limits.map(|limit| limit.body).to_vec())
    }

    /// Of a rate card: its start, also in the past.
    pub fn since(self, time: impl Into<Value>) -> Self {
        self.with("valid_from", time).with("backdate", true)
    }
}

/// An event of usage.
#[derive(Clone, Debug)]
pub struct Usage(Value);

/// One unit of usage of an org, now, from the source `t`, with a unique id.
pub fn usage(org: &str, event_name: &str) -> Usage {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let id = format!("usage-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    Usage(json!({ "id": id, "source": "t", "org": org, "event_name": event_name, "data": { "value": 1 } }))
}

impl Usage {
    /// Sets a field; a path such as `data.model` names a nested one.
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        *place(&mut self.0, path) = value.into();
        self
    }

    /// Removes a field.
    pub fn without(mut self, field: &str) -> Self {
        self.0.as_object_mut().expect("an object").remove(field);
        self
    }

    pub fn id(self, id: &str) -> Self {
        self.with("id", id)
    }

    pub fn org(self, org: &str) -> Self {
        self.with("org", org)
    }

    pub fn source(self, source: &str) -> Self {
        self.with("source", source)
    }

    pub fn subject(self, subject: &str) -> Self {
        self.with("subject", subject)
    }

    pub fn quantity(self, quantity: impl Into<Value>) -> Self {
        self.with("data.value", quantity)
    }

    pub fn dimension(self, name: &str, value: impl Into<Value>) -> Self {
        self.with(&format!("data.{name}"), value)
    }

    /// All of its data.
    pub fn data(self, data: Value) -> Self {
        self.with("data", data)
    }

    /// When it happened.
    pub fn at(self, time: impl Time) -> Self {
        self.with("occurred_at", time.rfc3339())
    }

    /// The JSON to send.
    pub fn json(self) -> Value {
        self.0
    }
}

impl From<Usage> for Value {
    fn from(usage: Usage) -> Self {
        usage.0
    }
}

/// A point in time: RFC 3339, seconds since 1970, or a time of chrono's.
pub trait Time {
    fn rfc3339(&self) -> String;

    fn second(&self) -> i64 {
        self.rfc3339().parse::<DateTime<Utc>>().expect("a time").timestamp()
    }
}

impl Time for &str {
    fn rfc3339(&self) -> String {
        (*self).to_owned()
    }
}

impl Time for DateTime<Utc> {
    fn rfc3339(&self) -> String {
        self.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }
}

impl Time for i64 {
    fn rfc3339(&self) -> String {
        DateTime::from_timestamp(*self, 0).expect("in range").rfc3339()
    }
}
