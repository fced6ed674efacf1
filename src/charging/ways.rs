//! Which way the usage of each meter goes to Stripe. Owns `stripe_meters`: it allows a meter one way at a
//! time. A way that ended still sends what was used before, and so comes late.

mod set;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::set::{Unsent, check, remove, set};
use super::stripe_meter::{StripeMeter, Window};
use crate::error::Error;

/// A way for usage to Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Way {
    /// Absolute totals of each hour or day, into a Stripe meter with that `event_time_window`.
    Totals,
    /// What was added, into a Stripe meter without a window.
    Deltas,
    /// Priced lines as invoice items on the draft of the period.
    InvoiceItems,
}

impl Way {
    /// Its name in the database and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Totals => "totals",
            Self::Deltas => "deltas",
            Self::InvoiceItems => "invoice_items",
        }
    }

    /// The way with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Totals, Self::Deltas, Self::InvoiceItems].into_iter().find(|way| way.name() == name)
    }
}

/// How a meter is to go to Stripe.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWay {
    /// `totals`, `deltas` or `invoice_items`.
    pub way: Way,
    /// The meter at Stripe (`mtr_…`) that totals and deltas go into.
    #[serde(default)]
    pub stripe_meter: Option<String>,
    /// `acct_…` of a connected account; empty: our own.
    #[serde(default)]
    pub account: String,
    /// Usage that occurred before is not sent. The running minute, when left out.
    #[serde(default)]
    pub since: Option<DateTime<Utc>>,
}

/// How a meter goes to Stripe.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MeterWay {
    /// Key of the meter.
    pub meter: String,
    #[serde(skip)]
    pub meter_id: i32,
    /// `None`: it is not stored.
    #[serde(skip)]
    pub(super) way_id: Option<i32>,
    /// `totals`, `deltas` or `invoice_items`.
    pub way: Way,
    /// `acct_…` of a connected account; empty: our own.
    pub account: String,
    /// The meter at Stripe; null: invoice items.
    pub stripe_meter: Option<StripeMeter>,
    /// Usage that occurred before is not sent.
    pub since: DateTime<Utc>,
    /// Usage that occurred then or later is not sent this way; null: the way goes on.
    pub until: Option<DateTime<Utc>>,
    /// Who set it.
    pub set_by: String,
    /// When it was set.
    pub set_at: DateTime<Utc>,
    /// It was a mistake: nothing more is sent.
    #[serde(skip)]
    pub(super) is_discarded: bool,
    #[serde(skip)]
    pub(super) scanned_until: Option<DateTime<Utc>>,
}

impl MeterWay {
    /// Whether it is the same way, into the same meter at Stripe.
    fn is_like(&self, other: &Self) -> bool {
        let place = |way: &Self| (way.way, way.account.clone(), way.stripe_meter_id().to_owned());
        place(self) == place(other)
    }

    /// Id of the meter at Stripe; empty: invoice items.
    fn stripe_meter_id(&self) -> &str {
        self.stripe_meter.as_ref().map_or("", |meter| &meter.id)
    }

    /// The window of its buckets; `None`: it has none.
    fn window(&self) -> Option<Window> {
        self.stripe_meter.as_ref().map(StripeMeter::window)
    }

    /// The part of a time in which it is the way; `None`: none of it.
    pub(super) fn within(&self, (start, end): (DateTime<Utc>, DateTime<Utc>)) -> Option<Span> {
        let span = (start.max(self.since), self.until.map_or(end, |until| until.min(end)));
        (span.0 < span.1).then_some(span)
    }
}

/// Start and end of a time; the end is not included.
pub(super) type Span = (DateTime<Utc>, DateTime<Utc>);

#[derive(QueryableByName)]
struct WayRow {
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Integer)]
    way_id: i32,
    #[diesel(sql_type = Text)]
    meter: String,
    #[diesel(sql_type = Text)]
    way: String,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Nullable<Text>)]
    stripe_meter_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    event_name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    time_window: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    value_key: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    customer_key: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    since: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    until: Option<DateTime<Utc>>,
    #[diesel(sql_type = Bool)]
    discarded: bool,
    #[diesel(sql_type = Text)]
    set_by: String,
    #[diesel(sql_type = Timestamptz)]
    set_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    scanned_until: Option<DateTime<Utc>>,
}

impl WayRow {
    fn whole(self) -> Result<MeterWay, Error> {
        let way = Way::named(&self.way);
        let way = way.ok_or_else(|| Error::Internal(format!("there is no way {}", self.way)))?;
        let stripe_meter = self.stripe_meter_id.map(|id| StripeMeter {
            id,
            event_name: self.event_name.unwrap_or_default(),
            event_time_window: self.time_window.as_deref().and_then(Window::named),
            value_key: self.value_key.unwrap_or_default(),
            customer_key: self.customer_key.unwrap_or_default(),
        });
        Ok(MeterWay {
            meter: self.meter,
            meter_id: self.meter_id,
            way_id: Some(self.way_id),
            way,
            account: self.account,
            stripe_meter,
            since: self.since,
            until: self.until,
            is_discarded: self.discarded,
            set_by: self.set_by,
            set_at: self.set_at,
            scanned_until: self.scanned_until,
        })
    }
}

/// Whether any meter goes to Stripe, or went there and is not confirmed yet.
pub(super) fn any(conn: &mut PgConnection) -> QueryResult<bool> {
    let exists = "EXISTS (SELECT FROM stripe_meters)
        OR EXISTS (SELECT FROM stripe_charges WHERE state <> 'confirmed')";
    diesel::select(diesel::dsl::sql::<Bool>(exists)).get_result(conn)
}

/// The running ways, by meter.
///
/// # Errors
/// When the database fails.
pub fn list(conn: &mut PgConnection) -> Result<Vec<MeterWay>, Error> {
    let mut ways = all(conn)?;
    ways.retain(|way| way.until.is_none());
    Ok(ways)
}

/// All ways, also those that ended, by meter and time.
pub(super) fn all(conn: &mut PgConnection) -> Result<Vec<MeterWay>, Error> {
    let rows: Vec<WayRow> = diesel::sql_query(
        "SELECT w.*, m.key AS meter FROM stripe_meters w JOIN meters m USING (meter_id)
         ORDER BY m.key, w.since, w.way_id",
    )
    .load(conn)?;
    rows.into_iter().map(WayRow::whole).collect()
}

/// The meters at Stripe that usage goes into, or went into, by their id.
pub(super) fn stripe_meters(
    conn: &mut PgConnection,
    account: &str,
) -> Result<BTreeMap<String, StripeMeter>, Error> {
    let ways = all(conn)?.into_iter().filter(|way| way.account == account);
    Ok(ways.filter_map(|way| way.stripe_meter).map(|meter| (meter.id.clone(), meter)).collect())
}

/// The running way of a meter.
///
/// # Errors
/// [`Error::NotFound`] if it has none.
pub fn find(conn: &mut PgConnection, meter: &str) -> Result<MeterWay, Error> {
    let found = list(conn)?.into_iter().find(|way| way.meter == meter);
    found.ok_or(Error::NotFound("meter that goes to Stripe"))
}

/// Keys of meters that go as invoice items and whose usage has no price: nothing of it is charged. A level
/// has its prices otherwise.
///
/// # Errors
/// When the database fails.
pub fn without_prices(conn: &mut PgConnection) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Key {
        #[diesel(sql_type = Text)]
        key: String,
    }
    let keys: Vec<Key> = diesel::sql_query(
        "SELECT m.key FROM stripe_meters w JOIN meters m USING (meter_id)
         WHERE w.way = 'invoice_items' AND w.until IS NULL AND m.aggregation <> 'level'
             AND NOT EXISTS (SELECT FROM rate_cards c WHERE c.meter_id = w.meter_id)
             AND NOT EXISTS (SELECT FROM usage_records r
                 WHERE r.meter_id = w.meter_id AND r.occurred_at >= w.since AND r.cost <> 0)
         ORDER BY m.key",
    )
    .load(conn)?;
    Ok(keys.into_iter().map(|row| row.key).collect())
}

/// Notes that usage received before `until` has its charges.
pub(super) fn note_scan(conn: &mut PgConnection, way: &MeterWay, until: DateTime<Utc>) -> QueryResult<()> {
    diesel::sql_query("UPDATE stripe_meters SET scanned_until = $2 WHERE way_id = $1")
        .bind::<Nullable<Integer>, _>(way.way_id)
        .bind::<Timestamptz, _>(until)
        .execute(conn)
        .map(drop)
}
