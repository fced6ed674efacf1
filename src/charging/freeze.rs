//! Freezes the usage of a billing period when Stripe drafts its invoice: each price becomes a line, and each
//! line an item on that draft.
//!
//! The draft itself is read first: it says until when it takes items. What comes too late is an item for the
//! customer's next invoice, and a difference for people.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};
use serde::Deserialize;

use super::Turn;
use super::frozen::{self, Freezing, Frozen, LineTarget};
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::client::Call;
use crate::stripe::sync::drift::{self, DriftKind, NewDrift};

type At = DateTime<Utc>;

/// A draft of a cycle takes items for about an hour
/// (<https://docs.stripe.com/billing/invoices/subscription>). Items come well before its end.
const TIME_FOR_ITEMS: TimeDelta = TimeDelta::minutes(55);
const BEFORE_FINAL: TimeDelta = TimeDelta::minutes(1);
/// Invoices of so long ago are looked at.
const LOOK_BACK: TimeDelta = TimeDelta::days(35);

#[derive(QueryableByName)]
struct CycleRow {
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Nullable<Text>)]
    customer_id: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    org_id: Option<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    period_end: Option<At>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    trial_end: Option<At>,
}

/// What a draft says at Stripe.
#[derive(Deserialize)]
struct DraftInvoice {
    status: Option<String>,
    currency: String,
    created: i64,
    automatically_finalizes_at: Option<i64>,
}

impl Turn<'_> {
    /// Freezes the usage of periods whose invoices Stripe made.
    pub(super) fn freeze(&mut self) -> Result<(), Error> {
        let meters = frozen::meters(self.conn, &self.realm.account)?;
        let Some(since) = meters.iter().map(|way| way.since).min() else { return Ok(()) };
        let now = self.now();
        let rows = cycles(self.conn, self.realm, since, now, self.options.freeze_after)?;
        for row in rows {
            if (self.is_stopped)() {
                break;
            }
            if !self.freeze_one(&row)? {
                break;
            }
        }
        Ok(())
    }

    /// Freezes for one invoice. False: the account's calls fail.
    fn freeze_one(&mut self, row: &CycleRow) -> Result<bool, Error> {
        let of = Freezing { object: "invoice", object_id: row.id.clone() };
        let now = self.now();
        let skip = |reason, org_id| Frozen { state: "skipped", reason: Some(reason), org_id, invoice: None };
        let (Some(org_id), Some(customer)) = (row.org_id, &row.customer_id) else {
            // The link may come within the hour.
            frozen::postpone(self.conn, self.realm, &of, "no_org", now)?;
            return Ok(true);
        };
        let end = row.period_end.unwrap_or(now);
        let org = self.org(org_id)?;
        let period = org.periods.at(end - TimeDelta::milliseconds(1));
        if period.is_none_or(|period| period.1 != end) {
            // Usage counts to the periods of one subscription of the org.
            frozen::note(self.conn, self.realm, &of, skip("other_subscription", Some(org.org_id)), now)?;
            return Ok(true);
        }
        if row.trial_end.is_some_and(|trial_end| end <= trial_end) {
            frozen::note(self.conn, self.realm, &of, skip("trial", Some(org.org_id)), now)?;
            return Ok(true);
        }
        let client = self.sync.client().clone();
        let call = Call::get(&format!("/v1/invoices/{}", row.id), &[]).of(&self.realm.account);
        let draft = match self.wait(async { client.send(&call).await?.read::<DraftInvoice>() }) {
            Ok(draft) => draft,
            Err(error) => {
                tracing::warn!(invoice = row.id, %error, "a draft cannot be read; it is tried again");
                frozen::postpone(self.conn, self.realm, &of, &error.to_string(), now)?;
                return Ok(!error.is_of_key());
            }
        };
        let is_open = draft.takes_items(self.now());
        let (realm, now) = (self.realm, self.now());
        self.conn.transaction(|conn| {
            let periods = frozen::periods_before(&org, end);
            let meters = frozen::meters(conn, &realm.account)?;
            let lines = frozen::new_lines(conn, &org, &meters, &periods, &draft.currency)?;
            let invoice = Some(row.id.as_str()).filter(|_| is_open);
            let target =
                LineTarget { org_id: org.org_id, customer, currency: &draft.currency, invoice, waits: None };
            frozen::write_lines(conn, realm, &target, &lines, now)?;
            if !is_open && !lines.is_empty() {
                tell_late(conn, realm, &row.id, lines.iter().map(|line| line.amount).sum(), now)?;
            }
            let state = if is_open { "frozen" } else { "late" };
            let frozen = Frozen { state, reason: None, org_id: Some(org.org_id), invoice };
            frozen::note(conn, realm, &of, frozen, now).map_err(Error::from)
        })?;
        Ok(true)
    }
}

impl DraftInvoice {
    fn takes_items(&self, now: At) -> bool {
        let deadline = self.automatically_finalizes_at.map(|at| {
            let created = DateTime::from_timestamp(self.created, 0).unwrap_or(now);
            let final_at = DateTime::from_timestamp(at, 0).unwrap_or(now);
            (created + TIME_FOR_ITEMS).max(final_at - TIME_FOR_ITEMS).min(final_at - BEFORE_FINAL)
        });
        self.status.as_deref() == Some("draft") && deadline.is_none_or(|deadline| now < deadline)
    }
}

/// Notes that usage came too late for its invoice.
pub(super) fn tell_late(
    conn: &mut PgConnection,
    realm: &Realm,
    invoice: &str,
    amount: i64,
    now: At,
) -> Result<(), Error> {
    let late = NewDrift {
        kind: DriftKind::Usage,
        object: "invoice".to_owned(),
        object_id: invoice.to_owned(),
        fields: vec!["lines".to_owned()],
        ours: Some(amount.to_string()),
        theirs: Some("0".to_owned()),
        detail: "the invoice took no items any more: its usage is charged with the customer's next invoice"
            .to_owned(),
        inbox_id: None,
        run_id: None,
    };
    drift::write(conn, realm, &[late], now)
}

/// Invoices of cycles that are not frozen yet, the oldest first.
fn cycles(
    conn: &mut PgConnection,
    realm: &Realm,
    since: At,
    now: At,
    freeze_after: TimeDelta,
) -> QueryResult<Vec<CycleRow>> {
    diesel::sql_query(
        "SELECT i.id, i.customer_id, r.org_id, i.period_end, s.trial_end
         FROM invoices i
         LEFT JOIN subscriptions s
             ON (s.account, s.livemode, s.id) = (i.account, i.livemode, i.subscription_id)
         LEFT JOIN stripe_customer_links l
             ON (l.account, l.livemode, l.customer_id) = (i.account, i.livemode, i.customer_id)
         LEFT JOIN org_refs r ON r.ref = l.ref
         LEFT JOIN stripe_freezes f ON (f.account, f.livemode, f.object, f.object_id)
             = (i.account, i.livemode, 'invoice', i.id)
         WHERE (i.account, i.livemode) = ($1, $2) AND i.billing_reason = 'subscription_cycle'
             AND i.created >= $4 AND i.period_end > $3 AND NOT i.deleted
             AND (f.object_id IS NULL OR f.state = 'waiting' AND f.next_attempt_at <= $5)
             AND i.period_end <= $6
         ORDER BY i.created, i.id LIMIT 200",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(since)
    .bind::<Timestamptz, _>(now - LOOK_BACK)
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(now - freeze_after)
    .load(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_takes_items_well_before_it_is_final() {
        let draft = |status: &str, final_at| DraftInvoice {
            status: Some(status.to_owned()),
            currency: "usd".to_owned(),
            created: 0,
            automatically_finalizes_at: final_at,
        };
        let minute = |minutes: i64| DateTime::from_timestamp(minutes * 60, 0).expect("a time");
        for (draft, at, takes) in [
            (draft("draft", Some(3600)), 54, true),
            (draft("draft", Some(3600)), 55, false),
            (draft("open", Some(3600)), 1, false),
            // It is final sooner, or later, than after an hour; or when somebody says so.
            (draft("draft", Some(600)), 8, true),
            (draft("draft", Some(600)), 9, false),
            (draft("draft", Some(72 * 3600)), 71 * 60 + 4, true),
            (draft("draft", Some(72 * 3600)), 71 * 60 + 5, false),
            (draft("draft", None), 100_000, true),
        ] {
            assert_eq!(draft.takes_items(minute(at)), takes, "{:?} {at}", draft.automatically_finalizes_at);
        }
    }
}
