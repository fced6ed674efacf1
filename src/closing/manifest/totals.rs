//! Totals of a month, each in a fixed order.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, Text};
use serde::Serialize;

use crate::closing::booked::{self, next_month};
use crate::closing::postings::{Booked, add_taxes};
use crate::documents::content::Document;
use crate::error::Error;
use crate::invoicing::amounts::TaxGroup;

/// Usage of a meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, QueryableByName)]
pub struct MeterTotal {
    #[diesel(sql_type = Text)]
    pub meter: String,
    #[diesel(sql_type = Text)]
    pub aggregation: String,
    #[diesel(sql_type = Text)]
    pub unit: String,
    #[diesel(sql_type = BigInt)]
    pub records: i64,
    /// Null where quantities do not add up: of meters that neither sum nor count.
    #[diesel(sql_type = Nullable<Text>)]
    pub quantity: Option<String>,
    /// Of the rate cards that priced it; null: what has no rate card.
    #[diesel(sql_type = Nullable<Text>)]
    pub currency: Option<String>,
    /// In major units, not rounded. Costs of levels are not in it.
    #[diesel(sql_type = Text)]
    pub cost: String,
}

/// Records, quantity and cost of the month, for each meter and currency.
pub fn meters(conn: &mut PgConnection, month: NaiveDate) -> QueryResult<Vec<MeterTotal>> {
    diesel::sql_query(
        r#"SELECT m.key AS meter, m.aggregation, m.unit, count(*) AS records,
             CASE WHEN m.aggregation IN ('sum', 'count') THEN trim_scale(sum(r.quantity))::text END
                 AS quantity,
             k.currency, trim_scale(sum(r.cost))::text AS cost
         FROM (SELECT meter_id, rate_card_id, quantity, cost FROM usage_records
               WHERE own_day IS NULL AND day >= $1 AND day < $2
                   AND occurred_at >= $1::timestamp - interval '2 days'
                   AND occurred_at < $2::timestamp + interval '2 days'
               UNION ALL SELECT meter_id, rate_card_id, quantity, cost FROM usage_records
               WHERE own_day IS NOT NULL AND day >= $1 AND day < $2) r
         JOIN meters m USING (meter_id)
         LEFT JOIN rate_cards k USING (rate_card_id)
         GROUP BY m.key, m.aggregation, m.unit, k.currency
         ORDER BY m.key COLLATE "C", k.currency COLLATE "C" NULLS FIRST"#,
    )
    .bind::<Date, _>(month)
    .bind::<Date, _>(next_month(month))
    .load(conn)
}

/// What accounts booked of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, QueryableByName)]
pub struct Movement {
    #[diesel(sql_type = Text)]
    pub seller: String,
    #[diesel(sql_type = Text)]
    pub currency: String,
    #[diesel(sql_type = Text)]
    pub kind: String,
    #[diesel(sql_type = BigInt)]
    pub count: i64,
    #[diesel(sql_type = BigInt)]
    pub amount: i64,
}

/// Sums of the month's entries.
pub fn movements(conn: &mut PgConnection, month: NaiveDate) -> QueryResult<Vec<Movement>> {
    diesel::sql_query(
        r#"SELECT seller_id AS seller, currency, kind, count(*) AS count, sum(amount)::bigint AS amount
         FROM account_entries WHERE day >= $1 AND day < $2 GROUP BY 1, 2, 3
         ORDER BY seller_id COLLATE "C", currency COLLATE "C", kind COLLATE "C""#,
    )
    .bind::<Date, _>(month)
    .bind::<Date, _>(next_month(month))
    .load(conn)
}

/// The balances of all accounts in a currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, QueryableByName)]
pub struct BalanceTotal {
    #[diesel(sql_type = Text)]
    pub currency: String,
    /// At the beginning of the month.
    #[diesel(sql_type = BigInt)]
    pub opening: i64,
    /// At its end.
    #[diesel(sql_type = BigInt)]
    pub closing: i64,
}

/// Sums of what was booked until the month began, and until it ended.
pub fn balances(conn: &mut PgConnection, month: NaiveDate) -> QueryResult<Vec<BalanceTotal>> {
    diesel::sql_query(
        r#"SELECT currency, coalesce(sum(amount) FILTER (WHERE day < $1), 0)::bigint AS opening,
             sum(amount)::bigint AS closing
         FROM account_entries WHERE day < $2 GROUP BY 1 ORDER BY currency COLLATE "C""#,
    )
    .bind::<Date, _>(month)
    .bind::<Date, _>(next_month(month))
    .load(conn)
}

/// The part of a gapless series that was booked in the month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, QueryableByName)]
pub struct Series {
    #[diesel(sql_type = Text)]
    pub seller: String,
    #[diesel(sql_type = Text)]
    pub kind: String,
    #[diesel(sql_type = Integer)]
    pub year: i32,
    #[diesel(sql_type = BigInt)]
    pub first: i64,
    #[diesel(sql_type = BigInt)]
    pub last: i64,
    #[diesel(sql_type = BigInt)]
    pub count: i64,
}

/// First and last number of each series.
pub fn series(conn: &mut PgConnection, month: NaiveDate) -> QueryResult<Vec<Series>> {
    diesel::sql_query(
        r#"SELECT d.seller_id AS seller, d.kind, d.series_year AS year, min(d.series_number) AS first,
             max(d.series_number) AS last, count(*) AS count
         FROM account_entries e
         JOIN own_documents d ON (d.org_id, d.document_id) = (e.org_id, e.document_id)
         WHERE e.day >= $1 AND e.day < $2 AND e.kind IN ('invoice', 'credit_note') AND d.series_number > 0
         GROUP BY 1, 2, 3 ORDER BY d.seller_id COLLATE "C", d.kind COLLATE "C", d.series_year"#,
    )
    .bind::<Date, _>(month)
    .bind::<Date, _>(next_month(month))
    .load(conn)
}

/// Documents of a kind. `void`: what was taken back of invoices that were declared void.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DocumentTotal {
    pub seller: String,
    pub currency: String,
    pub kind: &'static str,
    pub count: u64,
    pub net: i64,
    pub tax: i64,
    pub total: i64,
    pub taxes: Vec<TaxTotal>,
}

/// Tax of a category and rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaxTotal {
    pub category: &'static str,
    /// A decimal.
    pub percent: String,
    /// Without tax.
    pub base: i64,
    pub tax: i64,
}

#[derive(Default)]
struct DocumentSum {
    count: u64,
    net: i64,
    tax: i64,
    taxes: BTreeMap<TaxGroup, (i64, i64)>,
}

impl DocumentSum {
    fn add(&mut self, document: &Document, sign: i64) {
        self.net += sign * document.totals.net;
        self.tax += sign * document.totals.tax;
        add_taxes(&mut self.taxes, document, sign);
    }
}

/// Documents by seller, currency and kind, with their taxes. All amounts are above 0, as on the documents.
///
/// # Errors
/// [`Error::Internal`] when a document is missing or cannot be read.
pub fn documents(conn: &mut PgConnection, month: NaiveDate) -> Result<Vec<DocumentTotal>, Error> {
    let mut sums: BTreeMap<(String, String, &'static str), DocumentSum> = BTreeMap::new();
    booked::each(conn, month, None, |entry, booked| {
        let key = (entry.seller.clone(), entry.currency.clone(), entry.kind.name());
        match booked {
            Booked::Document(document) => {
                let sum = sums.entry(key).or_default();
                sum.count += 1;
                sum.add(document, 1);
            }
            Booked::Voided { invoice, credit_notes } => {
                let sum = sums.entry(key).or_default();
                sum.count += 1;
                sum.add(invoice, 1);
                for note in credit_notes {
                    sum.add(note, -1);
                }
            }
            Booked::Money { .. } | Booked::Alone => {}
        }
        Ok(())
    })?;
    let shown =
        |((seller, currency, kind), sum): ((String, String, &'static str), DocumentSum)| DocumentTotal {
            seller,
            currency,
            kind,
            count: sum.count,
            net: sum.net,
            tax: sum.tax,
            total: sum.net + sum.tax,
            taxes: sum
                .taxes
                .into_iter()
                .map(|(group, (base, tax))| TaxTotal {
                    category: group.category.code(),
                    percent: group.percent.to_string(),
                    base,
                    tax,
                })
                .collect(),
        };
    Ok(sums.into_iter().map(shown).collect())
}

/// Stripe's mirrored objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, QueryableByName)]
pub struct StripeTotal {
    /// invoices, payments, refunds or credit_notes.
    #[diesel(sql_type = Text)]
    pub what: String,
    #[diesel(sql_type = Bool)]
    pub livemode: bool,
    #[diesel(sql_type = Text)]
    pub currency: String,
    #[diesel(sql_type = BigInt)]
    pub count: i64,
    #[diesel(sql_type = BigInt)]
    pub amount: i64,
}

/// Mirrors of some accounts: invoices that were finalised in the month and not declared void, money that was
/// received, refunds that did not fail, and credit notes that were not declared void.
pub fn stripe(
    conn: &mut PgConnection,
    month: NaiveDate,
    accounts: &[String],
) -> QueryResult<Vec<StripeTotal>> {
    diesel::sql_query(
        r#"SELECT what, livemode, currency, count(*) AS count, coalesce(sum(amount), 0)::bigint AS amount
         FROM (SELECT 'invoices' AS what, account, livemode, currency, total AS amount, finalized_at AS at
                   FROM invoices WHERE NOT deleted AND voided_at IS NULL AND status <> 'draft'
               UNION ALL SELECT 'payments', account, livemode, currency, amount_received, paid_at
                   FROM payments WHERE amount_received > 0
               UNION ALL SELECT 'refunds', account, livemode, currency, amount, created
                   FROM refunds WHERE status NOT IN ('failed', 'canceled')
               UNION ALL SELECT 'credit_notes', account, livemode, currency, total, created
                   FROM credit_notes WHERE voided_at IS NULL) mirrored
         WHERE at >= $1::timestamp AT TIME ZONE 'UTC' AND at < $2::timestamp AT TIME ZONE 'UTC'
             AND currency IS NOT NULL AND account = ANY ($3)
         GROUP BY what, livemode, currency ORDER BY what COLLATE "C", livemode, currency COLLATE "C""#,
    )
    .bind::<Date, _>(month)
    .bind::<Date, _>(next_month(month))
    .bind::<Array<Text>, _>(accounts)
    .load(conn)
}
