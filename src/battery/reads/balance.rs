//! The balance of a battery, now and at any moment in the past.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::units_text;
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::schema::{battery_accounts, battery_entries};

/// What an org's battery holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatteryBalance {
    /// Public id of the org.
    pub org: String,
    /// The moment of this balance.
    pub at: DateTime<Utc>,
    /// Units, a decimal; today's allowance is included. Below zero it is debt.
    pub balance: String,
    /// Units of open reservations. Null for a moment in the past.
    pub reserved: Option<String>,
    /// What may be used before the debt limit: `balance` less `reserved`. Null for a moment in the past.
    pub available: Option<String>,
    /// How far below zero `available` may go; null: without limit (and for a moment in the past).
    pub debt_limit: Option<String>,
    /// Today's allowance, where the plan has one. Null for a moment in the past.
    pub daily_allowance: Option<DailyAllowance>,
}

/// The allowance of the running local day.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DailyAllowance {
    /// The org's local day.
    pub day: NaiveDate,
    /// Units.
    pub units: String,
    /// Whether the ledger has it. The balance includes it either way. It is written when something is used,
    /// at the latest shortly after the day began.
    pub granted: bool,
    /// When the day ends, and what is left of the allowance expires.
    pub lapses_at: DateTime<Utc>,
}

/// The numbers by which usage is admitted now, whether they are written yet or not: with today's allowance,
/// with everything that has become due, and without overdue reservations.
#[derive(Clone, Copy, Debug)]
pub struct BalanceFigures {
    pub balance: Decimal,
    /// Units of open reservations.
    pub reserved: Decimal,
    pub available: Decimal,
    /// How far below zero `available` may go; `None`: no limit.
    pub debt_limit: Option<Decimal>,
    /// Units that the plan grants each local day.
    pub daily: Decimal,
}

/// The last local day whose allowance the ledger has.
pub fn last_allowance(conn: &mut PgConnection, org_id: i64) -> Result<Option<NaiveDate>, Error> {
    let daily =
        battery_accounts::table.find(org_id).select(battery_accounts::daily).first(conn).optional()?;
    Ok(daily.flatten())
}

/// The balance now. `last_allowance`: the last day whose allowance the ledger has.
#[must_use]
pub fn now(
    org: &OrgContext,
    figures: BalanceFigures,
    last_allowance: Option<NaiveDate>,
    now: DateTime<Utc>,
) -> BatteryBalance {
    let (day, lapses_at) = org.today(now);
    let granted = last_allowance.is_some_and(|last| last >= day);
    let units = figures.daily;
    let daily_allowance =
        (units > Decimal::ZERO).then(|| DailyAllowance { day, units: units_text(units), granted, lapses_at });
    BatteryBalance {
        org: org.public_id.to_string(),
        at: now,
        balance: units_text(figures.balance),
        reserved: Some(units_text(figures.reserved)),
        available: Some(units_text(figures.available)),
        debt_limit: figures.debt_limit.map(units_text),
        daily_allowance,
    }
}

/// The balance at a moment in the past, the moment included.
pub fn as_of(conn: &mut PgConnection, org: &OrgContext, at: DateTime<Utc>) -> Result<BatteryBalance, Error> {
    let balance = units_at(conn, org.org_id, at)?;
    Ok(BatteryBalance {
        org: org.public_id.to_string(),
        at,
        balance: units_text(balance),
        reserved: None,
        available: None,
        debt_limit: None,
        daily_allowance: None,
    })
}

fn units_at(conn: &mut PgConnection, org_id: i64, at: DateTime<Utc>) -> Result<Decimal, Error> {
    let accounts = Accounts::read(conn, vec![org_id], Depth::Live, at)?;
    let Some(account) = accounts.get(org_id) else { return Ok(Decimal::ZERO) };
    // No entry since: only what became due until then has happened, and `read` has posted it in memory.
    if account.last_at.is_none_or(|last| last <= at) {
        return Ok(account.balance());
    }
    // Before each entry, everything that was due is posted, with the times when it was due, and times never
    // go back. So the entries up to a moment are everything that had happened by then.
    let last: Option<Decimal> = battery_entries::table
        .filter(battery_entries::org_id.eq(org_id).and(battery_entries::at.le(at)))
        .order((battery_entries::at.desc(), battery_entries::sequence.desc()))
        .select(battery_entries::balance_after)
        .first(conn)
        .optional()?;
    Ok(last.unwrap_or(Decimal::ZERO))
}
