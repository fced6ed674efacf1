//! Refunds: money given back to the payer.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Text};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::MirrorBatch;
use super::mirror::{self, mirror};
use super::payments::Charge;
use super::read::{Belongs, ListFilter, Origin, OwnedRow, Where, resource};

/// [`Refund::source`] of a refund object.
pub const FROM_REFUND: &str = "refund";
/// [`Refund::source`] of an entry in the list inside a charge (API versions before 2022-11-15).
pub const FROM_CHARGE: &str = "charge";

mirror! {
    /// A refund of a charge. A refund object always replaces the entry of a charge's list, never the other
    /// way round.
    Refund in refunds, key (account, livemode, id),
        guard " WHERE refunds.source = 'charge' OR excluded.source = 'refund'", written by write {
        /// Connected account, empty for the platform's own.
        account: String,
        /// Live or test mode.
        livemode: bool,
        /// `re_…` or `pyr_…`
        id: String,
        /// [`FROM_REFUND`] or [`FROM_CHARGE`].
        source: String,
        /// Charge refunded.
        charge_id: Option<String>,
        /// Payment intent refunded.
        payment_intent_id: Option<String>,
        /// Amount in minor units.
        amount: Option<i64>,
        /// Currency, lower case.
        currency: Option<String>,
        /// `pending`, `requires_action`, `succeeded`, `failed` or `canceled`.
        status: Option<String>,
        /// `duplicate`, `fraudulent`, `requested_by_customer` or `expired_uncaptured_charge`.
        reason: Option<String>,
        /// Why it failed.
        failure_reason: Option<String>,
        /// When it was created.
        created: Option<DateTime<Utc>>,
        /// Metadata, an object.
        #[schema(value_type = Object)]
        metadata: Value,
    }
}

/// Stores refunds. If a refund object and an entry of a charge's list have the same id, the object counts.
/// Entries that the charges of the batch no longer list are deleted: only the winning snapshot of a charge
/// decides which entries exist.
fn write(conn: &mut PgConnection, rows: &[Refund], batch: &MirrorBatch) -> QueryResult<()> {
    let (embedded, objects): (Vec<&Refund>, Vec<&Refund>) =
        rows.iter().partition(|row| row.source == FROM_CHARGE);
    delete_unlisted(conn, &batch.charges, &embedded)?;
    mirror::upsert(conn, embedded.into_iter().chain(objects))
}

fn delete_unlisted(conn: &mut PgConnection, charges: &[Charge], kept: &[&Refund]) -> QueryResult<()> {
    if charges.is_empty() {
        return Ok(());
    }
    diesel::sql_query(
        "DELETE FROM refunds r
         USING UNNEST($1, $2, $3) AS c (account, livemode, id)
         WHERE r.charge_id = c.id AND r.account = c.account AND r.livemode = c.livemode
             AND r.source = 'charge'
             AND NOT EXISTS (SELECT FROM UNNEST($4, $5, $6) AS k (account, livemode, id)
                 WHERE k.account = r.account AND k.livemode = r.livemode AND k.id = r.id)",
    )
    .bind::<Array<Text>, _>(charges.iter().map(|row| &*row.account).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(charges.iter().map(|row| row.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(charges.iter().map(|row| &*row.id).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(kept.iter().map(|row| &*row.account).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(kept.iter().map(|row| row.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(kept.iter().map(|row| &*row.id).collect::<Vec<_>>())
    .execute(conn)
    .map(|_| ())
}

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RefundFilter {
    /// Only with this status: `pending`, `requires_action`, `succeeded`, `failed` or `canceled`.
    pub status: Option<String>,
    /// Only of this customer (`cus_…`).
    pub customer: Option<String>,
    /// Only those whose payment pays this invoice (`in_…`).
    pub invoice: Option<String>,
    /// Only of this payment intent (`pi_…`).
    pub payment_intent: Option<String>,
    /// Only of this charge (`ch_…`, `py_…`).
    pub charge: Option<String>,
    /// Only in this currency, three lower-case letters.
    pub currency: Option<String>,
}

impl ListFilter for RefundFilter {
    fn narrow(&self, rows: &mut Where) {
        rows.when(self.status.as_deref(), "refunds.status = {}");
        rows.when(self.payment_intent.as_deref(), "refunds.payment_intent_id = {}");
        rows.when(self.charge.as_deref(), "refunds.charge_id = {}");
        rows.when(self.currency.as_deref(), "refunds.currency = {}");
    }

    fn customer(&self) -> Option<&str> {
        self.customer.as_deref()
    }

    fn invoice_of_payment(&self) -> Option<&str> {
        self.invoice.as_deref()
    }
}

/// A refund as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RefundView {
    /// The row.
    #[serde(flatten)]
    pub row: Refund,
    /// Customer whose payment it was; null while the payment is not known.
    pub customer_id: Option<String>,
    /// Stripe, or our own.
    pub origin: Origin,
    /// Public id of the org that its customer is linked to; null while it is not.
    pub org: Option<String>,
    /// The Stripe object as it was sent; null unless it is asked for.
    #[schema(value_type = Option<Object>)]
    pub raw: Option<Box<RawValue>>,
}

resource! {
    Refund in refunds, RefundView by RefundFilter,
        name "refund", objects "refund", belongs Belongs::ThroughPayment
}

impl From<OwnedRow<Refund>> for RefundView {
    fn from(found: OwnedRow<Refund>) -> Self {
        Self {
            row: found.row,
            origin: Origin::Stripe,
            org: found.org,
            customer_id: found.customer_id,
            raw: found.raw,
        }
    }
}
