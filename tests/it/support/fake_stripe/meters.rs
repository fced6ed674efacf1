//! Meter events: what is accepted, what is an error later, and how usage is summed.

use std::collections::{BTreeMap, HashMap};

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::state::{RealmName, State};

/// A meter event as accepted.
#[derive(Clone, Debug)]
pub struct MeterEvent {
    pub identifier: String,
    pub event_name: String,
    pub customer: String,
    pub value: Decimal,
    pub timestamp: i64,
    /// The second in which the fake accepted it.
    pub received: i64,
    /// An adjustment took it back.
    pub cancelled: bool,
}

/// All meter events of a realm, in the order of their arrival.
#[derive(Debug, Default)]
pub struct MeterEvents {
    pub events: Vec<MeterEvent>,
    identifiers: HashMap<String, usize>,
    /// The events of a customer, by position. A renewal must not read the events of all customers.
    of_customer: HashMap<String, Vec<usize>>,
}

/// How long an identifier stays taken, in seconds. Stripe promises at least 24 hours.
const IDENTIFIER_KEPT: i64 = 24 * 3600;
const OLDEST: i64 = 35 * 86_400;
const NEWEST: i64 = 5 * 60;

impl MeterEvents {
    pub fn is_taken(&self, identifier: &str, now: i64) -> bool {
        let known = self.identifiers.get(identifier).map(|position| &self.events[*position]);
        known.is_some_and(|event| now - event.received < IDENTIFIER_KEPT)
    }

    fn push(&mut self, event: MeterEvent) {
        self.identifiers.insert(event.identifier.clone(), self.events.len());
        self.of_customer.entry(event.customer.clone()).or_default().push(self.events.len());
        self.events.push(event);
    }

    /// The usage of a customer from `start` until before `end`, by the meter's rules. `None`: there is none.
    pub fn total(&self, meter: &Value, customer: &str, start: i64, end: i64) -> Option<Decimal> {
        let counted = |event: &&MeterEvent| {
            !event.cancelled
                && meter["event_name"] == event.event_name.as_str()
                && (start..end).contains(&event.timestamp)
        };
        let of_customer = self.of_customer.get(customer);
        let of_customer = of_customer.into_iter().flatten().map(|position| &self.events[*position]);
        let mut events: Vec<&MeterEvent> = of_customer.filter(counted).collect();
        // The sort is stable: of events of one second the later arrival is the most recent.
        events.sort_by_key(|event| event.timestamp);
        let window = match meter["event_time_window"].as_str() {
            Some("hour") => Some(3600),
            Some("day") => Some(86_400),
            _ => None,
        };
        if let Some(window) = window {
            // The caller adds up before it sends: the most recent event of a window is its whole usage.
            let latest: BTreeMap<i64, &MeterEvent> =
                events.iter().map(|event| (event.timestamp.div_euclid(window), *event)).collect();
            events = latest.into_values().collect();
        }
        let last = events.last()?;
        Some(match meter["default_aggregation"]["formula"].as_str() {
            Some("count") => Decimal::from(events.len()),
            Some("last") => last.value,
            _ => events.iter().map(|event| event.value).sum(),
        })
    }
}

/// A refusal of a meter event: message, code, field.
pub struct Refusal(pub String, pub Option<&'static str>, pub &'static str);

impl State {
    /// Accepts a meter event, or says why not. Errors that Stripe finds later are told as thin events.
    pub fn take_meter_event(&mut self, realm: &RealmName, given: &Value) -> Result<Value, Refusal> {
        let now = self.now();
        let missing = |field: &'static str| {
            Refusal(format!("Missing required param: {field}."), Some("parameter_missing"), field)
        };
        let event_name = given["event_name"].as_str().ok_or_else(|| missing("event_name"))?.to_owned();
        let payload = given["payload"].as_object().ok_or_else(|| missing("payload"))?.clone();
        let identifier = given["identifier"].as_str().map(str::to_owned);
        let identifier = identifier.unwrap_or_else(|| self.new_id("mevt"));
        let timestamp = match given["timestamp"].as_str() {
            Some(text) => text
                .parse::<i64>()
                .map_err(|_| Refusal(format!("Invalid integer: {text}"), None, "timestamp"))?,
            None => now,
        };
        if timestamp < now - OLDEST {
            let message = "The timestamp must be within the past 35 calendar days.".to_owned();
            return Err(Refusal(message, Some("timestamp_too_far_in_past"), "timestamp"));
        }
        if timestamp > now + NEWEST {
            let message = "The timestamp must be within 5 minutes in the future.".to_owned();
            return Err(Refusal(message, Some("timestamp_in_future"), "timestamp"));
        }
        if self.realm(realm).meters.is_taken(&identifier, now) {
            let message = format!("An event already exists with identifier {identifier}.");
            return Err(Refusal(message, Some("resource_already_exists"), "identifier"));
        }
        let meter = self.meter_of(realm, &event_name);
        let key = |meter: &Option<Value>, part: &str, default: &'static str| -> String {
            let found = meter.as_ref().and_then(|meter| meter[part]["event_payload_key"].as_str());
            found.unwrap_or(default).to_owned()
        };
        let value_key = key(&meter, "value_settings", "value");
        let customer_key = key(&meter, "customer_mapping", "stripe_customer_id");
        let is_count = meter.as_ref().is_some_and(|meter| meter["default_aggregation"]["formula"] == "count");
        let text = payload.get(&value_key).and_then(Value::as_str);
        let value = match text {
            None if is_count => Decimal::ONE,
            None => {
                let message = format!("The payload needs a value at the key '{value_key}'.");
                return Err(Refusal(message, Some("meter_event_value_not_found"), "payload"));
            }
            Some(text) => number(text).ok_or_else(|| {
                let message = format!("'{text}' is no number of at most 15 significant digits.");
                Refusal(message, Some("meter_event_invalid_value"), "payload")
            })?,
        };
        let customer = payload.get(&customer_key).and_then(Value::as_str).unwrap_or_default().to_owned();
        // What Stripe cannot use counts nowhere.
        let is_unusable = self.report_errors(realm, meter.as_ref(), &event_name, &customer, &identifier);
        let event = MeterEvent {
            identifier: identifier.clone(),
            event_name: event_name.clone(),
            customer,
            value,
            timestamp,
            received: now,
            cancelled: is_unusable,
        };
        self.realm_mut(realm).meters.push(event);
        Ok(json!({ "object": "billing.meter_event", "created": now, "event_name": event_name,
            "identifier": identifier, "livemode": realm.livemode, "payload": payload,
            "timestamp": timestamp }))
    }

    fn meter_of(&self, realm: &RealmName, event_name: &str) -> Option<Value> {
        let meters = self.realm(realm).table("billing.meter")?;
        let active = |meter: &Value| meter["status"] == "active" && meter["event_name"] == event_name;
        meters.living().find(|entry| active(&entry.value)).map(|entry| (*entry.value).clone())
    }

    fn report_errors(
        &mut self,
        realm: &RealmName,
        meter: Option<&Value>,
        event_name: &str,
        customer: &str,
        identifier: &str,
    ) -> bool {
        let known = self.realm(realm).find("customer", customer).is_some();
        let (kind, code, message) = match meter {
            None => (
                "v1.billing.meter.no_meter_found",
                "no_meter",
                format!("No meter was found for the event name {event_name}."),
            ),
            Some(_) if customer.is_empty() => (
                "v1.billing.meter.error_report_triggered",
                "meter_event_no_customer_defined",
                "The payload names no customer.".to_owned(),
            ),
            Some(_) if !known => (
                "v1.billing.meter.error_report_triggered",
                "meter_event_customer_not_found",
                format!("No customer was found with the id {customer}."),
            ),
            Some(_) => return false,
        };
        let sample = json!({ "error_message": message, "request": { "identifier": identifier } });
        let now = self.now();
        let reason = json!({ "error_count": 1,
            "error_types": [{ "code": code, "error_count": 1, "sample_errors": [sample] }] });
        let data = json!({ "developer_message_summary": "There is 1 invalid event", "reason": reason,
            "validation_start": rfc3339(now - now.rem_euclid(10)),
            "validation_end": rfc3339(now - now.rem_euclid(10) + 10) });
        let related = meter.map(|meter| {
            let id = meter["id"].as_str().unwrap_or_default();
            json!({ "id": id, "type": "billing.meter", "url": format!("/v1/billing/meters/{id}") })
        });
        self.tell_thin(realm, kind, related, data);
        true
    }

    /// Stores a thin event, and marks it for delivery.
    fn tell_thin(&mut self, realm: &RealmName, kind: &str, related: Option<Value>, data: Value) {
        let id = self.new_id("evt_test");
        let context = (!realm.account.is_empty()).then(|| realm.account.clone());
        let mut event = json!({ "id": id, "object": "v2.core.event", "type": kind, "reason": null,
            "livemode": realm.livemode, "created": rfc3339(self.now()), "context": context, "data": data });
        if let Some(related) = related {
            event["related_object"] = related;
        }
        self.webhooks.wants(realm, &id);
        self.realm_mut(realm).thin_events.insert(id, event);
    }

    /// Takes back an event of the last 24 hours.
    pub fn cancel_meter_event(&mut self, realm: &RealmName, given: &Value) -> Result<Value, Refusal> {
        let now = self.now();
        let identifier = given["cancel"]["identifier"].as_str().unwrap_or_default();
        let name = given["event_name"].as_str().unwrap_or_default();
        let meters = &mut self.realm_mut(realm).meters;
        let position = meters.identifiers.get(identifier).copied();
        let event = position.map(|position| &mut meters.events[position]);
        let Some(event) = event.filter(|event| event.event_name == name) else {
            let message = format!("No meter event was found with the identifier '{identifier}'.");
            return Err(Refusal(message, Some("resource_missing"), "cancel[identifier]"));
        };
        if now - event.received >= IDENTIFIER_KEPT {
            let message = "Only events of the last 24 hours can be cancelled.".to_owned();
            return Err(Refusal(message, None, "cancel[identifier]"));
        }
        event.cancelled = true;
        Ok(json!({ "object": "billing.meter_event_adjustment", "cancel": { "identifier": identifier },
            "event_name": name, "livemode": realm.livemode, "status": "pending", "type": "cancel" }))
    }
}

/// A decimal number of at most 15 significant digits.
fn number(text: &str) -> Option<Decimal> {
    let value = text.parse::<Decimal>().ok()?;
    let digits = value.normalize().mantissa().unsigned_abs().to_string();
    (digits.trim_end_matches('0').len() <= 15).then_some(value)
}

pub fn rfc3339(second: i64) -> String {
    let time = chrono::DateTime::from_timestamp(second, 0).expect("a time");
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
