//! Lists: newest first, with cursors, windows of time and filters.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Bound;

use serde_json::{Value, json};

use super::form;
use super::kinds::Kind;
use super::reads::Expansions;
use super::server::{Answer, Call};
use super::state::State;
use super::store::{Event, Position, Table, indexed, text_at};

/// How long `GET /v1/events` shows an event, in seconds.
pub const EVENTS_KEPT: i64 = 30 * 86_400;
const MOST_TYPES: usize = 20;

/// A page of a list: which positions, how many, from which end.
pub struct Page {
    pub limit: usize,
    from: Bound<Position>,
    to: Bound<Position>,
    /// `ending_before`: the page that ends just before the cursor.
    backwards: bool,
}

impl Page {
    /// Reads limit, cursor and window. `find` gives the position of a cursor.
    pub fn read(
        params: &Value,
        lossy: bool,
        noun: &str,
        find: impl Fn(&str) -> Option<Position>,
    ) -> Result<Self, Answer> {
        let limit = match params["limit"].as_str() {
            None => 10,
            Some(text) => {
                text.parse::<usize>().ok().filter(|limit| (1..=100).contains(limit)).ok_or_else(|| {
                    let message = format!("This value must be between 1 and 100, and not {text}.");
                    Answer::refusal(&message, Some("parameter_invalid_integer"), Some("limit"))
                })?
            }
        };
        let mut page = Self { limit, from: Bound::Unbounded, to: Bound::Unbounded, backwards: false };
        let windowed = page.read_window(&params["created"])?;
        let cursor = |name: &'static str| -> Result<Option<Position>, Answer> {
            let Some(id) = params[name].as_str() else { return Ok(None) };
            let message = format!("No such {noun}: '{id}'");
            find(id).map(Some).ok_or_else(|| Answer::refusal(&message, Some("resource_missing"), Some(name)))
        };
        let (after, before) = (cursor("starting_after")?, cursor("ending_before")?);
        if after.is_some() && before.is_some() {
            let message = "You may only specify one of these parameters: ending_before, starting_after.";
            return Err(Answer::refusal(message, None, None));
        }
        if let Some(position) = after {
            let lossy = windowed && lossy;
            let end = if lossy { (position.0, 0) } else { position };
            page.to = least(page.to, Bound::Excluded(end));
        }
        if let Some(position) = before {
            page.from = greatest(page.from, Bound::Excluded(position));
            page.backwards = true;
        }
        Ok(page)
    }

    fn read_window(&mut self, created: &Value) -> Result<bool, Answer> {
        let second = |value: &Value| -> Result<i64, Answer> {
            let text = value.as_str().unwrap_or_default();
            let message = format!("Invalid integer: {text}");
            let param = Some("created");
            text.parse().map_err(|_| Answer::refusal(&message, Some("parameter_invalid_integer"), param))
        };
        match created {
            Value::Null => return Ok(false),
            Value::String(_) => {
                let exact = second(created)?;
                (self.from, self.to) = (Bound::Included((exact, 0)), Bound::Excluded((exact + 1, 0)));
            }
            Value::Object(bounds) => {
                for (name, value) in bounds {
                    let at = second(value)?;
                    match name.as_str() {
                        "gte" => self.from = greatest(self.from, Bound::Included((at, 0))),
                        "gt" => self.from = greatest(self.from, Bound::Included((at + 1, 0))),
                        "lt" => self.to = least(self.to, Bound::Excluded((at, 0))),
                        "lte" => self.to = least(self.to, Bound::Excluded((at + 1, 0))),
                        other => return Err(unknown_parameter(&format!("created[{other}]"))),
                    }
                }
            }
            _ => return Err(Answer::refusal("Invalid object", None, Some("created"))),
        }
        Ok(true)
    }

    /// Nothing before this second.
    pub fn not_before(&mut self, second: i64) {
        self.from = greatest(self.from, Bound::Included((second, 0)));
    }

    fn is_empty(&self) -> bool {
        let start = match self.from {
            Bound::Included(at) => at,
            Bound::Excluded((second, number)) => (second, number + 1),
            Bound::Unbounded => return false,
        };
        matches!(self.to, Bound::Excluded(end) if start >= end)
    }

    /// The positions of the page, newest first, and whether more follow in its direction.
    fn take(
        &self,
        positions: impl DoubleEndedIterator<Item = Position>,
        mut fits: impl FnMut(Position) -> bool,
    ) -> (Vec<Position>, bool) {
        let wanted = self.limit + 1;
        let mut found: Vec<Position> = if self.backwards {
            positions.filter(|position| fits(*position)).take(wanted).collect()
        } else {
            positions.rev().filter(|position| fits(*position)).take(wanted).collect()
        };
        let has_more = found.len() > self.limit;
        found.truncate(self.limit);
        if self.backwards {
            found.reverse();
        }
        (found, has_more)
    }

    /// The page of what is in `order`; `among` has the only positions that can fit.
    pub fn of<T>(
        &self,
        order: &BTreeMap<Position, T>,
        among: Option<&BTreeSet<Position>>,
        fits: impl Fn(&T) -> bool,
    ) -> (Vec<Position>, bool) {
        if self.is_empty() {
            return (Vec::new(), false);
        }
        let range = (self.from, self.to);
        match among {
            Some(among) => self.take(among.range(range).copied(), |position| fits(&order[&position])),
            None => {
                // The filter needs the value, which the iterator has: no second look-up for each object.
                let mut values = order.range(range);
                let wanted = self.limit + 1;
                let mut found = Vec::with_capacity(wanted);
                let mut next = || if self.backwards { values.next() } else { values.next_back() };
                while let Some((position, value)) = next() {
                    if fits(value) {
                        found.push(*position);
                        if found.len() == wanted {
                            break;
                        }
                    }
                }
                let has_more = found.len() > self.limit;
                found.truncate(self.limit);
                if self.backwards {
                    found.reverse();
                }
                (found, has_more)
            }
        }
    }
}

fn second_of(bound: Bound<Position>) -> Position {
    match bound {
        Bound::Included(at) | Bound::Excluded(at) => at,
        Bound::Unbounded => (0, 0),
    }
}

fn least(one: Bound<Position>, other: Bound<Position>) -> Bound<Position> {
    match (one, other) {
        (Bound::Unbounded, bound) | (bound, Bound::Unbounded) => bound,
        _ if second_of(one) <= second_of(other) => one,
        _ => other,
    }
}

fn greatest(one: Bound<Position>, other: Bound<Position>) -> Bound<Position> {
    match (one, other) {
        (Bound::Unbounded, bound) | (bound, Bound::Unbounded) => bound,
        // An equal cursor is stricter than the window: it leaves itself out.
        _ if second_of(one) > second_of(other) => one,
        _ => other,
    }
}

fn unknown_parameter(name: &str) -> Answer {
    let message = format!("Received unknown parameter: {name}");
    Answer::refusal(&message, Some("parameter_unknown"), Some(name))
}

/// A list as Stripe writes it.
pub fn list(url: &str, data: Vec<Value>, has_more: bool) -> Value {
    json!({ "object": "list", "url": url, "has_more": has_more, "data": data })
}

impl State {
    /// `GET /v1/<plural>`.
    pub fn list(&self, call: &Call, kind: &'static Kind) -> Answer {
        self.try_list(call, kind).unwrap_or_else(|answer| answer)
    }

    fn try_list(&self, call: &Call, kind: &'static Kind) -> Result<Answer, Answer> {
        const ALWAYS: &[&str] = &["limit", "starting_after", "ending_before", "expand"];
        let params = call.params.as_object().expect("parameters");
        for name in params.keys().map(String::as_str) {
            let by_time = name == "created" && kind.by_time;
            let known = ALWAYS.contains(&name) || kind.filters.contains(&name) || by_time;
            if !known {
                return Err(unknown_parameter(name));
            }
        }
        let expansions = Expansions::read(&call.params["expand"], true)?;
        let url = format!("/{}", call.path);
        let nothing = Table::default();
        let table = self.realm(&call.realm).table(kind.object).unwrap_or(&nothing);
        let noun = kind.object.rsplit('.').next().unwrap_or(kind.object);
        let find = |id: &str| {
            let entry = table.get(id)?;
            (!entry.deleted || kind.object == "customer").then(|| table.ids[id])
        };
        let page = Page::read(&call.params, self.lossy_windows, noun, find)?;
        let filters: Vec<(&str, Vec<&str>)> = params
            .iter()
            .filter(|(name, _)| kind.filters.contains(&name.as_str()))
            .map(|(name, value)| (name.as_str(), filter_texts(name, value)))
            .collect();
        let named = filters.iter().find_map(|(name, values)| {
            let field = indexed(name).filter(|_| values.len() == 1)?;
            Some(table.references.get(&(field, values[0].to_owned())))
        });
        let none = BTreeSet::new();
        let among = named.map(|positions| positions.unwrap_or(&none));
        let (positions, has_more) = page.of(&table.order, among, |entry| {
            !entry.deleted && !entry.hidden && fits(kind, &entry.value, &filters)
        });
        let mut data = Vec::with_capacity(positions.len());
        for position in positions {
            let entry = &table.order[&position];
            data.push(self.expanded(&call.realm, entry, &expansions)?);
        }
        Ok(Answer::ok(&list(&url, data, has_more)))
    }

    /// `GET /v1/events`.
    pub fn list_events(&self, call: &Call) -> Answer {
        self.try_list_events(call).unwrap_or_else(|answer| answer)
    }

    fn try_list_events(&self, call: &Call) -> Result<Answer, Answer> {
        const KNOWN: &[&str] = &[
            "limit",
            "starting_after",
            "ending_before",
            "expand",
            "created",
            "delivery_success",
            "type",
            "types",
        ];
        let params = call.params.as_object().expect("parameters");
        if let Some(name) = params.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(unknown_parameter(name));
        }
        let realm = self.realm(&call.realm);
        let oldest = self.now() - EVENTS_KEPT;
        let find = |id: &str| realm.event_ids.get(id).copied().filter(|position| position.0 >= oldest);
        let mut page = Page::read(&call.params, self.lossy_windows, "event", find)?;
        page.not_before(oldest);
        let types: Vec<&str> =
            form::texts(&call.params["types"]).into_iter().chain(call.params["type"].as_str()).collect();
        if types.len() > MOST_TYPES {
            let message = format!("You may only specify up to {MOST_TYPES} event types.");
            return Err(Answer::refusal(&message, None, Some("types")));
        }
        if params.contains_key("types") && params.contains_key("type") {
            let message = "You may only specify one of these parameters: type, types.";
            return Err(Answer::refusal(message, None, Some("types")));
        }
        let delivered = call.params["delivery_success"].as_str().map(|text| text == "true");
        let (positions, has_more) = page.of(&realm.events, None, |event: &Event| {
            let of_type = types.is_empty() || types.iter().any(|wanted| is_of_type(&event.kind, wanted));
            of_type && delivered.is_none_or(|delivered| delivered != event.pending)
        });
        let text = |position: &Position| realm.events[position].text(&self.api_version, call.realm.livemode);
        let data: Vec<String> = positions.iter().map(text).collect();
        let data = data.join(",");
        let head = r#"{"object":"list","url":"/v1/events","has_more":"#;
        let body = format!(r#"{head}{has_more},"data":[{data}]}}"#);
        Ok(Answer { status: 200, body, headers: Vec::new() })
    }
}

/// `charge.*` names all types that begin so.
fn is_of_type(kind: &str, wanted: &str) -> bool {
    wanted.strip_suffix('*').map_or(kind == wanted, |beginning| kind.starts_with(beginning))
}

fn filter_texts<'a>(name: &str, value: &'a Value) -> Vec<&'a str> {
    match (name, value) {
        ("payment", Value::Object(payment)) => {
            payment.get("payment_intent").and_then(Value::as_str).into_iter().collect()
        }
        _ => form::texts(value),
    }
}

/// Whether an object is in a list with these filters, the default ones included.
fn fits(kind: &Kind, value: &Value, filters: &[(&str, Vec<&str>)]) -> bool {
    let given = |name: &str| filters.iter().any(|(filter, _)| *filter == name);
    let of_clock = !value["test_clock"].is_null();
    match kind.object {
        "subscription" if of_clock && !given("test_clock") && !given("customer") => return false,
        "customer" | "quote" if of_clock && !given("test_clock") => return false,
        "subscription" if !given("status") && value["status"] == "canceled" => return false,
        _ => {}
    }
    filters.iter().all(|(name, values)| match (kind.object, *name, values.as_slice()) {
        ("subscription", "status", ["all"]) => true,
        ("subscription", "status", ["ended"]) => {
            value["status"] == "canceled" || value["status"] == "incomplete_expired"
        }
        ("subscription", "price", [price]) => {
            let items = value["items"]["data"].as_array();
            items.into_iter().flatten().any(|item| item["price"]["id"] == *price)
        }
        ("invoice_payment", "payment", []) => true,
        (_, name, values) => text_at(value, name).is_some_and(|text| values.contains(&text.as_str())),
    })
}
