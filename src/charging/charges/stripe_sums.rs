//! What Stripe's sums of sent buckets must be. A customer may belong to several orgs in turn, and Stripe's
//! sum has what each of them sent.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;

use super::{At, ChargeKey};
use crate::realm::Realm;

/// SQL: deltas of other orgs for the customer of the charge `c` in its time: the customer was linked to
/// them before. Stripe's sum has them, too. Totals are left out: one overwrites the other.
const DELTAS_OF_OTHER_ORGS: &str = "
    FROM stripe_charges o
    WHERE o.customer_id = c.customer_id AND o.period_start >= c.period_start
        AND o.period_start < c.period_end AND o.org_id <> c.org_id AND o.way = 'deltas'
        AND (o.account, o.livemode, o.stripe_meter_id) = (c.account, c.livemode, c.stripe_meter_id)";

/// SQL: whether it is not known yet if Stripe took a delta.
const IS_UNKNOWN: &str = "o.state = 'planned' AND o.tried_at IS NOT NULL";

/// Deltas of other orgs in the time of a charge, which Stripe's sum has, too.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub(in crate::charging) struct OfOtherOrgs {
    /// Stripe took them.
    #[diesel(sql_type = Numeric)]
    pub(in crate::charging) delivered: Decimal,
    /// Stripe may have taken them.
    #[diesel(sql_type = Numeric)]
    pub(in crate::charging) unknown: Decimal,
}

/// Reads what other orgs sent for the customer of a charge in its time.
pub(in crate::charging) fn of_other_orgs(
    conn: &mut PgConnection,
    key: &ChargeKey,
) -> QueryResult<OfOtherOrgs> {
    diesel::sql_query(format!(
        "SELECT others.delivered, others.unknown FROM stripe_charges c CROSS JOIN LATERAL (
             SELECT coalesce(sum(o.delivered), 0) AS delivered,
                 coalesce(sum(o.sending) FILTER (WHERE {IS_UNKNOWN}), 0) AS unknown
             {DELTAS_OF_OTHER_ORGS}) others
         WHERE c.org_id = $1 AND c.charge_id = $2",
    ))
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .get_result(conn)
}

/// A bucket that Stripe took, with what Stripe's sum of its time must be.
#[derive(Clone, QueryableByName)]
pub(in crate::charging) struct SentBucket {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    pub(in crate::charging) charge_id: String,
    #[diesel(sql_type = Integer)]
    sequence: i32,
    #[diesel(sql_type = Text)]
    pub(in crate::charging) stripe_meter_id: String,
    #[diesel(sql_type = Text)]
    pub(in crate::charging) way: String,
    #[diesel(sql_type = Text)]
    pub(in crate::charging) customer_id: String,
    #[diesel(sql_type = Timestamptz)]
    pub(in crate::charging) period_start: At,
    #[diesel(sql_type = Timestamptz)]
    pub(in crate::charging) period_end: At,
    #[diesel(sql_type = Numeric)]
    pub(in crate::charging) delivered: Decimal,
    /// See [`OfOtherOrgs`].
    #[diesel(sql_type = Numeric)]
    pub(in crate::charging) of_other_orgs: Decimal,
}

impl SentBucket {
    pub(in crate::charging) fn key(&self) -> ChargeKey {
        ChargeKey { org_id: self.org_id, charge_id: self.charge_id.clone(), sequence: self.sequence }
    }
}

/// Buckets that ended and that Stripe took before `until`, not compared since, of periods after `after`.
/// A bucket is left out while it is not known whether Stripe took another org's delta of its time.
pub(in crate::charging) fn sent_buckets(
    conn: &mut PgConnection,
    realm: &Realm,
    (after, until): (At, At),
) -> QueryResult<Vec<SentBucket>> {
    diesel::sql_query(format!(
        "SELECT org_id, charge_id, sequence, stripe_meter_id, way, customer_id, period_start, period_end,
             delivered, (SELECT coalesce(sum(o.delivered), 0) {DELTAS_OF_OTHER_ORGS}) AS of_other_orgs
         FROM stripe_charges c
         WHERE state = 'sent' AND way <> 'invoice_items' AND (account, livemode) = ($1, $2)
             AND sent_at <= $3 AND period_end <= $3 AND period_start > $4 AND customer_id IS NOT NULL
             AND NOT EXISTS (SELECT {DELTAS_OF_OTHER_ORGS} AND {IS_UNKNOWN})
         ORDER BY period_start, org_id, charge_id",
    ))
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(until)
    .bind::<Timestamptz, _>(after)
    .load(conn)
}
