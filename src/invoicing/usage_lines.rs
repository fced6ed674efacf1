//! Usage lines: what the usage of a period costs by rate cards.
//!
//! A line sums up what `period_usage.rs` finds of one price, and is rounded once. What earlier invoices
//! charged of the same period is subtracted.

use std::sync::Arc;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text, Timestamptz};

use super::amounts::minor_units;
use super::lines::{DraftLine, UsageSource};
use super::period_usage::{ChargedBefore, PeriodUsage, UnchargedPrice};
use super::tax_rates::TaxRate;
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::SubscriptionPeriod;
use crate::documents::content::LineKind;
use crate::error::Error;
use crate::money::decimal_places;

/// What our invoices charged before, without the draft `$5`.
const INVOICED: &str = "SELECT l.meter_id, l.rate_card_id, l.rate_place, sum(l.quantity) AS quantity,
        sum(l.cost) AS cost
    FROM own_invoice_lines l JOIN own_invoices i USING (org_id, invoice_id)
    WHERE l.org_id = $1 AND l.kind = 'usage' AND l.period_start = $2 AND i.currency = $4
        AND i.finalized_at IS NOT NULL AND i.voided_at IS NULL AND i.invoice_id <> $5
    GROUP BY 1, 2, 3";

/// The usage lines of a period in a currency. `invoice`: the draft that they are for, whose own lines do not
/// count as invoiced.
pub(super) fn usage_lines(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    (period, currency): (&SubscriptionPeriod, &str),
    invoice: &str,
    tax_rate: &TaxRate,
) -> Result<Vec<DraftLine>, Error> {
    let usage = PeriodUsage { org, start: period.start, end: period.end, currency };
    let found = usage.uncharged(conn, ChargedBefore { sql: INVOICED, except: invoice })?;
    found.into_iter().map(|usage| line(usage, period, currency, tax_rate)).collect()
}

fn line(
    usage: UnchargedPrice,
    period: &SubscriptionPeriod,
    currency: &str,
    tax_rate: &TaxRate,
) -> Result<DraftLine, Error> {
    let amount = minor_units(usage.cost, decimal_places(currency))?;
    let (quantity, unit_price, base_quantity) = usage.price();
    Ok(DraftLine {
        kind: LineKind::Usage,
        description: usage.meter,
        quantity,
        unit: Some(usage.unit).filter(|unit| !unit.is_empty()),
        unit_price,
        base_quantity,
        amount,
        tax_rate: tax_rate.clone(),
        plan: None,
        from: Some(period.start),
        to: Some(period.end),
        usage: Some(UsageSource {
            meter_id: usage.meter_id,
            rate_card_id: usage.rate_card_id,
            rate_place: usage.rate_place,
            cost: usage.cost.normalize(),
        }),
    })
}

/// The currencies, apart from `main`, in which the org's usage of a period costs something.
pub(super) fn currencies(
    conn: &mut PgConnection,
    org_id: i64,
    period: &SubscriptionPeriod,
    main: &str,
) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct CurrencyRow {
        #[diesel(sql_type = Text)]
        currency: String,
    }
    let rows: Vec<CurrencyRow> = diesel::sql_query(
        "SELECT DISTINCT coalesce(s.currency, m.currency) AS currency
         FROM usage_series s JOIN meters m USING (meter_id)
         WHERE s.org_id = $1 AND coalesce(s.currency, m.currency) <> $4
             AND EXISTS (SELECT FROM usage_records r
                 WHERE r.org_id = $1 AND r.occurred_at >= $2 AND r.occurred_at < $3
                     AND r.series_id = s.series_id AND r.cost <> 0)
         ORDER BY 1",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(period.start)
    .bind::<Timestamptz, _>(period.end)
    .bind::<Text, _>(main)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.currency).collect())
}

/// Why usage of a period cannot be invoiced yet, as a code: it has no price, or its price no currency.
pub(super) fn unpriced(
    conn: &mut PgConnection,
    org_id: i64,
    period: &SubscriptionPeriod,
) -> QueryResult<Option<&'static str>> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Bool)]
        unpriced: bool,
        #[diesel(sql_type = Bool)]
        without_currency: bool,
    }
    let found: Found = diesel::sql_query(
        "SELECT EXISTS (SELECT FROM usage_records r
                 WHERE r.org_id = $1 AND r.occurred_at >= $2 AND r.occurred_at < $3 AND r.pricing = 2
                 GROUP BY r.event_key, r.meter_id HAVING sum(r.quantity) <> 0) AS unpriced,
             EXISTS (SELECT FROM usage_records r
                 WHERE r.org_id = $1 AND r.occurred_at >= $2 AND r.occurred_at < $3 AND r.pricing = 1
                     AND r.cost <> 0
                     AND NOT EXISTS (SELECT FROM rate_cards c WHERE c.meter_id = r.meter_id)
                 GROUP BY r.event_key, r.meter_id HAVING sum(r.cost) <> 0) AS without_currency",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(period.start)
    .bind::<Timestamptz, _>(period.end)
    .get_result(conn)?;
    Ok(match found {
        Found { unpriced: true, .. } => Some("usage_unpriced"),
        Found { without_currency: true, .. } => Some("usage_without_currency"),
        _ => None,
    })
}
