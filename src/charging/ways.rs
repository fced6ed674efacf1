//! Which way the usage of each meter goes to Stripe. Owns `stripe_meters`: its key allows a meter one way.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::stripe_meter::{StripeMeter, Window};
use crate::error::Error;
use crate::metering::meters::{self, Aggregation};

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
    /// `totals`, `deltas` or `invoice_items`.
    pub way: Way,
    /// `acct_…` of a connected account; empty: our own.
    pub account: String,
    /// The meter at Stripe; null: invoice items.
    pub stripe_meter: Option<StripeMeter>,
    /// Usage that occurred before is not sent.
    pub since: DateTime<Utc>,
    /// Who set it.
    pub set_by: String,
    /// When it was set.
    pub set_at: DateTime<Utc>,
    #[serde(skip)]
    pub(super) scanned_until: Option<DateTime<Utc>>,
}

#[derive(QueryableByName)]
struct WayRow {
    #[diesel(sql_type = Integer)]
    meter_id: i32,
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
            way,
            account: self.account,
            stripe_meter,
            since: self.since,
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

/// All meters that go to Stripe, by key.
///
/// # Errors
/// When the database fails.
pub fn list(conn: &mut PgConnection) -> Result<Vec<MeterWay>, Error> {
    let rows: Vec<WayRow> = diesel::sql_query(
        "SELECT w.*, m.key AS meter FROM stripe_meters w JOIN meters m USING (meter_id) ORDER BY m.key",
    )
    .load(conn)?;
    rows.into_iter().map(WayRow::whole).collect()
}

/// The way of a meter.
///
/// # Errors
/// [`Error::NotFound`] if it has none.
pub fn find(conn: &mut PgConnection, meter: &str) -> Result<MeterWay, Error> {
    let found = list(conn)?.into_iter().find(|way| way.meter == meter);
    found.ok_or(Error::NotFound("meter that goes to Stripe"))
}

/// What a new way would be, after all checks. It is not stored.
///
/// # Errors
/// [`Error::NotFound`] for a meter that does not exist; [`Error::Invalid`] when the way does not fit the
/// meter or Stripe's meter; [`Error::Conflict`] when the meter goes another way already, or usage since
/// then went another way.
pub fn check(
    conn: &mut PgConnection,
    meter: &str,
    new: &NewWay,
    at_stripe: Option<StripeMeter>,
    by: &str,
    now: DateTime<Utc>,
) -> Result<MeterWay, Error> {
    let found = meters::find(conn, meter)?;
    let at_stripe = fitting(new, found.aggregation, at_stripe)?;
    if new.since.is_some_and(|since| since > now) {
        return Err(Error::invalid("since", "must not be in the future"));
    }
    let present = list(conn)?;
    if let Some(other) = present.iter().find(|way| way.meter_id == found.meter_id) {
        let is_same = other.way == new.way
            && other.account == new.account
            && other.stripe_meter.as_ref().map(|meter| &meter.id)
                == at_stripe.as_ref().map(|meter| &meter.id);
        if !is_same {
            let detail = format!(
                "the meter goes to Stripe as {} already, and two ways would charge twice: remove that first",
                other.way.name()
            );
            return Err(Error::conflict("meter_has_a_way", detail));
        }
        if new.since.is_some_and(|since| since != other.since) {
            let detail = format!("the meter goes this way since {}: remove the way first", other.since);
            return Err(Error::conflict("meter_has_a_way", detail));
        }
    }
    let taken = |way: &&MeterWay| way.meter_id != found.meter_id && way.account == new.account;
    if let Some(id) = at_stripe.as_ref().map(|meter| &meter.id)
        && let Some(other) = present
            .iter()
            .filter(taken)
            .find(|way| way.stripe_meter.as_ref().is_some_and(|meter| meter.id == *id))
    {
        let detail =
            format!("the meter {} goes into {id} already: make another meter at Stripe", other.meter);
        return Err(Error::conflict("stripe_meter_taken", detail));
    }
    let otherwise = charged_otherwise(conn, found.meter_id, new, at_stripe.as_ref())?;
    // What goes another way goes so to the end of its bucket.
    // Stripe sums whole minutes only, so that of a time that begins within one could not be compared.
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap_or(now);
    let since = new.since.unwrap_or_else(|| otherwise.map_or(minute, |until| until.max(minute)));
    if let Some(until) = otherwise.filter(|until| since < *until) {
        let detail = format!("usage until {until} went to Stripe another way: `since` must not be before");
        return Err(Error::conflict("charged_another_way", detail));
    }
    let since = begun(conn, found.meter_id, new, at_stripe.as_ref(), since)?.unwrap_or(since);
    Ok(MeterWay {
        meter: meter.to_owned(),
        meter_id: found.meter_id,
        way: new.way,
        account: new.account.clone(),
        stripe_meter: at_stripe,
        since,
        set_by: by.to_owned(),
        set_at: now,
        scanned_until: None,
    })
}

/// Checks that a way fits the meter and Stripe's meter.
fn fitting(
    new: &NewWay,
    aggregation: Aggregation,
    at_stripe: Option<StripeMeter>,
) -> Result<Option<StripeMeter>, Error> {
    if new.way == Way::InvoiceItems {
        if new.stripe_meter.is_some() {
            return Err(Error::invalid("stripe_meter", "must be left out: invoice items need no meter"));
        }
        if !aggregation.is_additive() && aggregation != Aggregation::Level {
            return Err(Error::invalid("way", "needs a meter that has prices: sum, count or level"));
        }
        return Ok(None);
    }
    if !aggregation.is_additive() {
        let rule = "needs a meter whose parts add up: sum or count. Charge others by `invoice_items`";
        return Err(Error::invalid("way", rule));
    }
    let missing = || Error::invalid("stripe_meter", "must be the id of a meter at Stripe (`mtr_…`)");
    let at_stripe = at_stripe.ok_or_else(missing)?;
    match (new.way, at_stripe.event_time_window) {
        (Way::Totals, None) => {
            let rule = "has no `event_time_window`, so totals would add up: make a meter with the window \
                hour or day at Stripe, or choose `deltas`";
            Err(Error::invalid("stripe_meter", rule))
        }
        (Way::Deltas, Some(_)) => {
            let rule = "has an `event_time_window`, so deltas would overwrite each other: choose `totals`";
            Err(Error::invalid("stripe_meter", rule))
        }
        _ => Ok(Some(at_stripe)),
    }
}

/// A time among charges; `None`: there is no such charge.
#[derive(QueryableByName)]
struct FoundTime {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    at: Option<DateTime<Utc>>,
}

/// Until when charges of the meter went another way, or into another meter at Stripe.
fn charged_otherwise(
    conn: &mut PgConnection,
    meter_id: i32,
    new: &NewWay,
    at_stripe: Option<&StripeMeter>,
) -> QueryResult<Option<DateTime<Utc>>> {
    let row: FoundTime = diesel::sql_query(
        "SELECT max(c.period_end) AS at FROM stripe_charges c
         WHERE c.meter_id = $1 AND (c.way, c.account, c.stripe_meter_id) <> ($2, $3, $4)
             AND (c.delivered <> 0 OR c.tried_at IS NOT NULL OR c.way = 'invoice_items')",
    )
    .bind::<Integer, _>(meter_id)
    .bind::<Text, _>(new.way.name())
    .bind::<Text, _>(&new.account)
    .bind::<Text, _>(at_stripe.map_or("", |meter| meter.id.as_str()))
    .get_result(conn)?;
    Ok(row.at)
}

/// The start of the first bucket that went this way before, and is cut by `since`: it goes on. A second
/// bucket in its window would overwrite its total at Stripe.
fn begun(
    conn: &mut PgConnection,
    meter_id: i32,
    new: &NewWay,
    at_stripe: Option<&StripeMeter>,
    since: DateTime<Utc>,
) -> QueryResult<Option<DateTime<Utc>>> {
    let row: FoundTime = diesel::sql_query(
        "SELECT min(c.period_start) AS at FROM stripe_charges c
         WHERE c.meter_id = $1 AND (c.way, c.account, c.stripe_meter_id) = ($2, $3, $4)
             AND c.way <> 'invoice_items' AND c.period_start < $5 AND c.period_end > $5
             AND (c.sent_at IS NOT NULL OR c.tried_at IS NOT NULL)",
    )
    .bind::<Integer, _>(meter_id)
    .bind::<Text, _>(new.way.name())
    .bind::<Text, _>(&new.account)
    .bind::<Text, _>(at_stripe.map_or("", |meter| meter.id.as_str()))
    .bind::<Timestamptz, _>(since)
    .get_result(conn)?;
    Ok(row.at)
}

/// Stores a checked way. Setting the same way again leaves it as it is.
///
/// # Errors
/// When the database fails.
pub fn set(conn: &mut PgConnection, way: &MeterWay) -> Result<MeterWay, Error> {
    let at_stripe = way.stripe_meter.as_ref();
    diesel::sql_query(
        "INSERT INTO stripe_meters (meter_id, way, account, stripe_meter_id, event_name, time_window,
             value_key, customer_key, since, set_by, set_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (meter_id) DO NOTHING",
    )
    .bind::<Integer, _>(way.meter_id)
    .bind::<Text, _>(way.way.name())
    .bind::<Text, _>(&way.account)
    .bind::<Nullable<Text>, _>(at_stripe.map(|meter| &meter.id))
    .bind::<Nullable<Text>, _>(at_stripe.map(|meter| &meter.event_name))
    .bind::<Nullable<Text>, _>(at_stripe.and_then(|meter| meter.event_time_window).map(Window::name))
    .bind::<Nullable<Text>, _>(at_stripe.map(|meter| &meter.value_key))
    .bind::<Nullable<Text>, _>(at_stripe.map(|meter| &meter.customer_key))
    .bind::<Timestamptz, _>(way.since)
    .bind::<Text, _>(&way.set_by)
    .bind::<Timestamptz, _>(way.set_at)
    .execute(conn)?;
    find(conn, &way.meter)
}

/// Ends the way of a meter. What was sent stays with Stripe.
///
/// # Errors
/// [`Error::NotFound`] if the meter has no way; [`Error::Conflict`] while charges of it are on their way.
pub fn remove(conn: &mut PgConnection, meter: &str) -> Result<MeterWay, Error> {
    let way = find(conn, meter)?;
    let planned: bool = diesel::select(
        diesel::dsl::sql::<Bool>(
            "EXISTS (SELECT FROM stripe_charges WHERE state = 'planned' AND meter_id = ",
        )
        .bind::<Integer, _>(way.meter_id)
        .sql(")"),
    )
    .get_result(conn)?;
    if planned {
        let detail = "charges of this meter are on their way: try again when they are sent";
        return Err(Error::conflict("charges_planned", detail));
    }
    diesel::sql_query("DELETE FROM stripe_meters WHERE meter_id = $1")
        .bind::<Integer, _>(way.meter_id)
        .execute(conn)?;
    // Buckets wait for the meter to go the same way again. Lines wait for what they waited for.
    diesel::sql_query(
        "UPDATE stripe_charges SET reason = 'way_removed'
         WHERE state = 'waiting' AND meter_id = $1 AND way <> 'invoice_items'",
    )
    .bind::<Integer, _>(way.meter_id)
    .execute(conn)?;
    Ok(way)
}

/// Notes that usage received before `until` has its charges.
pub(super) fn note_scan(conn: &mut PgConnection, meter_id: i32, until: DateTime<Utc>) -> QueryResult<()> {
    diesel::sql_query("UPDATE stripe_meters SET scanned_until = $2 WHERE meter_id = $1")
        .bind::<Integer, _>(meter_id)
        .bind::<Timestamptz, _>(until)
        .execute(conn)
        .map(drop)
}
