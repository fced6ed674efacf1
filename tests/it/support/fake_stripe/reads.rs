//! Retrieves: single objects, their lines, what they name, and the routes as a whole.

use serde_json::{Value, json};

use super::form;
use super::kinds::Kind;
use super::lists::{EVENTS_KEPT, list};
use super::server::{Answer, Call};
use super::state::{RealmName, State, error};
use super::store::Entry;

/// What `expand[]` asks for, as paths of fields.
pub struct Expansions(Vec<Vec<String>>);

const DEEPEST: usize = 4;

impl Expansions {
    pub fn read(value: &Value, of_list: bool) -> Result<Self, Answer> {
        let mut paths = Vec::new();
        for text in form::texts(value) {
            let mut path: Vec<String> = text.split('.').map(str::to_owned).collect();
            if path.len() > DEEPEST {
                let message = format!("You cannot expand more than {DEEPEST} levels of a property: {text}.");
                return Err(Answer::refusal(&message, None, Some("expand")));
            }
            if of_list && path.first().is_some_and(|first| first != "data") {
                let message = format!(
                    "This property cannot be expanded ({text}). You may want to try expanding 'data.{text}' \
                     instead."
                );
                return Err(Answer::refusal(&message, None, Some("expand")));
            }
            if of_list {
                path.remove(0);
            }
            if !path.is_empty() {
                paths.push(path);
            }
        }
        Ok(Self(paths))
    }
}

impl State {
    /// Answers a request that was let in.
    pub fn route(&mut self, call: &Call) -> Answer {
        if let Some(id) = call.path.strip_prefix("v2/core/events/") {
            return self.retrieve_thin(call, id);
        }
        let Some(path) = call.path.strip_prefix("v1/") else { return unknown_route(call) };
        let segments: Vec<&str> = path.split('/').collect();
        match (call.method.as_str(), segments.as_slice()) {
            ("GET", ["account"]) => return Answer::ok(&self.account(&call.realm)),
            ("GET", ["events"]) => {
                return self.permitted(call, "event").unwrap_or_else(|| self.list_events(call));
            }
            ("GET", ["events", id]) => {
                let retrieve = || self.retrieve_event(call, id);
                return self.permitted(call, "event").unwrap_or_else(retrieve);
            }
            ("GET", ["subscription_items"]) => return self.list_items(call),
            ("POST", ["billing", "meter_events" | "meter_event_adjustments"]) => {
                if let Some(refused) = self.permitted(call, "billing_meter_event") {
                    return refused;
                }
                return self.write_meter_event(call, path);
            }
            _ => {}
        }
        // Kinds such as `billing.meter` have two steps in their path.
        let steps = [2, 1].into_iter().filter(|steps| segments.len() >= *steps);
        let found = steps
            .filter_map(|steps| Some((Kind::at_path(&segments[..steps].join("/"))?, &segments[steps..])))
            .next();
        let Some((kind, rest)) = found else { return unknown_route(call) };
        if let Some(refused) = self.permitted(call, kind.permission) {
            return refused;
        }
        match (call.method.as_str(), rest) {
            ("GET", []) => self.list(call, kind),
            ("GET", [id]) => self.retrieve(call, kind, id),
            ("GET", [id, "lines" | "line_items"]) => self.list_lines(call, kind, id),
            ("GET", [id, "tax_ids"]) => self.list_tax_ids(call, id),
            ("GET", [id, "event_summaries"]) => self.list_summaries(call, id),
            ("POST" | "DELETE", rest) => self.write(call, kind, rest),
            _ => unknown_route(call),
        }
    }

    /// The refusal of a restricted key without this permission.
    pub fn permitted(&self, call: &Call, permission: &str) -> Option<Answer> {
        let permissions = call.key.permissions.as_ref()?;
        if permissions.contains(permission) {
            return None;
        }
        let need = if call.method == "GET" { "read" } else { "write" };
        let shown: String = call.key_name.chars().take(8).collect();
        let account = if call.realm.account.is_empty() { super::PLATFORM } else { &call.realm.account };
        let message = format!(
            "The provided key '{shown}***' does not have the required permissions for this endpoint on \
             account '{account}'. Having the 'rak_{permission}_{need}' permission would allow this request \
             to continue."
        );
        Some(Answer::json(403, &error("invalid_request_error", &message, None, None)))
    }

    fn retrieve(&self, call: &Call, kind: &'static Kind, id: &str) -> Answer {
        let noun = kind.object.rsplit('.').next().unwrap_or(kind.object);
        let table = self.realm(&call.realm).table(kind.object);
        let Some(entry) = table.and_then(|table| table.get(id)) else { return Answer::missing(noun, id) };
        if entry.deleted && kind.object == "customer" {
            return Answer::ok(&json!({ "id": id, "object": kind.object, "deleted": true }));
        }
        if entry.deleted {
            return Answer::missing(noun, id);
        }
        let expansions = Expansions::read(&call.params["expand"], false);
        let expanded = expansions.and_then(|expansions| self.expanded(&call.realm, entry, &expansions));
        expanded.map_or_else(|answer| answer, |value| Answer::ok(&value))
    }

    fn retrieve_event(&self, call: &Call, id: &str) -> Answer {
        let realm = self.realm(&call.realm);
        let event = realm.event_ids.get(id).and_then(|position| realm.events.get(position));
        match event.filter(|event| event.created >= self.now() - EVENTS_KEPT) {
            Some(event) => {
                let body = event.text(&self.api_version, call.realm.livemode);
                Answer { status: 200, body, headers: Vec::new() }
            }
            None => Answer::missing("event", id),
        }
    }

    fn retrieve_thin(&self, call: &Call, id: &str) -> Answer {
        match self.realm(&call.realm).thin_events.get(id) {
            Some(event) if call.method == "GET" => Answer::ok(event),
            Some(_) => unknown_route(call),
            None => {
                let body = json!({ "error": { "code": "not_found", "message": "Event not found." } });
                Answer::json(404, &body)
            }
        }
    }

    /// The lines of an invoice, a session or a credit note: these are in the order of the object.
    fn list_lines(&self, call: &Call, kind: &Kind, id: &str) -> Answer {
        let Some(entry) = self.realm(&call.realm).find(kind.object, id) else {
            return Answer::missing(kind.object, id);
        };
        self.page_of_lines(call, &entry.lines).unwrap_or_else(|answer| answer)
    }

    fn page_of_lines(&self, call: &Call, lines: &[Value]) -> Result<Answer, Answer> {
        let limit = match call.params["limit"].as_str() {
            None => 10,
            Some(text) => {
                text.parse::<usize>().ok().filter(|limit| (1..=100).contains(limit)).ok_or_else(|| {
                    Answer::refusal("This value must be between 1 and 100.", None, Some("limit"))
                })?
            }
        };
        let at = |name: &'static str| -> Result<Option<usize>, Answer> {
            let Some(id) = call.params[name].as_str() else { return Ok(None) };
            let position = lines.iter().position(|line| line["id"] == id);
            let message = format!("No such line item: '{id}'");
            position.map(Some).ok_or_else(|| Answer::refusal(&message, Some("resource_missing"), Some(name)))
        };
        let (start, end) = match (at("starting_after")?, at("ending_before")?) {
            (Some(after), _) => (after + 1, (after + 1 + limit).min(lines.len())),
            (None, Some(before)) => (before.saturating_sub(limit), before),
            (None, None) => (0, limit.min(lines.len())),
        };
        let backwards = call.params["ending_before"].is_string();
        let has_more = if backwards { start > 0 } else { end < lines.len() };
        let data = lines[start..end].to_vec();
        Ok(Answer::ok(&list(&format!("/{}", call.path), data, has_more)))
    }

    fn list_tax_ids(&self, call: &Call, customer: &str) -> Answer {
        if self.realm(&call.realm).find("customer", customer).is_none() {
            return Answer::missing("customer", customer);
        }
        let table = self.realm(&call.realm).table("tax_id");
        let found = table.into_iter().flat_map(|table| table.naming("customer", customer));
        let newest_first: Vec<Value> = found.map(|entry| (*entry.value).clone()).collect();
        let newest_first: Vec<Value> = newest_first.into_iter().rev().collect();
        self.page_of_lines(call, &newest_first).unwrap_or_else(|answer| answer)
    }

    fn list_items(&self, call: &Call) -> Answer {
        if let Some(refused) = self.permitted(call, "subscription") {
            return refused;
        }
        let Some(id) = call.params["subscription"].as_str() else {
            let code = Some("parameter_missing");
            return Answer::refusal("Missing required param: subscription.", code, Some("subscription"));
        };
        let Some(entry) = self.realm(&call.realm).find("subscription", id) else {
            return Answer::missing("subscription", id);
        };
        let items = entry.value["items"]["data"].as_array().cloned().unwrap_or_default();
        self.page_of_lines(call, &items).unwrap_or_else(|answer| answer)
    }

    /// The object with what `expand[]` asks for.
    pub fn expanded(&self, realm: &RealmName, entry: &Entry, wanted: &Expansions) -> Result<Value, Answer> {
        let mut value = (*entry.value).clone();
        for path in &wanted.0 {
            self.expand(realm, &mut value, path, entry)?;
        }
        Ok(value)
    }

    fn expand(
        &self,
        realm: &RealmName,
        value: &mut Value,
        path: &[String],
        entry: &Entry,
    ) -> Result<(), Answer> {
        let Some((field, rest)) = path.split_first() else { return Ok(()) };
        if let Value::Array(list) = value {
            return list.iter_mut().try_for_each(|part| self.expand(realm, part, path, entry));
        }
        let stored = self.realm(realm);
        if value.get(field).is_none()
            && let Some(included) = self.included(realm, value, field, entry)
        {
            value[field] = included;
        }
        let Some(place) = value.get_mut(field) else {
            let message = format!("This property cannot be expanded ({field}).");
            return Err(Answer::refusal(&message, None, Some("expand")));
        };
        if let Some(id) = place.as_str() {
            let found = Kind::of_id(id).and_then(|kind| stored.table(kind.object)?.get(id));
            let Some(found) = found else { return Ok(()) };
            let shown = if found.deleted {
                json!({ "id": id, "object": found.value["object"], "deleted": true })
            } else {
                (*found.value).clone()
            };
            *place = shown;
        }
        self.expand(realm, place, rest, entry)
    }

    /// A list that an object has only when it is asked for.
    fn included(&self, realm: &RealmName, value: &Value, field: &str, entry: &Entry) -> Option<Value> {
        let id = value["id"].as_str()?;
        let of = |kind: &str, naming: &'static str, url: String| {
            let table = self.realm(realm).table(kind);
            let found = table.into_iter().flat_map(|table| table.naming(naming, id));
            let mut data: Vec<Value> = found.map(|entry| (*entry.value).clone()).collect();
            data.reverse();
            let has_more = data.len() > 10;
            data.truncate(10);
            list(&url, data, has_more)
        };
        match (value["object"].as_str()?, field) {
            ("invoice", "payments") => {
                Some(of("invoice_payment", "invoice", format!("/v1/invoice_payments?invoice={id}")))
            }
            ("charge", "refunds") => Some(of("refund", "charge", format!("/v1/charges/{id}/refunds"))),
            ("customer", "tax_ids") => Some(of("tax_id", "customer", format!("/v1/customers/{id}/tax_ids"))),
            ("customer", "subscriptions") => {
                Some(of("subscription", "customer", format!("/v1/customers/{id}/subscriptions")))
            }
            ("checkout.session", "line_items") => {
                let shown: Vec<Value> = entry.lines.iter().take(10).cloned().collect();
                let url = format!("/v1/checkout/sessions/{id}/line_items");
                Some(list(&url, shown, entry.lines.len() > 10))
            }
            // Kinds that the fake knows without these fields.
            ("price", "tiers" | "currency_options") | ("coupon", "applies_to") | ("invoice", "discounts") => {
                Some(Value::Null)
            }
            _ => None,
        }
    }
}

/// 404: Stripe has no such route.
pub fn unknown_route(call: &Call) -> Answer {
    let message = format!("Unrecognized request URL ({}: /{}).", call.method, call.path);
    Answer::json(404, &error("invalid_request_error", &message, None, None))
}
