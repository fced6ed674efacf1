//! What a battery holds, now and at any moment before.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::accounts::{Accounts, Depth};
use super::text;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::schema::{battery_accounts, battery_entries};

/// What an org's battery holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = BatteryBalance)]
pub struct Balance {
    /// Public id of the org.
    pub org: String,
    /// The moment that this is true of.
    pub at: DateTime<Utc>,
    /// Units that it holds, a decimal, today's allowance included. Below zero it is debt.
    pub balance: String,
    /// Units set aside by open reservations. Null for a moment in the past.
    pub reserved: Option<String>,
    /// What may be used before the debt limit: `balance` less `reserved`. Null for a moment in the past.
    pub available: Option<String>,
    /// How far below zero `available` may go; null: without limit (and for a moment in the past).
    pub debt_limit: Option<String>,
    /// Today's allowance, where the plan has one. Null for a moment in the past.
    pub daily_allowance: Option<Allowance>,
}

/// The allowance of the running local day.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = DailyAllowance)]
pub struct Allowance {
    /// The org's local day.
    pub day: NaiveDate,
    /// Units.
    pub units: String,
    /// Whether it is written in the ledger. It is in the balance either way, and is written when something is
    /// used, at the latest shortly after the day began.
    pub granted: bool,
    /// When the day ends, and what is left of it lapses.
    pub lapses_at: DateTime<Utc>,
}

/// What a battery holds at this moment, as whoever decides what may be used reckons it: with today's
/// allowance, with all that has become due, and without reservations that are overdue, written or not.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub balance: Decimal,
    /// Set aside by open reservations.
    pub reserved: Decimal,
    /// What may be used.
    pub available: Decimal,
    /// How far below zero `available` may go.
    pub debt_limit: Option<Decimal>,
    /// Units that the plan grants each local day.
    pub daily: Decimal,
}

/// The last local day whose allowance is written in the ledger.
pub fn last_allowance(conn: &mut PgConnection, org_id: i64) -> Result<Option<NaiveDate>, Error> {
    let daily =
        battery_accounts::table.find(org_id).select(battery_accounts::daily).first(conn).optional()?;
    Ok(daily.flatten())
}

/// What the battery holds now. `last_allowance` is the last day whose allowance is written.
#[must_use]
pub fn now(
    org: &OrgContext,
    figures: Figures,
    last_allowance: Option<NaiveDate>,
    now: DateTime<Utc>,
) -> Balance {
    let (day, lapses_at) = org.today(now);
    let granted = last_allowance.is_some_and(|last| last >= day);
    let units = figures.daily;
    let daily_allowance =
        (units > Decimal::ZERO).then(|| Allowance { day, units: text(units), granted, lapses_at });
    Balance {
        org: org.public_id.to_string(),
        at: now,
        balance: text(figures.balance),
        reserved: Some(text(figures.reserved)),
        available: Some(text(figures.available)),
        debt_limit: figures.debt_limit.map(text),
        daily_allowance,
    }
}

/// What the battery held at a moment in the past, the moment included.
pub fn as_of(conn: &mut PgConnection, org: &OrgContext, at: DateTime<Utc>) -> Result<Balance, Error> {
    let balance = units_at(conn, org.org_id, at)?;
    Ok(Balance {
        org: org.public_id.to_string(),
        at,
        balance: text(balance),
        reserved: None,
        available: None,
        debt_limit: None,
        daily_allowance: None,
    })
}

fn units_at(conn: &mut PgConnection, org_id: i64, at: DateTime<Utc>) -> Result<Decimal, Error> {
    let accounts = Accounts::read(conn, vec![org_id], Depth::Live, at)?;
    let Some(account) = accounts.get(org_id) else { return Ok(Decimal::ZERO) };
    // Nothing was written since: what became due until then, written or not, is all that happened.
    if account.last_at.is_none_or(|last| last <= at) {
        return Ok(account.balance());
    }
    // Whoever wrote an entry wrote what was due before it first, with the times when it was due; times never
    // go back. So the entries up to a moment are all that had happened by then.
    let last: Option<Decimal> = battery_entries::table
        .filter(battery_entries::org_id.eq(org_id).and(battery_entries::at.le(at)))
        .order((battery_entries::at.desc(), battery_entries::sequence.desc()))
        .select(battery_entries::balance_after)
        .first(conn)
        .optional()?;
    Ok(last.unwrap_or(Decimal::ZERO))
}
