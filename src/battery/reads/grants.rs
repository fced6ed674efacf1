//! Grants, as lists and look-ups show them.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::super::grants::{GrantSource, GrantState};
use super::text;
use crate::error::Error;
use crate::schema::{battery_grants, orgs};
use crate::time::Moment;

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GrantFilter {
    /// Only from these sources, separated by commas: subscription, purchase, daily_allowance, bonus,
    /// adjustment.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    pub source: Vec<GrantSource>,
    /// Only in these states, separated by commas: scheduled, open, closed.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    pub state: Vec<GrantState>,
    /// Only those that expire before.
    pub expires_before: Option<Moment>,
}

/// Units added to a battery. `amount` is `remaining`, `burned`, `taken_back` and `lapsed` together.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = BatteryGrant)]
pub struct Granted {
    /// `grt_…`
    pub id: String,
    /// Public id of the org.
    pub org: String,
    /// What it comes from.
    pub source: GrantSource,
    /// What it was granted for; nothing is granted twice for the same to one org.
    pub key: String,
    /// Whether it may be used: `scheduled` is not effective yet and in no balance, of `closed` nothing is
    /// left.
    pub state: GrantState,
    /// Lower is burned first; then what expires soonest, then the oldest.
    pub priority: i16,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it may be used.
    pub effective_at: DateTime<Utc>,
    /// When what remains lapses; null: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Units granted.
    pub amount: String,
    /// Units that may still be used.
    pub remaining: String,
    /// Units used, or gone into debt that was there before.
    pub burned: String,
    /// Units taken back: by a refund, a dispute, or a void.
    pub taken_back: String,
    /// Units expired unused.
    pub lapsed: String,
    /// What it comes from, such as `{"object": "invoice", "id": "in_…"}`.
    #[schema(value_type = Option<Object>)]
    pub link: Option<Value>,
    /// Why, where a person made it.
    pub reason: Option<String>,
}

type GrantRow = (
    (i64, i64, String, String, String, String, String, i16),
    (DateTime<Utc>, DateTime<Utc>, Option<DateTime<Utc>>),
    (Decimal, Decimal, Decimal, Decimal, Decimal),
    (Option<Value>, Option<String>),
);

/// A grant's place: its org's row id and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Row id of the org.
    pub org_id: i64,
    /// Its number in the org.
    pub number: i64,
}

macro_rules! columns {
    () => {
        (
            (
                battery_grants::org_id,
                battery_grants::grant_number,
                battery_grants::grant_id,
                orgs::public_id,
                battery_grants::source,
                battery_grants::source_key,
                battery_grants::state,
                battery_grants::priority,
            ),
            (battery_grants::created_at, battery_grants::effective_at, battery_grants::expires_at),
            (
                battery_grants::amount,
                battery_grants::remaining,
                battery_grants::burned,
                battery_grants::clawed,
                battery_grants::lapsed,
            ),
            (battery_grants::link, battery_grants::reason),
        )
    };
}

/// An org's grants, newest first, at most `limit`, those made before the one of that number.
pub fn list(
    conn: &mut PgConnection,
    org_id: i64,
    filter: &GrantFilter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(Place, Granted)>, Error> {
    let mut query = battery_grants::table
        .inner_join(orgs::table.on(orgs::org_id.eq(battery_grants::org_id)))
        .filter(battery_grants::org_id.eq(org_id))
        .select(columns!())
        .order(battery_grants::grant_number.desc())
        .limit(limit)
        .into_boxed();
    if let Some(before) = before {
        query = query.filter(battery_grants::grant_number.lt(before));
    }
    if !filter.source.is_empty() {
        let names = filter.source.iter().map(|source| source.name());
        query = query.filter(battery_grants::source.eq_any(names));
    }
    if !filter.state.is_empty() {
        let names = filter.state.iter().map(|state| state.name());
        query = query.filter(battery_grants::state.eq_any(names));
    }
    if let Some(before) = filter.expires_before {
        query = query.filter(battery_grants::expires_at.lt(before.0));
    }
    query.load::<GrantRow>(conn)?.into_iter().map(granted).collect()
}

/// A grant by its id, of one org or of any.
///
/// # Errors
/// [`Error::NotFound`].
pub fn find(conn: &mut PgConnection, id: &str, org_id: Option<i64>) -> Result<(Place, Granted), Error> {
    let mut query = battery_grants::table
        .inner_join(orgs::table.on(orgs::org_id.eq(battery_grants::org_id)))
        .filter(battery_grants::grant_id.eq(id))
        .select(columns!())
        .into_boxed();
    if let Some(org_id) = org_id {
        query = query.filter(battery_grants::org_id.eq(org_id));
    }
    granted(query.first::<GrantRow>(conn).optional()?.ok_or(Error::NotFound("grant"))?)
}

/// The grant of that number, which is there.
pub(in crate::battery) fn at(conn: &mut PgConnection, place: Place) -> Result<Granted, Error> {
    let row: GrantRow = battery_grants::table
        .inner_join(orgs::table.on(orgs::org_id.eq(battery_grants::org_id)))
        .filter(battery_grants::org_id.eq(place.org_id).and(battery_grants::grant_number.eq(place.number)))
        .select(columns!())
        .first(conn)?;
    Ok(granted(row)?.1)
}

fn granted(row: GrantRow) -> Result<(Place, Granted), Error> {
    let (
        (org_id, number, id, org, source, key, state, priority),
        (created_at, effective_at, expires_at),
        (amount, remaining, burned, clawed, lapsed),
        (link, reason),
    ) = row;
    let grant = Granted {
        id,
        org,
        source: GrantSource::parse(&source)?,
        key,
        state: GrantState::parse(&state)?,
        priority,
        created_at,
        effective_at,
        expires_at,
        amount: text(amount),
        remaining: text(remaining),
        burned: text(burned),
        taken_back: text(clawed),
        lapsed: text(lapsed),
        link,
        reason,
    };
    Ok((Place { org_id, number }, grant))
}
