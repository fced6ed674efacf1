//! Refunds of both origins. Reversals of our own payments are among them.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use serde::{Serialize, Serializer};
use serde_json::json;
use utoipa::ToSchema;

use super::payments::pays;
use super::{OwnPage, TwoOrigins, as_one, either_origin, narrowed, when};
use crate::billing::read::{Origin, Position};
use crate::billing::refunds::{Refund, RefundFilter, RefundView};
use crate::error::Error;
use crate::invoicing::payments::{OwnRefund, get_refund};
use crate::schema::{orgs, own_refunds as t};

/// [`Refund::source`] of what was recorded here.
const FROM_RECORD: &str = "own";

either_origin! {
    /// A refund of either origin.
    AnyRefund: RefundView | OwnRefundView
}

/// A refund or reversal that was recorded here, as a look-up shows it: the fields of Stripe's refunds, and
/// its own.
#[derive(Debug, ToSchema)]
pub struct OwnRefundView {
    /// The fields that refunds of both origins have.
    #[serde(flatten)]
    pub row: Refund,
    /// Its own.
    #[serde(flatten)]
    pub own: OwnRefund,
    /// Public id of the org.
    pub org: String,
}

impl Serialize for OwnRefundView {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        as_one(to, &[&self.row, &self.own, &json!({ "org": self.org })])
    }
}

#[derive(Queryable)]
struct ListedRefund {
    org_id: i64,
    org: String,
    id: String,
    currency: String,
    amount: i64,
    reason: String,
    created_at: DateTime<Utc>,
}

/// The columns of a [`ListedRefund`].
macro_rules! listed {
    () => {
        (t::org_id, orgs::public_id, t::refund_id, t::currency, t::amount, t::reason, t::created_at)
    };
}

impl ListedRefund {
    /// In the shape of Stripe's refunds.
    fn row(self, livemode: bool) -> Refund {
        Refund {
            account: String::new(),
            livemode,
            id: self.id,
            source: FROM_RECORD.to_owned(),
            charge_id: None,
            payment_intent_id: None,
            amount: Some(self.amount),
            currency: Some(self.currency),
            status: Some("succeeded".to_owned()),
            reason: Some(self.reason),
            failure_reason: None,
            created: Some(self.created_at),
            metadata: json!({}),
        }
    }
}

impl TwoOrigins for Refund {
    type Any = AnyRefund;

    fn own_page(
        conn: &mut PgConnection,
        page: &OwnPage<'_, RefundFilter>,
    ) -> Result<Vec<(Position, RefundView)>, Error> {
        let filter = page.filter.clone();
        let is_other = filter.status.as_deref().is_some_and(|status| status != "succeeded");
        let of_stripe = [&filter.customer, &filter.payment_intent, &filter.charge];
        if is_other || of_stripe.into_iter().any(Option::is_some) {
            return Ok(Vec::new());
        }
        let joined = t::table.inner_join(orgs::table.on(orgs::org_id.eq(t::org_id))).select(listed!());
        let mut query = narrowed!(joined, t, refund_id, page);
        when! { query,
            filter.currency => |currency| t::currency.eq(currency),
            filter.invoice => |id| {
                let (before, after) = pays("own_refunds.payment_id", false);
                diesel::dsl::sql::<Bool>(&before).bind::<Text, _>(id).sql(&after)
            },
        }
        let found: Vec<ListedRefund> = query.load(conn)?;
        let view = |refund: ListedRefund| {
            let position = Position::of_own(refund.created_at, &refund.id, page.livemode);
            let org = Some(refund.org.clone());
            let row = refund.row(page.livemode);
            (position, RefundView { row, customer_id: None, origin: Origin::Own, org, raw: None })
        };
        Ok(found.into_iter().map(view).collect())
    }

    fn own(conn: &mut PgConnection, id: &str, org: Option<&str>, livemode: bool) -> Result<AnyRefund, Error> {
        let joined = t::table.inner_join(orgs::table.on(orgs::org_id.eq(t::org_id))).select(listed!());
        let mut query = joined.filter(t::refund_id.eq(id)).into_boxed();
        when! { query, org.map(str::to_owned) => |org| orgs::public_id.eq(org) }
        let found: Option<ListedRefund> = query.first(conn).optional()?;
        let found = found.ok_or(Error::NotFound("refund"))?;
        let own = get_refund(conn, found.org_id, id)?;
        let org = found.org.clone();
        Ok(AnyRefund::Own(Box::new(OwnRefundView { row: found.row(livemode), own, org })))
    }
}
