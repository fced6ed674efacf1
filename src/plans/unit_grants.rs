//! Battery units for local subscriptions: those of their plan, granted once for each period.

use std::collections::BTreeMap;

use chrono::{DateTime, Months, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use rust_decimal::Decimal;
use serde_json::json;

use crate::battery::terms::{AllTerms, Terms};
use crate::battery::{Accounts, Depth, GrantSource, NewGrant};
use crate::billing::local_subscriptions::{self, Name, Owed};
use crate::error::Error;

/// Subscriptions looked at in one transaction.
const BATCH: i64 = 200;

/// Grants the units of these periods, in the caller's transaction. Periods that are over, or were granted
/// before, are left out. Returns how many were granted.
pub fn grant(conn: &mut PgConnection, owed: &[Owed], now: DateTime<Utc>) -> Result<usize, Error> {
    let running: Vec<&Owed> = owed.iter().filter(|owed| owed.period_end > now).collect();
    if running.is_empty() {
        return Ok(0);
    }
    let terms = AllTerms::load(conn)?;
    let mut due: BTreeMap<i64, Vec<(Owed, Decimal)>> = BTreeMap::new();
    for owed in running {
        let Some(terms) = terms.of_version(&owed.plan_id, owed.version) else { continue };
        let units = units(terms, owed);
        if units > Decimal::ZERO {
            let portion = if is_monthly(terms, owed) { running_month(owed, now) } else { owed.clone() };
            due.entry(owed.org_id).or_default().push((portion, units));
        }
    }
    let mut accounts = Accounts::lock(conn, due.keys().copied(), Depth::All, now)?;
    let mut granted = 0;
    for (owed, units) in due.values().flatten() {
        let key = format!("local:{}:{}", owed.subscription_id, owed.period_start.to_rfc3339());
        let Some(account) = accounts.get_mut(owed.org_id) else { continue };
        if account.granted(&key).is_some() {
            continue;
        }
        let new = NewGrant {
            source: GrantSource::Subscription,
            key,
            amount: *units,
            priority: None,
            effective_at: None,
            expires_at: Some(owed.period_end),
            link: Some(json!({ "object": "local_subscription", "id": owed.subscription_id })),
            reason: None,
            actor: None,
        };
        account.grant(new, now);
        granted += 1;
    }
    accounts.drop_over_limit();
    accounts.write(conn)?;
    Ok(granted)
}

/// Whether a year is granted month by month: its plan has units for a month alone. A yearly subscription at
/// Stripe does the same.
fn is_monthly(terms: &Terms, owed: &Owed) -> bool {
    !owed.trial && owed.interval_months >= 12 && terms.annual_units.is_none()
}

/// The running month of a period, counted from the period's start.
fn running_month(owed: &Owed, now: DateTime<Utc>) -> Owed {
    let nth = |n: u32| owed.period_start.checked_add_months(Months::new(n)).unwrap_or(owed.period_end);
    let n = (0..).take_while(|n| nth(*n) < owed.period_end && nth(*n) <= now).last().unwrap_or(0);
    Owed { period_start: nth(n), period_end: nth(n + 1).min(owed.period_end), ..owed.clone() }
}

fn units(terms: &Terms, owed: &Owed) -> Decimal {
    let instead = match owed {
        owed if owed.trial => terms.trial_units,
        owed if owed.interval_months >= 12 => terms.annual_units,
        _ => None,
    };
    instead.unwrap_or(terms.units)
}

/// Grants the units of periods that began meanwhile, for some subscriptions after `after` (org, id). Returns
/// the last one, to go on after it; `None`: there are no more.
pub fn grant_begun(
    conn: &mut PgConnection,
    after: Option<Name>,
    now: DateTime<Utc>,
) -> Result<Option<Name>, Error> {
    conn.transaction(|conn| {
        let after = after.as_ref().map(|(org_id, id)| (*org_id, id.as_str()));
        let (owed, last) = local_subscriptions::owed(conn, after, BATCH, now)?;
        grant(conn, &owed, now)?;
        Ok(last)
    })
}
