//! The billing run: what the clock does with invoices. It makes drafts at the ends of periods, finalises them
//! when people had their time to change them, and reminds of what is due.
//!
//! Any number of daemons may run it: the lock of the account and the keys of `invoiced_periods` let a period
//! be invoiced once. Each org is a transaction of its own, so what fails for one org holds no other up.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text, Timestamptz};

use super::account::Account;
use super::drafts::{self, DraftTexts, NewDraft};
use super::invoices::{self, Waits};
use super::profiles::{self, Terms};
use super::{finalise, lines, usage_lines};
use crate::billing::directory::{Directory, OrgContext};
use crate::billing::local_subscriptions::{self, SubscriptionPeriod};
use crate::db;
use crate::error::Error;

/// Orgs or drafts that one turn handles, at most.
const BATCH: i64 = 200;
/// A draft that waits is tried again after so long.
const RETRY_AFTER: TimeDelta = TimeDelta::hours(1);

/// Makes the drafts that are due, and says whether there may be more. `after`: the org after which the last
/// turn stopped; it is moved on.
pub fn make_drafts(
    conn: &mut PgConnection,
    directory: &Directory,
    after: &mut i64,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let due = due_orgs(conn, *after, now)?;
    directory.read_ahead(conn, due.iter().copied())?;
    for org_id in &due {
        let org = directory.find(conn, *org_id)?;
        let made = db::run_with_retries(conn, |conn| make_drafts_of(conn, &org, now));
        if let Err(error) = made {
            tracing::warn!(org = %org.public_id, %error, "the next invoice of an org could not be drafted");
        }
    }
    let is_full = i64::try_from(due.len()).is_ok_and(|count| count == BATCH);
    *after = due.last().copied().filter(|_| is_full).unwrap_or(0);
    Ok(is_full)
}

/// Orgs that may have something to be invoiced: the fee of the next period, or usage of a period that ended.
fn due_orgs(conn: &mut PgConnection, after: i64, now: DateTime<Utc>) -> QueryResult<Vec<i64>> {
    #[derive(QueryableByName)]
    struct DueOrg {
        #[diesel(sql_type = BigInt)]
        org_id: i64,
    }
    let rows: Vec<DueOrg> = diesel::sql_query(
        "SELECT b.org_id
         FROM billing_profiles b JOIN sellers e USING (seller_id) JOIN orgs o USING (org_id)
         WHERE o.archived_at IS NULL AND o.erased_at IS NULL AND b.automatic AND b.org_id > $1 AND EXISTS (
             SELECT FROM local_subscriptions s
             LEFT JOIN LATERAL (SELECT max(p.period_end) AS until FROM invoiced_periods p
                 WHERE p.org_id = s.org_id AND p.subscription_id = s.subscription_id AND p.what = 'usage') u
                 ON true
             CROSS JOIN LATERAL (SELECT greatest(age(b.created_at, s.period_start), '0') AS before) a
             CROSS JOIN LATERAL (SELECT coalesce(
                 u.until + make_interval(months => s.interval_months),
                 s.period_start + make_interval(months => s.interval_months * (1
                     + (extract(year FROM a.before) * 12 + extract(month FROM a.before))::integer
                         / s.interval_months))) AS next_end) n
             WHERE s.org_id = b.org_id AND (
                 s.status IN ('trial', 'active') AND NOT s.cancel_at_period_end
                     AND s.valid_until <= $2 + make_interval(days => (e.settings ->> 'advance_days')::integer)
                     AND NOT EXISTS (SELECT FROM invoiced_periods p
                         WHERE p.org_id = s.org_id AND p.subscription_id = s.subscription_id
                             AND p.what = 'fee' AND p.period_start >= s.valid_until)
                 OR s.valid_until > coalesce(s.trial_end, s.created_at)
                     AND coalesce(s.ended_at, s.valid_until) > b.created_at
                     AND coalesce(u.until, s.period_start) < coalesce(s.ended_at, s.valid_until)
                     AND least(n.next_end, s.valid_until, s.ended_at) <= $2))
         ORDER BY b.org_id LIMIT $3",
    )
    .bind::<BigInt, _>(after)
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(BATCH)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.org_id).collect())
}

/// What an org is to be invoiced now.
struct Due {
    fee: Option<SubscriptionPeriod>,
    usage: Vec<SubscriptionPeriod>,
}

fn make_drafts_of(conn: &mut PgConnection, org: &Arc<OrgContext>, now: DateTime<Utc>) -> Result<(), Error> {
    let terms = profiles::terms(conn, org.org_id)?;
    let main = terms.profile.currency.clone();
    Account::lock(conn, org.org_id, &main, now)?;
    let due = due(conn, org, &terms, &main, now)?;
    for currency in other_currencies(conn, org.org_id, &due, &main)? {
        Account::lock(conn, org.org_id, &currency, now)?;
        let usage = Due { fee: None, usage: due.usage.clone() };
        draft(conn, org, &terms, (&currency, &usage), now)?;
    }
    draft(conn, org, &terms, (&main, &due), now)
}

fn due(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    terms: &Terms,
    currency: &str,
    now: DateTime<Utc>,
) -> Result<Due, Error> {
    let advance = TimeDelta::days(i64::from(terms.seller.body.settings.advance_days));
    let fee = local_subscriptions::next_period(conn, org.org_id, now)?
        .filter(|next| next.goes_on && next.period.start <= now + advance);
    let fee = match fee {
        Some(next) if !is_claimed(conn, org.org_id, &next.period, "fee", currency)? => Some(next.period),
        _ => None,
    };
    let mut usage = Vec::new();
    for period in local_subscriptions::charged_periods(conn, org.org_id, now)? {
        // What ended before the org was billed here was billed elsewhere.
        let is_ours = period.end > terms.since;
        if is_ours && period.end <= now && !is_claimed(conn, org.org_id, &period, "usage", currency)? {
            usage.push(period);
        }
    }
    Ok(Due { fee, usage })
}

fn is_claimed(
    conn: &mut PgConnection,
    org_id: i64,
    period: &SubscriptionPeriod,
    what: &str,
    currency: &str,
) -> QueryResult<bool> {
    drafts::is_invoiced(conn, org_id, (&period.subscription_id, what, currency), period.start)
}

fn other_currencies(conn: &mut PgConnection, org_id: i64, due: &Due, main: &str) -> QueryResult<Vec<String>> {
    let mut currencies = Vec::new();
    for period in &due.usage {
        currencies.extend(usage_lines::currencies(conn, org_id, period, main)?);
    }
    currencies.sort();
    currencies.dedup();
    Ok(currencies)
}

/// Makes a draft of what is due. When there is nothing to charge, none is kept.
fn draft(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    terms: &Terms,
    (currency, due): (&str, &Due),
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let Some(first) = due.fee.iter().chain(&due.usage).next() else { return Ok(()) };
    let hours = i64::from(terms.seller.body.settings.draft_hours);
    let new = NewDraft {
        org_id: org.org_id,
        seller: &terms.seller.id,
        currency,
        subscription: Some(&first.subscription_id),
        reason: "subscription",
        finalize_at: Some(now + TimeDelta::hours(hours)),
        texts: &DraftTexts::default(),
    };
    let id = drafts::insert(conn, &new, now)?;
    let fees = due.fee.iter().map(|period| ("fee", period));
    for (what, period) in fees.chain(due.usage.iter().map(|period| ("usage", period))) {
        let key = (period.subscription_id.as_str(), what, currency);
        drafts::claim_period(conn, org.org_id, key, (period.start, period.end), &id)?;
    }
    lines::take_items(conn, org.org_id, currency, &id)?;
    let row = invoices::lock(conn, org.org_id, &id)?;
    drafts::recompute(conn, org, &row, now)?;
    drafts::drop_if_empty(conn, org.org_id, &id)?;
    Ok(())
}

/// Finalises the drafts whose time has come, and says whether there may be more. One that waits is tried
/// again later, and says why.
pub fn finalise_due(
    conn: &mut PgConnection,
    directory: &Directory,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let due = invoices::due_drafts(conn, now, BATCH)?;
    directory.read_ahead(conn, due.iter().map(|(org_id, _)| *org_id))?;
    for (org_id, invoice) in &due {
        let org = directory.find(conn, *org_id)?;
        let done = db::run_with_retries(conn, |conn| finalise::finalise(conn, &org, invoice, now).map(drop));
        let Err(error) = done else { continue };
        tracing::warn!(org = %org.public_id, invoice, %error, "a draft could not be finalised: it waits");
        let refused = match error {
            Error::Conflict { code, .. } => Some(code),
            _ => None,
        };
        let postponed = db::run_with_retries(conn, |conn| postpone(conn, &org, invoice, refused, now));
        if let Err(error) = postponed {
            tracing::warn!(org = %org.public_id, invoice, %error, "and it could not be computed again");
            db::run_with_retries(conn, |conn| postpone(conn, &org, invoice, None, now))?;
        }
    }
    Ok(i64::try_from(due.len()).is_ok_and(|count| count == BATCH))
}

/// Tries a draft again later, and says why it waits: what computing it again names as missing, else the code
/// with which finalising refused it (`refused`), else that it failed. So no draft that the clock could not
/// finalise looks as if nothing were wrong.
fn postpone(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    invoice: &str,
    refused: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let (_, row) = invoices::lock_with_account(conn, invoice, now)?;
    if !row.is_draft() {
        return Ok(());
    }
    if refused.is_some() {
        drafts::recompute(conn, org, &row, now)?;
    }
    let until = now + RETRY_AFTER;
    match refused {
        Some(code) => invoices::postpone(conn, (org.org_id, invoice), (Waits::UnlessKnown, code), until)?,
        None => invoices::postpone(conn, (org.org_id, invoice), (Waits::Always, "failed"), until)?,
    };
    Ok(())
}

/// How many drafts wait for what, for operators.
pub fn waiting(conn: &mut PgConnection) -> QueryResult<Vec<(String, i64)>> {
    #[derive(QueryableByName)]
    struct WaitingDrafts {
        #[diesel(sql_type = Text)]
        waits: String,
        #[diesel(sql_type = BigInt)]
        drafts: i64,
    }
    let rows: Vec<WaitingDrafts> = diesel::sql_query(
        "SELECT waits, count(*) AS drafts FROM own_invoices
         WHERE finalized_at IS NULL AND waits IS NOT NULL GROUP BY 1 ORDER BY 1",
    )
    .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.waits, row.drafts)).collect())
}
