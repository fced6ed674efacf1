//! Reads single fields of a snapshot, whatever Stripe put there.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::{Map, Number, Value};

use super::{Json, ObjectRef, ShapeError};
use crate::stripe::json;
use crate::time::Moment;

/// Length of Stripe's longest ids in bytes (<https://docs.stripe.com/upgrades>). A much longer text would not
/// fit into an index.
const LONGEST_ID: usize = 255;

/// A JSON object inside a snapshot. A field that is missing or of the wrong type counts as absent; only
/// amounts and percentages of the wrong type are errors.
#[derive(Clone, Copy)]
pub(in crate::stripe) struct ObjectFields<'a> {
    pub(super) object: &'a ObjectRef<'a>,
    /// The field of the snapshot that contains it, for error texts; empty at the top.
    place: &'static str,
    value: &'a Json<'a>,
}

impl<'a> ObjectFields<'a> {
    pub(super) fn new(object: &'a ObjectRef<'a>, snapshot: &'a Json<'a>) -> Self {
        Self { object, place: "", value: snapshot }
    }

    fn get(&self, field: &str) -> &'a Json<'a> {
        json::field(self.value, field)
    }

    pub(super) fn has(&self, field: &str) -> bool {
        !self.get(field).is_null()
    }

    /// The object in `field`; an empty one if there is none, or only an id.
    pub(super) fn at(&self, field: &'static str) -> Self {
        Self { place: field, value: self.get(field), ..*self }
    }

    /// The entries of an array, or of a Stripe list's `data`.
    pub(super) fn list(&self, field: &'static str) -> Vec<Self> {
        let value = self.get(field);
        let own = value.as_array().or_else(|| json::field(value, "data").as_array());
        let entries = own.into_iter().chain(self.more(field)).flatten();
        entries.map(|value| Self { place: field, value, ..*self }).collect()
    }

    /// The entries of the object's own list that Stripe gave separately.
    fn more(&self, field: &'static str) -> Option<&'a [Json<'a>]> {
        let more = self.object.more.filter(|_| self.place.is_empty())?;
        json::field(more, field).as_array()
    }

    /// Whether we have all entries of a Stripe list.
    pub(super) fn list_complete(&self, field: &'static str) -> bool {
        let list = self.get(field);
        list.is_array()
            || self.more(field).is_some()
            || (json::field(list, "data").is_array() && json::field(list, "has_more").as_bool() != Some(true))
    }

    pub(super) fn text(&self, field: &str) -> Option<String> {
        self.get(field).as_str().map(storable)
    }

    /// An id; where Stripe expanded it into the object, the object's id.
    pub(super) fn id(&self, field: &str) -> Option<String> {
        id_of(self.get(field))
    }

    /// The id of this entry, which is an id or an object itself.
    pub(super) fn own_id(&self) -> Option<String> {
        id_of(self.value)
    }

    pub(super) fn flag(&self, field: &str) -> Option<bool> {
        self.get(field).as_bool()
    }

    pub(super) fn integer(&self, field: &str) -> Option<i64> {
        self.get(field).as_i64()
    }

    pub(super) fn small(&self, field: &str) -> Option<i32> {
        self.integer(field)?.try_into().ok()
    }

    /// An instant: unix seconds, as Stripe sends them, or RFC 3339; only of the years 1 to 9999.
    pub(super) fn time(&self, field: &str) -> Option<DateTime<Utc>> {
        let time = match self.get(field) {
            Json::Number(seconds) => DateTime::from_timestamp(seconds.as_i64()?, 0)?,
            Json::Str(text) => DateTime::parse_from_rfc3339(text).ok()?.to_utc(),
            _ => return None,
        };
        Moment::from_instant(time).map(|at| at.0)
    }

    /// An amount in minor units.
    pub(super) fn money(&self, field: &'static str) -> Result<Option<i64>, ShapeError> {
        match self.get(field) {
            Json::Null => Ok(None),
            value => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| self.error(field, value, "a whole number within 64 bits")),
        }
    }

    /// The sum of `amount` over a list; `None` if there is no list, or an entry has no amount.
    pub(super) fn money_sum(
        &self,
        list: &'static str,
        amount: &'static str,
    ) -> Result<Option<i64>, ShapeError> {
        if !self.has(list) {
            return Ok(None);
        }
        let mut sum = 0_i64;
        for entry in self.list(list) {
            let Some(more) = entry.money(amount)? else { return Ok(None) };
            let overflow =
                || entry.error(amount, &more.into(), "small enough for the sum to stay within 64 bits");
            sum = sum.checked_add(more).ok_or_else(overflow)?;
        }
        Ok(Some(sum))
    }

    /// A price in minor units with decimal places, which Stripe sends as text. A JSON number with a fraction
    /// is refused: it may be rounded already.
    pub(super) fn money_decimal(&self, field: &'static str) -> Result<Option<Decimal>, ShapeError> {
        let value = self.get(field);
        let decimal = match value {
            Json::Null => return Ok(None),
            Json::Str(text) => Decimal::from_str_exact(text).ok(),
            value => value.as_i64().map(Decimal::from),
        };
        decimal.map(Some).ok_or_else(|| self.error(field, value, "a decimal number of at most 28 digits"))
    }

    /// A percentage, which Stripe sends as a JSON number.
    pub(super) fn percent(&self, field: &'static str) -> Result<Option<Decimal>, ShapeError> {
        let value = self.get(field);
        let decimal = match value {
            Json::Null => return Ok(None),
            Json::Str(text) => Decimal::from_str(text).ok(),
            Json::Number(number) => {
                let text = Number::from(*number).to_string();
                Decimal::from_str(&text).or_else(|_| Decimal::from_scientific(&text)).ok()
            }
            _ => None,
        };
        decimal.map(Some).ok_or_else(|| self.error(field, value, "a number"))
    }

    /// An object as Stripe sent it, such as an address.
    pub(super) fn json(&self, field: &str) -> Option<Value> {
        let value = self.get(field);
        value.is_object().then(|| storable_json(value))
    }

    /// The metadata; an empty object if there is none.
    pub(super) fn metadata(&self) -> Value {
        self.json("metadata").unwrap_or_else(|| Value::Object(Map::new()))
    }

    fn error(&self, field: &'static str, found: &Json<'_>, expected: &'static str) -> ShapeError {
        let field = if self.place.is_empty() { field.to_owned() } else { format!("{}.{field}", self.place) };
        let mut found = found.to_string();
        if let Some((end, _)) = found.char_indices().nth(40) {
            found.truncate(end);
            found.push('…');
        }
        let ObjectRef { object, id, .. } = self.object;
        ShapeError { object: (*object).to_owned(), id: (*id).to_owned(), field, expected, found }
    }
}

fn id_of(value: &Json<'_>) -> Option<String> {
    let id = value.as_str().or_else(|| json::field(value, "id").as_str())?;
    (!id.is_empty() && id.len() <= LONGEST_ID).then(|| storable(id))
}

/// Replaces NUL, which PostgreSQL stores neither in text nor in jsonb.
fn storable(text: &str) -> String {
    crate::text::replace_nul(text)
}

fn storable_json(value: &Json<'_>) -> Value {
    match value {
        Json::Str(text) => Value::String(storable(text)),
        Json::Array(entries) => entries.iter().map(storable_json).collect(),
        Json::Object(fields) => {
            fields.iter().map(|(key, value)| (storable(key), storable_json(value))).collect()
        }
        scalar => scalar.into(),
    }
}
