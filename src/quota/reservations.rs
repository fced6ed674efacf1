//! Reservations: amounts set aside until a deadline. Owns `quota_reservations`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Jsonb, Nullable, Numeric, Text, Timestamptz, Untyped};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::limit_status::{BatteryStatus, LimitStatus};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::counters::CounterKey;
use crate::metering::periods::Period;
use crate::quantity::Quantity;

/// What has become of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReservationState {
    /// Its amount is set aside.
    Open,
    /// Usage took its place.
    Settled,
    /// Given back.
    Released,
    /// Its deadline passed.
    Expired,
}

impl ReservationState {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Settled => "settled",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }

    fn parse(name: &str) -> Result<Self, Error> {
        let all = [Self::Open, Self::Settled, Self::Released, Self::Expired];
        let found = all.into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| Error::Internal(format!("a reservation has the state {name}")))
    }
}

/// A row of `quota_reservations`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ReservationRow {
    pub org_id: i64,
    pub id: String,
    pub meter_id: i32,
    pub meter: String,
    pub amount: Decimal,
    pub dimensions: Vec<(String, String)>,
    pub subject: Option<String>,
    pub member: Option<String>,
    /// The counters at which the amount is set aside, in their order.
    pub counters: Vec<CounterKey>,
    pub state: ReservationState,
    pub made_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub settled: Option<Decimal>,
    /// Set aside of the battery.
    pub battery_units: Decimal,
    /// `None`: it is not settled.
    pub beyond: Option<Overrun>,
}

/// What a settlement used beyond the limits and the battery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overrun {
    /// Of its quantity, beyond the limit that it went beyond the most.
    pub overage: Decimal,
    /// Of its battery units, those that the battery did not have.
    pub debt: Decimal,
}

/// Names a reservation: row id of its org, and its id there.
pub(super) type ReservationName = (i64, String);
/// Stands for every org in what [`named`] looks for.
pub(super) const ANY_ORG: i64 = 0;

impl ReservationRow {
    pub(super) fn name(&self) -> ReservationName {
        (self.org_id, self.id.clone())
    }

    /// Open, but past its deadline.
    pub(super) fn is_overdue(&self, now: DateTime<Utc>) -> bool {
        self.state == ReservationState::Open && self.expires_at <= now
    }

    /// The reservation as callers see it.
    pub(super) fn shown(
        &self,
        org: &str,
        quotas: Vec<LimitStatus>,
        battery: Option<BatteryStatus>,
    ) -> Reservation {
        Reservation {
            id: self.id.clone(),
            org: org.to_owned(),
            meter: self.meter.clone(),
            amount: Quantity(self.amount),
            dimensions: self.dimensions.iter().cloned().collect(),
            subject: self.subject.clone(),
            member: self.member.clone(),
            state: self.state,
            made_at: self.made_at,
            expires_at: self.expires_at,
            ended_at: self.ended_at,
            settled_amount: self.settled.map(Quantity),
            battery_units: Quantity(self.battery_units),
            overage: self.beyond.map(|beyond| Quantity(beyond.overage)),
            debt: self.beyond.map(|beyond| Quantity(beyond.debt)),
            quotas,
            battery,
        }
    }
}

/// A reservation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Reservation {
    /// `res_…`, or the id that the caller chose.
    pub id: String,
    /// Public id of its org.
    pub org: String,
    /// Key of the meter.
    pub meter: String,
    /// What was set aside.
    pub amount: Quantity,
    /// Dimensions of the usage that is to come.
    pub dimensions: BTreeMap<String, String>,
    /// Whom quotas per subject count it to.
    pub subject: Option<String>,
    /// Who in the org it is for.
    pub member: Option<String>,
    /// What has become of it.
    pub state: ReservationState,
    /// When it was made; it belongs to the periods of that instant.
    pub made_at: DateTime<Utc>,
    /// When it expires by itself.
    pub expires_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The usage that took its place.
    pub settled_amount: Option<Quantity>,
    /// What was set aside of the battery.
    pub battery_units: Quantity,
    /// Of what was settled, how much went over a limit (the one that it exceeds the most); null: it is not
    /// settled.
    pub overage: Option<Quantity>,
    /// Of the battery units that were settled, how many the battery did not hold: they are owed; null: it is
    /// not settled.
    pub debt: Option<Quantity>,
    /// How the org stands under each limit now; only when it is made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<LimitStatus>,
    /// How its battery stands now; only when it is made, and where the usage burns any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery: Option<BatteryStatus>,
}

type ReservationTypes = (
    (BigInt, Text, Integer, Text),
    (Numeric, Jsonb, Nullable<Text>, Nullable<Text>, Jsonb),
    (Text, Timestamptz, Timestamptz, Nullable<Timestamptz>, Nullable<Numeric>, Numeric),
    (Nullable<Numeric>, Nullable<Numeric>),
);
type ReservationColumns = (
    (i64, String, i32, String),
    (Decimal, Value, Option<String>, Option<String>, Value),
    (String, DateTime<Utc>, DateTime<Utc>, Option<DateTime<Utc>>, Option<Decimal>, Decimal),
    (Option<Decimal>, Option<Decimal>),
);

/// The columns of a row, of the table named `r`.
macro_rules! columns {
    () => {
        "SELECT r.org_id, r.reservation_id,
             r.meter_id, (SELECT m.key FROM meters m WHERE m.meter_id = r.meter_id),
         r.amount, r.dimensions, r.subject, r.member, r.held, r.state, r.made_at, r.expires_at, r.ended_at,
             r.settled_quantity,
         r.battery_units, r.overage, r.debt "
    };
}

struct Named;
impl crate::db::prepared::StatementText for Named {
    const SQL: &'static str = concat!(
        columns!(),
        "FROM unnest(?, ?) AS k (o, i)
         JOIN quota_reservations r ON r.reservation_id = k.i AND (k.o = 0 OR r.org_id = k.o)"
    );
    type Row = ReservationTypes;
}

/// Open reservations past their deadline, the longest overdue first; one transaction ends 1000 at most.
macro_rules! overdue {
    ($of_whom:literal) => {
        concat!(
            columns!(),
            "FROM quota_reservations r
             WHERE r.state = 'open'",
            $of_whom,
            " AND r.expires_at <= ?
             ORDER BY r.expires_at
             LIMIT 1000"
        )
    };
}

struct Overdue;
impl crate::db::prepared::StatementText for Overdue {
    const SQL: &'static str = overdue!(" AND r.org_id = ANY (?)");
    type Row = ReservationTypes;
}

struct OverdueAnywhere;
impl crate::db::prepared::StatementText for OverdueAnywhere {
    const SQL: &'static str = overdue!("");
    type Row = ReservationTypes;
}

struct Lock;
impl crate::db::prepared::StatementText for Lock {
    const SQL: &'static str = concat!(
        columns!(),
        "FROM quota_reservations r
         JOIN unnest(?, ?) AS k (o, i) ON (r.org_id, r.reservation_id) = (k.o, k.i)
         ORDER BY r.org_id, r.reservation_id
         FOR UPDATE OF r"
    );
    type Row = ReservationTypes;
}

statement!(Insert -> Untyped:
    "INSERT INTO quota_reservations (org_id, reservation_id, meter_id, amount, dimensions, subject, member,
         held, state, made_at, expires_at, battery_units)
     SELECT o, i, m, a, d, s, u, h, 'open', f, e, b
     FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS t (o, i, m, a, d, s, u, h, f, e, b)
     ON CONFLICT DO NOTHING");
statement!(Update -> Untyped:
    "UPDATE quota_reservations r
     SET state = t.s, ended_at = t.e, settled_quantity = t.q, overage = t.v, debt = t.d
     FROM unnest(?, ?, ?, ?, ?, ?, ?) AS t (o, i, s, e, q, v, d)
     WHERE (r.org_id, r.reservation_id) = (t.o, t.i)");

/// An element of the column `held`, a counter at which the amount is set aside: slot, subject, the period's
/// first day, and when a subscription's period began. Rows of older versions have no such instant.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredCounter {
    Began(i32, String, NaiveDate, Option<DateTime<Utc>>),
    Dated(i32, String, NaiveDate),
}

impl StoredCounter {
    fn key(self, org_id: i64) -> CounterKey {
        let (slot_id, subject, label, began) = match self {
            Self::Began(slot_id, subject, label, began) => (slot_id, subject, label, began),
            Self::Dated(slot_id, subject, label) => (slot_id, subject, label, None),
        };
        CounterKey { org_id, slot_id, subject, period: Period { label, began } }
    }
}

fn row((names, what, state, beyond): ReservationColumns) -> Result<ReservationRow, Error> {
    let (org_id, id, meter_id, meter) = names;
    let (amount, dimensions, subject, member, held) = what;
    let (state, made_at, expires_at, ended_at, settled, battery_units) = state;
    let broken = |error: serde_json::Error| Error::Internal(format!("reservation {id}: {error}"));
    let dimensions: BTreeMap<String, String> = serde_json::from_value(dimensions).map_err(broken)?;
    let counters: Vec<StoredCounter> = serde_json::from_value(held).map_err(broken)?;
    let counters = counters.into_iter().map(|counter| counter.key(org_id)).collect();
    let (dimensions, state) = (dimensions.into_iter().collect(), ReservationState::parse(&state)?);
    Ok(ReservationRow {
        org_id,
        id,
        meter_id,
        meter,
        amount,
        dimensions,
        subject,
        member,
        counters,
        state,
        made_at,
        expires_at,
        ended_at,
        settled,
        battery_units,
        beyond: beyond.0.zip(beyond.1).map(|(overage, debt)| Overrun { overage, debt }),
    })
}

/// Reservations by org (or [`ANY_ORG`]) and id, not locked.
pub(super) fn named(
    conn: &mut PgConnection,
    names: &BTreeSet<ReservationName>,
) -> Result<Vec<ReservationRow>, Error> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<ReservationColumns> = Prepared::<Named>::new()
        .bind::<BigInt, _>(names.iter().map(|(org_id, _)| *org_id).collect::<Vec<_>>())
        .bind::<Text, _>(names.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>())
        .load(conn)?;
    rows.into_iter().map(row).collect()
}

/// Open reservations of these orgs that are past their deadline, not locked; the longest overdue first, a
/// bounded number.
pub(super) fn overdue(
    conn: &mut PgConnection,
    org_ids: &BTreeSet<i64>,
    now: DateTime<Utc>,
) -> Result<Vec<ReservationRow>, Error> {
    let rows: Vec<ReservationColumns> = Prepared::<Overdue>::new()
        .bind::<BigInt, _>(org_ids.iter().copied().collect::<Vec<_>>())
        .bind_one::<Timestamptz, _>(now)
        .load(conn)?;
    rows.into_iter().map(row).collect()
}

/// As [`overdue`], of every org.
pub(super) fn overdue_anywhere(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<Vec<ReservationRow>, Error> {
    let rows: Vec<ReservationColumns> =
        Prepared::<OverdueAnywhere>::new().bind_one::<Timestamptz, _>(now).load(conn)?;
    rows.into_iter().map(row).collect()
}

/// Locks reservations in the order of their names and reads them as they are now. The caller has locked their
/// counters.
pub(super) fn lock(
    conn: &mut PgConnection,
    names: &BTreeSet<ReservationName>,
) -> Result<BTreeMap<ReservationName, ReservationRow>, Error> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<ReservationColumns> = Prepared::<Lock>::new()
        .bind::<BigInt, _>(names.iter().map(|(org_id, _)| *org_id).collect::<Vec<_>>())
        .bind::<Text, _>(names.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>())
        .load(conn)?;
    rows.into_iter().map(|columns| row(columns).map(|row| (row.name(), row))).collect()
}

/// Stores new reservations; false when another transaction has made one of them meanwhile.
pub(super) fn insert(conn: &mut PgConnection, rows: &[&ReservationRow]) -> Result<bool, Error> {
    if rows.is_empty() {
        return Ok(true);
    }
    let held = |row: &ReservationRow| {
        let stored = |key: &CounterKey| json!([key.slot_id, key.subject, key.period.label, key.period.began]);
        Value::Array(row.counters.iter().map(stored).collect())
    };
    let dimensions = |row: &ReservationRow| {
        Value::Object(row.dimensions.iter().map(|(name, value)| (name.clone(), json!(value))).collect())
    };
    let inserted = Prepared::<Insert>::new()
        .bind::<BigInt, _>(rows.iter().map(|row| row.org_id).collect::<Vec<_>>())
        .bind::<Text, _>(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>())
        .bind::<Integer, _>(rows.iter().map(|row| row.meter_id).collect::<Vec<_>>())
        .bind::<Numeric, _>(rows.iter().map(|row| row.amount).collect::<Vec<_>>())
        .bind::<Jsonb, _>(rows.iter().map(|row| dimensions(row)).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(rows.iter().map(|row| row.subject.as_deref()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(rows.iter().map(|row| row.member.as_deref()).collect::<Vec<_>>())
        .bind::<Jsonb, _>(rows.iter().map(|row| held(row)).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(rows.iter().map(|row| row.made_at).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(rows.iter().map(|row| row.expires_at).collect::<Vec<_>>())
        .bind::<Numeric, _>(rows.iter().map(|row| row.battery_units).collect::<Vec<_>>())
        .execute(conn)?;
    Ok(inserted == rows.len())
}

/// Stores how reservations ended.
pub(super) fn update(conn: &mut PgConnection, rows: &[&ReservationRow]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    Prepared::<Update>::new()
        .bind::<BigInt, _>(rows.iter().map(|row| row.org_id).collect::<Vec<_>>())
        .bind::<Text, _>(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>())
        .bind::<Text, _>(rows.iter().map(|row| row.state.name()).collect::<Vec<_>>())
        .bind::<Nullable<Timestamptz>, _>(rows.iter().map(|row| row.ended_at).collect::<Vec<_>>())
        .bind::<Nullable<Numeric>, _>(rows.iter().map(|row| row.settled).collect::<Vec<_>>())
        .bind::<Nullable<Numeric>, _>(rows.iter().map(|row| Some(row.beyond?.overage)).collect::<Vec<_>>())
        .bind::<Nullable<Numeric>, _>(rows.iter().map(|row| Some(row.beyond?.debt)).collect::<Vec<_>>())
        .execute(conn)?;
    Ok(())
}

/// Deletes reservations that ended and were made before `oldest`, a bounded batch at a time.
pub fn forget_old(conn: &mut PgConnection, oldest: DateTime<Utc>) -> Result<usize, Error> {
    let deleted = diesel::sql_query(
        "DELETE FROM quota_reservations
         WHERE ctid = ANY (ARRAY (
             SELECT ctid
             FROM quota_reservations
             WHERE made_at < $1 AND state <> 'open'
             LIMIT 5000
             FOR UPDATE SKIP LOCKED))",
    )
    .bind::<Timestamptz, _>(oldest)
    .execute(conn)?;
    Ok(deleted)
}
