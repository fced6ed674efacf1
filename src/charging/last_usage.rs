//! The last usage of an ended subscription. Stripe makes no further invoice for it, so it gets an invoice
//! of its own (tuist/tuist#11903 lost it). What comes to less than nothing waits: there is nothing to take
//! it off.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, SmallInt, Text, Timestamptz};
use serde::Deserialize;

use super::Turn;
use super::frozen::{self, Freezing, Frozen, LineTarget};
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::client::{Call, CallError, StripeClient};

type At = DateTime<Utc>;

/// Why a line waits: the customer has no subscription that would make another invoice.
pub(super) const NO_NEXT_INVOICE: &str = "no_next_invoice";
/// Ends of so long ago are looked at.
pub(super) const LOOK_BACK: TimeDelta = TimeDelta::days(35);
/// Days until an invoice is due that is sent, because there is nothing to charge automatically.
const DAYS_UNTIL_DUE: &str = "30";
/// The metadata of an invoice that names its first line.
const MARK: &str = "coulomb_charge";

#[derive(QueryableByName)]
struct EndedRow {
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Text)]
    customer_id: String,
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = Timestamptz)]
    ended_at: At,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    trial_end: Option<At>,
}

/// Lines of a customer that no other invoice will have.
#[derive(Clone, Debug, QueryableByName)]
struct Unplaced {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    customer_id: String,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = Array<Text>)]
    charges: Vec<String>,
    /// Of the customer's last subscription.
    #[diesel(sql_type = Nullable<Text>)]
    collection_method: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    payment_method: Option<String>,
    #[diesel(sql_type = Bool)]
    has_default: bool,
    /// How often Stripe failed to make the invoice.
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
}

#[derive(Deserialize)]
struct MadeInvoice {
    id: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct InvoicePage {
    data: Vec<MadeInvoice>,
}

impl Turn<'_> {
    /// Freezes what ended subscriptions used last, and makes invoices for it.
    pub(super) fn charge_last_usage(&mut self) -> Result<(), Error> {
        if self.has_invoice_items()? {
            let until = self.now() - self.options.freeze_after;
            for row in ended(self.conn, self.realm, until, self.now(), EndedChoice::New)? {
                self.freeze_end(&row)?;
            }
        }
        for unplaced in unplaced(self.conn, self.realm, self.now())? {
            if (self.is_stopped)() || !self.make_invoice(&unplaced)? {
                break;
            }
        }
        Ok(())
    }

    /// Looks again for usage of ended subscriptions that came late.
    pub(super) fn find_late_usage(&mut self) -> Result<(), Error> {
        if !self.has_invoice_items()? {
            return Ok(());
        }
        let mut after = (DateTime::UNIX_EPOCH, String::new());
        loop {
            let choice = EndedChoice::FrozenAfter(&after);
            let rows = ended(self.conn, self.realm, self.now(), self.now(), choice)?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = (last.ended_at, last.id.clone());
            for row in &rows {
                self.freeze_end(row)?;
            }
        }
    }

    fn has_invoice_items(&mut self) -> Result<bool, Error> {
        Ok(!frozen::meters(self.conn, &self.realm.account)?.is_empty())
    }

    fn freeze_end(&mut self, row: &EndedRow) -> Result<(), Error> {
        let of = Freezing { object: "subscription", object_id: row.id.clone() };
        let org = self.org(row.org_id)?;
        let (realm, now) = (self.realm, self.now());
        let org_id = Some(row.org_id);
        let period = org.periods.at(row.ended_at - TimeDelta::milliseconds(1));
        let skipped = if period.is_none_or(|period| period.1 != row.ended_at) {
            Some("other_subscription")
        } else if row.trial_end.is_some_and(|trial_end| row.ended_at <= trial_end) {
            Some("trial")
        } else {
            None
        };
        if skipped.is_some() {
            let frozen = Frozen { state: "skipped", reason: skipped, org_id, invoice: None };
            frozen::note(self.conn, realm, &of, frozen, now)?;
            return Ok(());
        }
        self.conn.transaction(|conn| {
            let periods = frozen::periods_before(&org, row.ended_at);
            let meters = frozen::meters(conn, &realm.account)?;
            let lines = frozen::new_lines(conn, &org, &meters, &periods, &row.currency)?;
            let target = LineTarget {
                org_id: row.org_id,
                customer: &row.customer_id,
                currency: &row.currency,
                invoice: None,
                waits: Some(NO_NEXT_INVOICE),
            };
            frozen::write_lines(conn, realm, &target, &lines, now)?;
            let frozen = Frozen { state: "frozen", reason: None, org_id, invoice: None };
            frozen::note(conn, realm, &of, frozen, now).map_err(Error::from)
        })
    }

    /// Makes an invoice for lines that no other one will have, and plans the lines for it. False: the
    /// account's calls fail.
    fn make_invoice(&mut self, unplaced: &Unplaced) -> Result<bool, Error> {
        let Some(first) = unplaced.charges.iter().min() else { return Ok(true) };
        let of = Freezing { object: "charge", object_id: first.clone() };
        let (realm, now) = (self.realm, self.now());
        // The intent is committed before the call: after a crash the invoice is looked for.
        frozen::postpone(self.conn, realm, &of, "its invoice is being made", now)?;
        let client = self.sync.client().clone();
        match self.wait(make(&client, realm, unplaced, first)) {
            Ok(invoice) => {
                self.conn.transaction(|conn| {
                    place(conn, unplaced, &invoice, now)?;
                    let org_id = Some(unplaced.org_id);
                    let frozen = Frozen { state: "frozen", reason: None, org_id, invoice: Some(&invoice) };
                    frozen::note(conn, realm, &of, frozen, now)
                })?;
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(customer = unplaced.customer_id, %error, "an invoice for the last usage of a \
                    subscription cannot be made yet");
                frozen::postpone(self.conn, realm, &of, &error.to_string(), now)?;
                Ok(!error.is_of_key())
            }
        }
    }
}

/// Makes the invoice, or finds the one that was made before.
async fn make(
    client: &StripeClient,
    realm: &Realm,
    unplaced: &Unplaced,
    first: &str,
) -> Result<String, CallError> {
    if unplaced.attempts > 0 {
        let query = [("customer", unplaced.customer_id.as_str()), ("limit", "100")];
        let call = Call::get("/v1/invoices", &query).of(&realm.account);
        let page: InvoicePage = client.send(&call).await?.read()?;
        let mut invoices = page.data.into_iter();
        if let Some(made) = invoices.find(|one| one.metadata.get(MARK).is_some_and(|mark| mark == first)) {
            return Ok(made.id);
        }
    }
    let mut form = vec![
        ("customer", unplaced.customer_id.as_str()),
        ("currency", &unplaced.currency),
        ("auto_advance", "true"),
        // Its lines name it. Other items wait for the invoice that they are meant for.
        ("pending_invoice_items_behavior", "exclude"),
        ("metadata[coulomb_charge]", first),
    ];
    let is_charged = unplaced.collection_method.as_deref() != Some("send_invoice")
        && (unplaced.has_default || unplaced.payment_method.is_some());
    if is_charged {
        form.push(("collection_method", "charge_automatically"));
        if let Some(method) = unplaced.payment_method.as_deref().filter(|_| !unplaced.has_default) {
            form.push(("default_payment_method", method));
        }
    } else {
        form.extend([("collection_method", "send_invoice"), ("days_until_due", DAYS_UNTIL_DUE)]);
    }
    let key = format!("coulomb-invoice-{first}-{}", unplaced.attempts);
    let made: MadeInvoice =
        client.send(&Call::post("/v1/invoices", &form, &key).of(&realm.account)).await?.read()?;
    Ok(made.id)
}

/// Which ended subscriptions are wanted.
#[derive(Clone, Copy, Debug)]
enum EndedChoice<'a> {
    /// Those that were not looked at.
    New,
    /// Those that were frozen already, after this end and id.
    FrozenAfter(&'a (At, String)),
}

/// Subscriptions that ended until a time, the oldest end first, at most 200.
fn ended(
    conn: &mut PgConnection,
    realm: &Realm,
    until: At,
    now: At,
    choice: EndedChoice<'_>,
) -> QueryResult<Vec<EndedRow>> {
    let after = match choice {
        EndedChoice::New => None,
        EndedChoice::FrozenAfter(after) => Some(after),
    };
    diesel::sql_query(
        "SELECT s.id, s.customer_id, r.org_id, s.currency, s.ended_at, s.trial_end
         FROM subscriptions s
         JOIN stripe_customer_links l
             ON (l.account, l.livemode, l.customer_id) = (s.account, s.livemode, s.customer_id)
         JOIN org_refs r ON r.ref = l.ref
         LEFT JOIN stripe_freezes f ON (f.account, f.livemode, f.object, f.object_id)
             = (s.account, s.livemode, 'subscription', s.id)
         WHERE (s.account, s.livemode) = ($1, $2) AND s.status = 'canceled' AND s.currency IS NOT NULL
             AND s.ended_at > $3 AND s.ended_at <= $4
             AND CASE WHEN $5 IS NULL THEN f.object_id IS NULL
                 ELSE f.state = 'frozen' AND (s.ended_at, s.id) > ($5, $6) END
         ORDER BY s.ended_at, s.id LIMIT 200",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now - LOOK_BACK)
    .bind::<Timestamptz, _>(until)
    .bind::<Nullable<Timestamptz>, _>(after.map(|after| after.0))
    .bind::<Nullable<Text>, _>(after.map(|after| after.1.as_str()))
    .load(conn)
}

/// Lines that no other invoice will have, by customer and currency, where they come to more than nothing.
fn unplaced(conn: &mut PgConnection, realm: &Realm, now: At) -> QueryResult<Vec<Unplaced>> {
    diesel::sql_query(
        "WITH waiting AS (
            SELECT c.org_id, c.customer_id, c.currency, array_agg(c.charge_id ORDER BY c.charge_id) AS charges
            FROM stripe_charges c
            WHERE c.state = 'waiting' AND c.way = 'invoice_items' AND c.reason = $3
                AND (c.account, c.livemode) = ($1, $2) AND c.customer_id IS NOT NULL
            GROUP BY 1, 2, 3 HAVING sum(c.amount) > 0)
         SELECT w.org_id, w.customer_id, w.currency, w.charges, s.collection_method,
             s.default_payment_method_id AS payment_method,
             coalesce(k.default_payment_method_id, k.default_source_id) IS NOT NULL AS has_default,
             coalesce(f.attempts, 0::smallint) AS attempts
         FROM waiting w
         LEFT JOIN customers k ON (k.account, k.livemode, k.id) = ($1, $2, w.customer_id)
         LEFT JOIN LATERAL (
             SELECT b.collection_method, b.default_payment_method_id FROM subscriptions b
             WHERE (b.account, b.livemode, b.customer_id) = ($1, $2, w.customer_id)
             ORDER BY b.ended_at DESC NULLS LAST, b.id LIMIT 1) s ON true
         LEFT JOIN stripe_freezes f ON (f.account, f.livemode, f.object, f.object_id)
             = ($1, $2, 'charge', w.charges[1])
         WHERE f.object_id IS NULL OR f.next_attempt_at <= $4
         ORDER BY 1, 2, 3 LIMIT 100",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(NO_NEXT_INVOICE)
    .bind::<Timestamptz, _>(now)
    .load(conn)
}

/// Plans lines for the invoice that was made for them.
fn place(conn: &mut PgConnection, unplaced: &Unplaced, invoice: &str, now: At) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET state = 'planned', reason = NULL, invoice_id = $3, next_attempt_at = $4
         WHERE org_id = $1 AND charge_id = ANY ($2) AND state = 'waiting'",
    )
    .bind::<BigInt, _>(unplaced.org_id)
    .bind::<Array<Text>, _>(&unplaced.charges)
    .bind::<Text, _>(invoice)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .map(drop)
}
