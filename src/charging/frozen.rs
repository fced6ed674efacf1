//! What was frozen of invoices and ended subscriptions, and the lines of it. Owns `stripe_freezes`.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Numeric, Text, Timestamptz};

use super::ways::{self, MeterWay, Span, Way};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::ids;
use crate::invoicing::amounts::minor_units;
use crate::invoicing::period_usage::{ChargedBefore, PeriodUsage, UnchargedPrice};
use crate::money::decimal_places;
use crate::realm::Realm;
use crate::stripe::sync::drift::{self, DriftKind, NewDrift};

type At = DateTime<Utc>;

/// What lines through Stripe charged before: a failed one, too, because it is tried again as it is.
const CHARGED: &str = "SELECT c.meter_id, c.rate_card_id, c.rate_place, sum(c.quantity) AS quantity,
        sum(c.cost) AS cost
    FROM stripe_charges c
    WHERE c.org_id = $1 AND c.way = 'invoice_items' AND c.period_start = $2 AND c.currency = $4
        AND c.charge_id <> $5
    GROUP BY 1, 2, 3";

/// What is frozen: an invoice of a cycle, or the last usage of an ended subscription.
#[derive(Clone, Debug)]
pub(super) struct Freezing {
    /// `invoice` or `subscription`.
    pub(super) object: &'static str,
    pub(super) object_id: String,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frozen<'a> {
    /// `frozen`, `late` or `skipped`.
    pub(super) state: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) org_id: Option<i64>,
    /// Of an ended subscription: the invoice of its own.
    pub(super) invoice: Option<&'a str>,
}

/// Notes that a freeze ended.
pub(super) fn note(
    conn: &mut PgConnection,
    realm: &Realm,
    of: &Freezing,
    frozen: Frozen<'_>,
    now: At,
) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO stripe_freezes (account, livemode, object, object_id, org_id, invoice_id, state, reason,
             frozen_at, next_attempt_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
         ON CONFLICT (account, livemode, object, object_id) DO UPDATE SET org_id = excluded.org_id,
             invoice_id = excluded.invoice_id, state = excluded.state, reason = excluded.reason,
             frozen_at = excluded.frozen_at",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(of.object)
    .bind::<Text, _>(&of.object_id)
    .bind::<Nullable<BigInt>, _>(frozen.org_id)
    .bind::<Nullable<Text>, _>(frozen.invoice)
    .bind::<Text, _>(frozen.state)
    .bind::<Nullable<Text>, _>(frozen.reason)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .map(drop)
}

/// Has a freeze tried again later.
pub(super) fn postpone(
    conn: &mut PgConnection,
    realm: &Realm,
    of: &Freezing,
    reason: &str,
    now: At,
) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO stripe_freezes AS f (account, livemode, object, object_id, state, reason, attempts,
             next_attempt_at)
         VALUES ($1, $2, $3, $4, 'waiting', $5, 1, $6 + interval '5 s')
         ON CONFLICT (account, livemode, object, object_id) DO UPDATE SET reason = excluded.reason,
             attempts = least(f.attempts, 99) + 1,
             next_attempt_at = $6 + least(f.attempts, 12) * interval '10 s'
         WHERE f.state = 'waiting'",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(of.object)
    .bind::<Text, _>(&of.object_id)
    .bind::<Text, _>(reason)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .map(drop)
}

/// A line that is to be charged.
pub(super) struct NewLine {
    pub(super) usage: UnchargedPrice,
    pub(super) start: At,
    pub(super) end: At,
    pub(super) amount: i64,
}

/// The meters of an account that go as invoice items, or went so.
pub(super) fn meters(conn: &mut PgConnection, account: &str) -> Result<Vec<MeterWay>, Error> {
    let ways = ways::all(conn)?.into_iter();
    let is_one = |way: &MeterWay| way.way == Way::InvoiceItems && way.account == account && !way.is_discarded;
    Ok(ways.filter(is_one).collect())
}

/// The lines of what was used in these periods and not charged yet, of the meters that go this way.
pub(super) fn new_lines(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    meters: &[MeterWay],
    periods: &[(At, At)],
    currency: &str,
) -> Result<Vec<NewLine>, Error> {
    let mut lines = Vec::new();
    for period in periods {
        // A meter that went this way in a part of the period is charged for that part.
        let spans: BTreeSet<Span> = meters.iter().filter_map(|way| way.within(*period)).collect();
        for (start, end) in spans {
            let usage = PeriodUsage { org, start, end, currency };
            let found = usage.uncharged(conn, ChargedBefore { sql: CHARGED, except: "" })?;
            let is_mine = |usage: &UnchargedPrice| {
                let mut own = meters.iter().filter(|way| way.meter_id == usage.meter_id);
                own.any(|way| way.within(*period) == Some((start, end)))
            };
            for usage in found.into_iter().filter(is_mine) {
                let amount = minor_units(usage.cost, decimal_places(currency))?;
                lines.push(NewLine { usage, start, end, amount });
            }
        }
    }
    Ok(lines)
}

/// For whom lines are written.
pub(super) struct LineTarget<'a> {
    pub(super) org_id: i64,
    pub(super) customer: &'a str,
    pub(super) currency: &'a str,
    /// `None`: the customer's next invoice.
    pub(super) invoice: Option<&'a str>,
    /// `None`: it is sent. Else why it waits.
    pub(super) waits: Option<&'static str>,
}

/// Writes lines, in the transaction of their freeze. Each is the next part of its price and period.
pub(super) fn write_lines(
    conn: &mut PgConnection,
    realm: &Realm,
    target: &LineTarget<'_>,
    lines: &[NewLine],
    now: At,
) -> Result<(), Error> {
    for line in lines {
        // Less than half a minor unit: there is nothing to charge yet, and the next line has it.
        if line.amount == 0 {
            continue;
        }
        diesel::sql_query(
            "INSERT INTO stripe_charges (org_id, charge_id, meter_id, way, account, livemode, customer_id,
                 period_start, period_end, rate_card_id, rate_place, currency, part, quantity, cost, amount,
                 invoice_id, sequence, state, reason, planned_at, next_attempt_at)
             VALUES ($1, $2, $3, 'invoice_items', $4, $5, $6, $7, $8, $9, $10, $11,
                 1 + (SELECT coalesce(max(c.part), 0) FROM stripe_charges c
                      WHERE c.org_id = $1 AND c.meter_id = $3 AND c.way = 'invoice_items'
                          AND (c.account, c.livemode) = ($4, $5) AND c.stripe_meter_id = ''
                          AND c.period_start = $7 AND (c.rate_card_id, c.rate_place) = ($9, $10)
                          AND c.currency = $11),
                 $12, $13, $14, $15, 1, $16, $17, $18, $18)",
        )
        .bind::<BigInt, _>(target.org_id)
        .bind::<Text, _>(ids::fresh("chg"))
        .bind::<Integer, _>(line.usage.meter_id)
        .bind::<Text, _>(&realm.account)
        .bind::<Bool, _>(realm.livemode)
        .bind::<Text, _>(target.customer)
        .bind::<Timestamptz, _>(line.start)
        .bind::<Timestamptz, _>(line.end)
        .bind::<Integer, _>(line.usage.rate_card_id)
        .bind::<Integer, _>(line.usage.rate_place)
        .bind::<Text, _>(target.currency)
        .bind::<Numeric, _>(line.usage.quantity)
        .bind::<Numeric, _>(line.usage.cost.normalize())
        .bind::<BigInt, _>(line.amount)
        .bind::<Nullable<Text>, _>(target.invoice)
        .bind::<Text, _>(if target.waits.is_some() { "waiting" } else { "planned" })
        .bind::<Nullable<Text>, _>(target.waits)
        .bind::<Timestamptz, _>(now)
        .execute(conn)?;
    }
    Ok(())
}

/// Lines that Stripe took are confirmed when the mirrored invoice is final and shows the same amount. Another
/// amount is a difference for people.
pub(super) fn confirm(conn: &mut PgConnection, realm: &Realm, now: At) -> Result<(), Error> {
    #[derive(QueryableByName)]
    struct Differing {
        #[diesel(sql_type = Text)]
        charge_id: String,
        #[diesel(sql_type = Text)]
        invoice_id: String,
        #[diesel(sql_type = BigInt)]
        ours: i64,
        #[diesel(sql_type = Nullable<BigInt>)]
        theirs: Option<i64>,
    }
    diesel::sql_query(
        "UPDATE stripe_charges c SET state = 'confirmed', confirmed_at = $3, invoice_id = l.invoice_id,
             reason = NULL
         FROM invoice_lines l JOIN invoices i ON (i.account, i.livemode, i.id)
             = (l.account, l.livemode, l.invoice_id)
         WHERE c.state = 'sent' AND c.way = 'invoice_items' AND (c.account, c.livemode) = ($1, $2)
             AND (l.account, l.livemode, l.invoice_item_id) = (c.account, c.livemode, c.item_id)
             AND i.finalized_at IS NOT NULL AND l.amount = c.amount",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    let differing: Vec<Differing> = diesel::sql_query(
        "UPDATE stripe_charges c SET state = 'failed', reason = 'amount_differs', invoice_id = l.invoice_id,
             detail = concat('the final invoice charges ', l.amount)
         FROM invoice_lines l JOIN invoices i ON (i.account, i.livemode, i.id)
             = (l.account, l.livemode, l.invoice_id)
         WHERE c.state = 'sent' AND c.way = 'invoice_items' AND (c.account, c.livemode) = ($1, $2)
             AND (l.account, l.livemode, l.invoice_item_id) = (c.account, c.livemode, c.item_id)
             AND i.finalized_at IS NOT NULL AND l.amount <> c.amount
         RETURNING c.charge_id, l.invoice_id, c.amount AS ours, l.amount AS theirs",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .load(conn)?;
    let found: Vec<NewDrift> = differing
        .iter()
        .map(|one| NewDrift {
            kind: DriftKind::Usage,
            object: "invoice".to_owned(),
            object_id: one.invoice_id.clone(),
            fields: vec!["lines.amount".to_owned()],
            ours: Some(one.ours.to_string()),
            theirs: one.theirs.map(|theirs| theirs.to_string()),
            detail: format!("the line of {} was changed at Stripe", one.charge_id),
            inbox_id: None,
            run_id: None,
        })
        .collect();
    drift::write(conn, realm, &found, now)?;
    Ok(())
}

/// How far back late usage is looked for: as invoices of our own do.
pub(super) const LATE_PERIODS: usize = 3;

/// The period that ends at `end`, and those before it.
pub(super) fn periods_before(org: &OrgContext, end: At) -> Vec<(At, At)> {
    let mut periods = Vec::new();
    let mut at = end;
    while periods.len() <= LATE_PERIODS {
        let Some(period) = org.periods.at(at - TimeDelta::milliseconds(1)) else { break };
        at = period.0;
        periods.push(period);
    }
    periods
}
