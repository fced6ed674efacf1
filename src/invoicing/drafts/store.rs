//! How drafts are stored.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text, Timestamptz};

use super::{Basis, ChargedPeriod, Computed, CouponUse, DraftTexts, compute, item_bodies};
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::SubscriptionPeriod;
use crate::error::Error;
use crate::ids;
use crate::invoicing::invoices::InvoiceRow;
use crate::invoicing::lines;
use crate::invoicing::profiles;
use crate::invoicing::sellers;
use crate::schema::{invoiced_periods as p, own_invoice_lines as l, own_invoices as t};

/// A draft to make.
pub(crate) struct NewDraft<'a> {
    pub(crate) org_id: i64,
    pub(crate) seller: &'a str,
    pub(crate) currency: &'a str,
    pub(crate) subscription: Option<&'a str>,
    /// Why it is made: `subscription`, `manual` or `import`.
    pub(crate) reason: &'static str,
    /// When the clock finalises it; `None`: people do.
    pub(crate) finalize_at: Option<DateTime<Utc>>,
    pub(crate) texts: &'a DraftTexts,
}

/// Makes an empty draft, and returns its id.
pub(crate) fn insert(
    conn: &mut PgConnection,
    draft: &NewDraft<'_>,
    now: DateTime<Utc>,
) -> Result<String, Error> {
    let id = ids::fresh("inv");
    let texts = crate::json::to_tree(draft.texts)?;
    diesel::insert_into(t::table)
        .values((
            (t::org_id.eq(draft.org_id), t::invoice_id.eq(&id), t::seller_id.eq(draft.seller)),
            (t::currency.eq(draft.currency), t::subscription_id.eq(draft.subscription)),
            (t::reason.eq(draft.reason), t::created_at.eq(now), t::finalize_at.eq(draft.finalize_at)),
            (t::draft.eq(texts), t::subtotal.eq(0), t::discount_total.eq(0), t::net_total.eq(0)),
            (t::tax_total.eq(0), t::total.eq(0)),
        ))
        .execute(conn)?;
    Ok(id)
}

/// Says that a draft invoices a period of a subscription. False: another invoice does already.
pub(crate) fn claim_period(
    conn: &mut PgConnection,
    org_id: i64,
    (subscription, what, currency): (&str, &str, &str),
    (start, end): (DateTime<Utc>, DateTime<Utc>),
    invoice: &str,
) -> QueryResult<bool> {
    let claimed = diesel::insert_into(p::table)
        .values((
            (p::org_id.eq(org_id), p::subscription_id.eq(subscription), p::what.eq(what)),
            (p::currency.eq(currency), p::period_start.eq(start), p::period_end.eq(end)),
            p::invoice_id.eq(invoice),
        ))
        .on_conflict_do_nothing()
        .execute(conn)?;
    Ok(claimed == 1)
}

/// Forgets that an invoice had a period, so that another one may have it: if the invoice is void, or credit
/// notes took all of it back, and the period was not paid for.
pub(crate) fn release_taken_back(
    conn: &mut PgConnection,
    org_id: i64,
    (subscription, what, currency): (&str, &str, &str),
    start: DateTime<Utc>,
) -> QueryResult<usize> {
    diesel::sql_query(
        "DELETE FROM invoiced_periods p USING own_invoices i
         WHERE p.org_id = $1 AND p.subscription_id = $2 AND p.what = $3 AND p.currency = $4
             AND p.period_start = $5 AND p.paid_for_at IS NULL
             AND (i.org_id, i.invoice_id) = (p.org_id, p.invoice_id)
             AND (i.voided_at IS NOT NULL OR i.total > 0 AND i.total = (SELECT sum(n.total)
                 FROM own_credit_notes n WHERE (n.org_id, n.invoice_id) = (i.org_id, i.invoice_id)))",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(subscription)
    .bind::<Text, _>(what)
    .bind::<Text, _>(currency)
    .bind::<Timestamptz, _>(start)
    .execute(conn)
}

/// Whether an invoice has the fee or the usage of a period.
pub(crate) fn is_invoiced(
    conn: &mut PgConnection,
    org_id: i64,
    (subscription, what, currency): (&str, &str, &str),
    start: DateTime<Utc>,
) -> QueryResult<bool> {
    let claimed = p::table.find((org_id, subscription, what, currency, start));
    diesel::select(diesel::dsl::exists(claimed)).get_result(conn)
}

/// Takes back what [`claim_period`] said of an invoice: another one may have the periods.
fn release_periods(conn: &mut PgConnection, org_id: i64, invoice: &str) -> QueryResult<usize> {
    diesel::delete(p::table.filter(p::org_id.eq(org_id).and(p::invoice_id.eq(invoice)))).execute(conn)
}

#[derive(QueryableByName)]
struct PeriodRow {
    #[diesel(sql_type = Text)]
    what: String,
    #[diesel(sql_type = Text)]
    subscription_id: String,
    #[diesel(sql_type = Text)]
    plan_id: String,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Integer)]
    interval_months: i32,
    #[diesel(sql_type = Timestamptz)]
    period_start: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    period_end: DateTime<Utc>,
}

impl PeriodRow {
    fn period(self) -> SubscriptionPeriod {
        SubscriptionPeriod {
            subscription_id: self.subscription_id,
            plan_id: self.plan_id,
            version: self.version,
            months: self.interval_months,
            start: self.period_start,
            end: self.period_end,
        }
    }
}

/// The fees and the usage periods that an invoice has, with the plans that the subscriptions have now.
fn periods_of(
    conn: &mut PgConnection,
    org_id: i64,
    invoice: &str,
) -> QueryResult<(Vec<SubscriptionPeriod>, Vec<ChargedPeriod>)> {
    let rows: Vec<PeriodRow> = diesel::sql_query(
        "SELECT p.what, p.subscription_id, s.plan_id, s.version, s.interval_months, p.period_start,
             p.period_end
         FROM invoiced_periods p JOIN local_subscriptions s USING (org_id, subscription_id)
         WHERE p.org_id = $1 AND p.invoice_id = $2 ORDER BY p.period_start, p.what",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(invoice)
    .load(conn)?;
    let (fees, usage): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.what == "fee");
    let fees = fees.into_iter().map(PeriodRow::period).collect();
    let usage = usage.into_iter().map(|row| ChargedPeriod { period: row.period(), is_late: false }).collect();
    Ok((fees, usage))
}

/// The reason of an invoice that somebody made to charge late usage.
pub(crate) const LATE_USAGE: &str = "late_usage";
/// How many earlier periods of a subscription are looked through for usage that came late.
const LATE_PERIODS: i32 = 3;

/// Periods that finalised invoices charged before `before`: usage of them that came late is charged now.
fn late_periods(
    conn: &mut PgConnection,
    org_id: i64,
    currency: &str,
    before: DateTime<Utc>,
) -> QueryResult<Vec<ChargedPeriod>> {
    let rows: Vec<PeriodRow> = diesel::sql_query(
        "SELECT p.what, p.subscription_id, s.plan_id, s.version, s.interval_months, p.period_start,
             p.period_end
         FROM invoiced_periods p
         JOIN local_subscriptions s USING (org_id, subscription_id)
         LEFT JOIN own_invoices i USING (org_id, invoice_id)
         WHERE p.org_id = $1 AND p.currency = $2 AND p.what = 'usage' AND p.period_start < $3
             AND (p.invoice_id = '' OR i.finalized_at IS NOT NULL AND i.voided_at IS NULL)
         ORDER BY p.period_start DESC LIMIT $4",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(currency)
    .bind::<Timestamptz, _>(before)
    .bind::<Integer, _>(LATE_PERIODS)
    .load(conn)?;
    let late = rows.into_iter().rev().map(|row| ChargedPeriod { period: row.period(), is_late: true });
    Ok(late.collect())
}

/// What a stored draft is made of.
pub(crate) fn load(conn: &mut PgConnection, org: &Arc<OrgContext>, row: &InvoiceRow) -> Result<Basis, Error> {
    let (fees, own) = periods_of(conn, org.org_id, &row.invoice_id)?;
    let mut usage = match own.first() {
        Some(first) => late_periods(conn, org.org_id, &row.currency, first.period.start)?,
        None if row.reason == LATE_USAGE => {
            late_periods(conn, org.org_id, &row.currency, DateTime::<Utc>::MAX_UTC)?
        }
        None => Vec::new(),
    };
    usage.extend(own);
    let mut terms = profiles::terms(conn, org.org_id)?;
    if terms.seller.id != row.seller_id {
        terms.seller = sellers::find(conn, &row.seller_id)?;
    }
    Ok(Basis {
        org: Arc::clone(org),
        terms,
        currency: row.currency.clone(),
        invoice: row.invoice_id.clone(),
        fees,
        usage,
        items: item_bodies(conn, org.org_id, &row.currency, Some(&row.invoice_id))?,
    })
}

/// Computes a stored draft again and stores it. What lacks makes it wait, and is no error.
pub(crate) fn recompute(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    row: &InvoiceRow,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let computed = load(conn, org, row).and_then(|basis| compute(conn, &basis, now, CouponUse::Preview));
    match computed {
        Ok(computed) => store(conn, (org.org_id, &row.invoice_id), &computed, now),
        Err(Error::Conflict { code, .. }) => {
            let own = t::table.find((org.org_id, &row.invoice_id));
            diesel::update(own).set(t::waits.eq(code)).execute(conn)?;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Stores what was computed of a draft: its lines and its sums.
pub(crate) fn store(
    conn: &mut PgConnection,
    (org_id, invoice): (i64, &str),
    computed: &Computed,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    diesel::delete(l::table.filter(l::org_id.eq(org_id).and(l::invoice_id.eq(invoice)))).execute(conn)?;
    let rows: Vec<_> = (1..)
        .zip(computed.lines.iter().zip(&computed.amounts.lines))
        .map(|(number, (line, amounts))| {
            let usage = line.usage;
            (
                (l::org_id.eq(org_id), l::invoice_id.eq(invoice), l::line_number.eq(number)),
                (l::kind.eq(line.kind.name()), l::description.eq(&line.description)),
                (l::quantity.eq(line.quantity), l::unit.eq(&line.unit), l::unit_price.eq(line.unit_price)),
                (l::base_quantity.eq(line.base_quantity), l::amount.eq(line.amount)),
                (l::discount.eq(amounts.discount), l::net.eq(amounts.net), l::tax.eq(amounts.tax)),
                (
                    l::tax_rate_id.eq(&line.tax_rate.id),
                    l::tax_category.eq(line.tax_rate.body.category.code()),
                ),
                (l::tax_percent.eq(line.tax_rate.body.percent.0), l::plan_id.eq(&line.plan)),
                (l::period_start.eq(line.from), l::period_end.eq(line.to)),
                (
                    l::meter_id.eq(usage.map(|usage| usage.meter_id)),
                    l::cost.eq(usage.map(|usage| usage.cost)),
                ),
                l::rate_card_id.eq(usage.map(|usage| usage.rate_card_id)),
                l::rate_place.eq(usage.map(|usage| usage.rate_place)),
                l::computed_at.eq(now),
            )
        })
        .collect();
    diesel::insert_into(l::table).values(rows).execute(conn)?;
    let starts = computed.lines.iter().filter_map(|line| line.from).min();
    let ends = computed.lines.iter().filter_map(|line| line.to).max();
    let totals = &computed.amounts.totals;
    diesel::update(t::table.find((org_id, invoice)))
        .set((
            (t::subtotal.eq(totals.subtotal), t::discount_total.eq(totals.discount)),
            (t::net_total.eq(totals.net), t::tax_total.eq(totals.tax), t::total.eq(totals.total)),
            (t::period_start.eq(starts), t::period_end.eq(ends), t::waits.eq(computed.waits)),
        ))
        .execute(conn)?;
    Ok(())
}

/// Deletes a draft that has nothing to charge and does not wait. Its periods stay marked, with no invoice:
/// usage of them that comes late is charged with a later period.
pub(crate) fn drop_if_empty(conn: &mut PgConnection, org_id: i64, invoice: &str) -> Result<(), Error> {
    let lines: i64 =
        l::table.filter(l::org_id.eq(org_id).and(l::invoice_id.eq(invoice))).count().get_result(conn)?;
    let draft = t::table.find((org_id, invoice)).filter(t::waits.is_null().and(t::finalized_at.is_null()));
    if lines == 0 && diesel::delete(draft).execute(conn)? == 1 {
        diesel::update(p::table.filter(p::org_id.eq(org_id).and(p::invoice_id.eq(invoice))))
            .set(p::invoice_id.eq(""))
            .execute(conn)?;
    }
    Ok(())
}

/// Deletes a draft. Its periods may be invoiced by another one; its items wait for the next one.
///
/// # Errors
/// [`Error::Conflict`] when it is finalised.
pub(crate) fn delete(conn: &mut PgConnection, row: &InvoiceRow) -> Result<(), Error> {
    row.must_be_draft()?;
    let (org_id, id) = (row.org_id, row.invoice_id.as_str());
    lines::release_items(conn, org_id, id)?;
    release_periods(conn, org_id, id)?;
    diesel::delete(l::table.filter(l::org_id.eq(org_id).and(l::invoice_id.eq(id)))).execute(conn)?;
    diesel::delete(t::table.find((org_id, id))).execute(conn)?;
    Ok(())
}
