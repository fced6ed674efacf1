//! Erasure of an org's personal data. What the law asks to keep stays: issued documents, entries, payments,
//! amounts (`docs/design/erasure.md`). Owns `org_erasures` and `stripe_inbox_erased`.
//!
//! A command erases what is in our own tables at once. A worker walks through the Stripe inbox, takes the
//! personal fields out of the events of the org's customers, and has them projected again. So the mirrors
//! lose the fields too, and a rebuild finds what is stored.

pub mod redact;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text, Timestamptz};
use serde::Serialize;
use utoipa::ToSchema;

use crate::billing::directory::{self, Change};
use crate::billing::links;
use crate::error::Error;
use crate::realm::RealmSelector;

/// Numbers of the inbox that one step looks at.
const STEP: i64 = 2_000;

/// How an erasure stands.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct Erasure {
    /// Public id of the org.
    #[diesel(sql_type = Text)]
    pub org: String,
    /// When it was asked for, the last time.
    #[diesel(sql_type = Timestamptz)]
    pub requested_at: DateTime<Utc>,
    /// When the Stripe events were done; null: they are being worked on.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub finished_at: Option<DateTime<Utc>>,
    /// Stripe events whose personal fields are gone.
    #[diesel(sql_type = BigInt)]
    pub events: i64,
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Bool)]
    found: bool,
}

/// What must end before an org may be erased: otherwise personal data would come again, or a bill be lost.
const BLOCKERS: &[(&str, &str, &str)] = &[
    (
        "org_has_drafts",
        "the org has drafts of invoices: finalise or delete them first",
        "SELECT EXISTS (SELECT FROM own_invoices WHERE org_id = $1 AND finalized_at IS NULL) AS found",
    ),
    (
        "org_has_subscription",
        "a local subscription of the org is running: cancel it first",
        "SELECT EXISTS (SELECT FROM local_subscriptions WHERE org_id = $1 AND status IN ('trial', 'active')
             AND ended_at IS NULL) AS found",
    ),
    (
        "org_has_subscription",
        "a Stripe subscription of the org is running: cancel it first",
        "SELECT EXISTS (SELECT FROM org_refs r JOIN stripe_customer_links l USING (ref)
             JOIN subscriptions s
                 ON (s.account, s.livemode, s.customer_id) = (l.account, l.livemode, l.customer_id)
             WHERE r.org_id = $1 AND s.status IN ('trialing', 'active', 'past_due', 'unpaid', 'paused'))
             AS found",
    ),
];

/// Erases an org, or goes on after new Stripe events have come. `confirm` must be its public id.
///
/// # Errors
/// [`Error::Invalid`] for a wrong `confirm`; [`Error::Conflict`] when something must end first.
pub fn erase(
    conn: &mut PgConnection,
    (org_id, public_id): (i64, &str),
    confirm: &str,
    now: DateTime<Utc>,
) -> Result<Erasure, Error> {
    if confirm != public_id {
        let rule = format!("must be `{public_id}`, the id of the org: what is erased never comes back");
        return Err(Error::invalid("confirm", rule));
    }
    for (code, what, sql) in BLOCKERS {
        let row: Found = diesel::sql_query(*sql).bind::<BigInt, _>(org_id).get_result(conn)?;
        if row.found {
            return Err(Error::conflict(code, *what));
        }
    }
    keep_links(conn, org_id, public_id)?;
    erase_own(conn, org_id, public_id, now)?;
    begin_walk(conn, org_id, now)?;
    directory::changed(conn, [Change::Org(org_id)])?;
    find(conn, org_id)
}

#[derive(QueryableByName)]
struct LinkedCustomer {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    customer_id: String,
}

/// Links the org's customers by its public id: the names that they have in Stripe's metadata will go.
fn keep_links(conn: &mut PgConnection, org_id: i64, public_id: &str) -> Result<(), Error> {
    let customers: Vec<LinkedCustomer> = diesel::sql_query(
        "SELECT l.account, l.livemode, l.customer_id FROM org_refs r JOIN stripe_customer_links l USING (ref)
         WHERE r.org_id = $1 ORDER BY 1, 2, 3",
    )
    .bind::<BigInt, _>(org_id)
    .load(conn)?;
    for LinkedCustomer { account, livemode, customer_id } in customers {
        let realm = RealmSelector { account: Some(account), livemode: Some(livemode) };
        links::link(conn, &realm, &customer_id, public_id)?;
    }
    Ok(())
}

/// Erases what is in our own tables.
fn erase_own(conn: &mut PgConnection, org_id: i64, public_id: &str, now: DateTime<Utc>) -> Result<(), Error> {
    let mut salt = [0_u8; 32];
    getrandom::fill(&mut salt).map_err(|error| Error::Internal(format!("no random numbers: {error}")))?;
    // Nobody keeps the salt: names that were alike stay alike, and nobody can guess them.
    let salt = hex::encode(salt);
    let of_org = [
        "UPDATE orgs SET name = 'erased', external_id = NULL, metadata = '{}',
             suspension_reason = CASE WHEN suspended_at IS NOT NULL THEN 'erased' END,
             erased_at = coalesce(erased_at, $2)
         WHERE org_id = $1",
        "UPDATE api_keys SET name = 'erased', revoked_at = coalesce(revoked_at, $2) WHERE org_id = $1",
        "UPDATE billing_profiles SET party = '{\"name\": \"erased\"}', automatic = false, updated_at = $2,
             terms = jsonb_build_object('party', '{\"name\": \"erased\"}'::jsonb, 'automatic', false,
                 'currency', terms -> 'currency')
         WHERE org_id = $1",
        "UPDATE outbox_messages SET payload = '{}', object = NULL WHERE org_id = $1 AND created_at <= $2",
        // What receivers answered may repeat a message.
        "UPDATE message_attempts a SET excerpt = NULL FROM message_deliveries d
         WHERE (a.org_id, a.endpoint_id, a.sequence) = (d.org_id, d.endpoint_id, d.sequence)
             AND (d.org_id = $1 OR d.message_org_id = $1) AND a.at <= $2 AND a.excerpt IS NOT NULL",
        "UPDATE message_endpoints SET url = 'https://erased.invalid/', description = '', enabled = false,
             disabled_reason = 'erased', disabled_at = coalesce(disabled_at, $2), updated_at = $2
         WHERE org_id = $1",
        "DELETE FROM quota_exemptions WHERE org_id = $1 AND created_at <= $2",
        "DELETE FROM idempotency_keys WHERE org_id = $1 AND created_at <= $2",
    ];
    for sql in of_org {
        diesel::sql_query(sql).bind::<BigInt, _>(org_id).bind::<Timestamptz, _>(now).execute(conn)?;
    }
    let named = [
        "DELETE FROM org_refs WHERE org_id = $1 AND ref <> $2",
        // Answers of the platform's commands, kept for replays.
        "DELETE FROM idempotency_keys WHERE org_id = 0 AND $1 = $1 AND position($2 IN body) > 0",
    ];
    for sql in named {
        diesel::sql_query(sql).bind::<BigInt, _>(org_id).bind::<Text, _>(public_id).execute(conn)?;
    }
    let members = [
        "UPDATE usage_series SET member = erased_name($2, member)
         WHERE org_id = $1 AND member NOT LIKE 'erased-%'",
        "UPDATE quota_counters SET subject = erased_name($2, subject)
         WHERE org_id = $1 AND subject <> '' AND subject NOT LIKE 'erased-%'",
        "UPDATE usage_levels SET subject = erased_name($2, subject)
         WHERE org_id = $1 AND subject <> '' AND subject NOT LIKE 'erased-%'",
        "UPDATE quota_reservations SET
             subject = CASE WHEN subject <> '' THEN erased_name($2, subject) ELSE subject END,
             member = erased_name($2, member)
         WHERE org_id = $1",
        "SELECT erase_entries($1, $2)",
    ];
    for sql in members {
        diesel::sql_query(sql).bind::<BigInt, _>(org_id).bind::<Text, _>(&salt).execute(conn)?;
    }
    Ok(())
}

/// Puts the walk through the inbox on record. A second erasure walks again, past what is done.
fn begin_walk(conn: &mut PgConnection, org_id: i64, now: DateTime<Utc>) -> Result<(), Error> {
    diesel::sql_query(
        "WITH own AS (
             SELECT l.account, l.livemode, l.customer_id
             FROM org_refs r JOIN stripe_customer_links l USING (ref) WHERE r.org_id = $1
         ), paid AS (
             SELECT p.account, p.livemode, p.payment_intent_id, p.charge_id
             FROM payments p JOIN own USING (account, livemode, customer_id)
         ), named AS (
             SELECT f.id FROM refunds f JOIN paid p ON (f.account, f.livemode) = (p.account, p.livemode)
                 AND (f.charge_id = p.charge_id OR f.payment_intent_id = p.payment_intent_id)
             UNION
             SELECT d.id FROM disputes d JOIN paid p ON (d.account, d.livemode) = (p.account, p.livemode)
                 AND (d.charge_id = p.charge_id OR d.payment_intent_id = p.payment_intent_id)
         )
         INSERT INTO org_erasures AS e
             (org_id, requested_at, customers, objects, next_inbox_id, last_inbox_id)
         SELECT $1, $2, coalesce((SELECT array_agg(DISTINCT customer_id) FROM own), '{}'),
             coalesce((SELECT array_agg(id) FROM named), '{}'), 0,
             coalesce((SELECT max(inbox_id) FROM stripe_inbox), 0)
         ON CONFLICT (org_id) DO UPDATE SET requested_at = excluded.requested_at,
             customers = excluded.customers, objects = excluded.objects, next_inbox_id = 0,
             last_inbox_id = excluded.last_inbox_id, finished_at = NULL",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    Ok(())
}

/// How the erasure of an org stands.
///
/// # Errors
/// [`Error::NotFound`] when the org was never erased.
pub fn find(conn: &mut PgConnection, org_id: i64) -> Result<Erasure, Error> {
    diesel::sql_query(
        "SELECT o.public_id AS org, e.requested_at, e.finished_at, e.events
         FROM org_erasures e JOIN orgs o USING (org_id) WHERE e.org_id = $1",
    )
    .bind::<BigInt, _>(org_id)
    .get_result(conn)
    .optional()?
    .ok_or(Error::NotFound("erasure"))
}

/// How many Stripe events have lost their personal fields, for `coulomb verify`.
pub fn erased_events(conn: &mut PgConnection) -> QueryResult<i64> {
    use crate::schema::stripe_inbox_erased::dsl::stripe_inbox_erased;
    stripe_inbox_erased.count().get_result(conn)
}

#[derive(QueryableByName)]
struct Walk {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Array<Text>)]
    customers: Vec<String>,
    #[diesel(sql_type = Array<Text>)]
    objects: Vec<String>,
    #[diesel(sql_type = BigInt)]
    next_inbox_id: i64,
}

#[derive(QueryableByName)]
struct Body {
    #[diesel(sql_type = BigInt)]
    inbox_id: i64,
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

/// Takes the personal fields out of some events. Returns whether there is more to do. Another daemon that
/// works on the same erasure is left to it.
///
/// # Errors
/// The database fails.
pub fn step(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<bool, Error> {
    let walk: Option<Walk> = diesel::sql_query(
        "SELECT org_id, customers, objects, next_inbox_id FROM org_erasures
         WHERE finished_at IS NULL ORDER BY requested_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .get_result(conn)
    .optional()?;
    let Some(walk) = walk else { return Ok(false) };
    let end = walk.next_inbox_id + STEP;
    // An id stands in quotes, so that `cus_1` is not found in `cus_12`.
    let patterns: Vec<Vec<u8>> = walk.customers.iter().map(|id| format!("\"{id}\"").into_bytes()).collect();
    let bodies: Vec<Body> = diesel::sql_query(
        "SELECT i.inbox_id, i.body FROM stripe_inbox i
         WHERE i.inbox_id >= $1 AND i.inbox_id < $2
             AND (i.object_id = ANY ($4) OR EXISTS (
                 SELECT FROM unnest($3) AS p (id) WHERE position(p.id IN i.body) > 0))
             AND NOT EXISTS (SELECT FROM stripe_inbox_erased e WHERE e.inbox_id = i.inbox_id)
         ORDER BY i.inbox_id",
    )
    .bind::<BigInt, _>(walk.next_inbox_id)
    .bind::<BigInt, _>(end)
    .bind::<Array<Binary>, _>(&patterns)
    .bind::<Array<Text>, _>(&walk.objects)
    .load(conn)?;
    for Body { inbox_id, body } in &bodies {
        diesel::sql_query("SELECT erase_inbox_body($1, $2, $3, $4)")
            .bind::<BigInt, _>(walk.org_id)
            .bind::<BigInt, _>(inbox_id)
            // What is no JSON has no fields that could stay.
            .bind::<Binary, _>(redact::redact(body).unwrap_or_else(|_| b"{}".to_vec()))
            .bind::<Timestamptz, _>(now)
            .execute(conn)?;
    }
    diesel::sql_query("INSERT INTO stripe_inbox_queue (inbox_id) SELECT unnest($1) ON CONFLICT DO NOTHING")
        .bind::<Array<BigInt>, _>(bodies.iter().map(|row| row.inbox_id).collect::<Vec<_>>())
        .execute(conn)?;
    diesel::sql_query(
        "UPDATE org_erasures SET next_inbox_id = $2, events = events + $3,
             finished_at = CASE WHEN $2 > last_inbox_id THEN $4 END
         WHERE org_id = $1",
    )
    .bind::<BigInt, _>(walk.org_id)
    .bind::<BigInt, _>(end)
    .bind::<BigInt, _>(i64::try_from(bodies.len()).unwrap_or(i64::MAX))
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    Ok(true)
}
