//! What mirrors tell the outside: messages about Stripe's invoices, payments, refunds, disputes and
//! subscriptions, and about plans of orgs.
//!
//! The worker of effects calls this with the markers of what changed, in its transaction. A message has a key
//! of the fact that it reports, so events that come twice, in another order or after a rebuild write none a
//! second time. Objects whose customer gets its org later are told then, by the customer's marker.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz};
use serde_json::{Value, json};

use super::markers::{self, Marker};
use super::org_plan::{AsOf, clock, with_plan};
use crate::error::Error;
use crate::messages::{self, NewMessage, kinds};
use crate::realm::Realm;

/// Older facts are not told: whoever imports a past does not want a message about each year of it.
const TOLD_DAYS: i64 = 7;

/// SQL: the markers as `k`, and as `c` the customers that have an org since now.
macro_rules! changed {
    ($rest:expr) => {
        concat!(
            "WITH k AS (SELECT * FROM unnest($1, $2, $3, $4) AS k (account, livemode, kind, id)),
             c AS (
                 SELECT account, livemode, id AS customer_id FROM k WHERE kind = 'customer'
                 UNION
                 SELECT l.account, l.livemode, l.customer_id
                 FROM k JOIN stripe_customer_links l ON l.ref = k.id WHERE k.kind = 'org'), ",
            $rest
        )
    };
}

const INVOICES: &str = changed!(
    "n AS (
         SELECT account, livemode, id FROM k WHERE kind = 'invoice'
         UNION
         SELECT i.account, i.livemode, i.id FROM c JOIN invoices i USING (account, livemode, customer_id)
         WHERE i.created >= $5 - interval '60 days')
     SELECT r.org_id, t.kind, concat('stripe:invoice:', i.account, i.id, ':', t.kind) AS dedupe_key,
         t.data || jsonb_build_object('invoice', i.id, 'origin', 'stripe', 'number', i.number,
             'currency', i.currency, 'total', i.total) AS data, to_jsonb(i) AS object
     FROM n JOIN invoices i USING (account, livemode, id)
     JOIN stripe_customer_links l USING (account, livemode, customer_id)
     JOIN org_refs r USING (ref)
     CROSS JOIN LATERAL (VALUES
         ('invoice.finalized', i.finalized_at, jsonb_build_object(
             'amount_remaining', i.amount_remaining, 'due_date', (i.due_at AT TIME ZONE 'UTC')::date)),
         ('invoice.paid', CASE WHEN i.status = 'paid' THEN i.paid_at END,
             jsonb_build_object('paid_at', i.paid_at))) t (kind, at, data)
     WHERE t.at >= $5 AND NOT i.deleted"
);

const FAILED_PAYMENTS: &str = changed!(
    "n AS (
         SELECT account, livemode, id FROM k WHERE kind = 'charge'
         UNION
         SELECT h.account, h.livemode, h.id FROM c JOIN charges h USING (account, livemode, customer_id)
         WHERE h.status = 'failed' AND h.created >= $5)
     SELECT r.org_id, 'payment.failed' AS kind,
         concat('stripe:charge:', h.account, h.id, ':failed') AS dedupe_key,
         jsonb_build_object('payment', coalesce(h.payment_intent_id, h.id), 'charge', h.id,
             'origin', 'stripe', 'invoice', h.invoice_id, 'currency', h.currency, 'amount', h.amount,
             'failure_code', h.failure_code, 'failure_message', h.failure_message) AS data,
         to_jsonb(h) AS object
     FROM n JOIN charges h USING (account, livemode, id)
     LEFT JOIN invoices i ON (i.account, i.livemode, i.id) = (h.account, h.livemode, h.invoice_id)
     JOIN stripe_customer_links l ON (l.account, l.livemode, l.customer_id)
         = (h.account, h.livemode, coalesce(h.customer_id, i.customer_id))
     JOIN org_refs r USING (ref)
     WHERE h.status = 'failed' AND h.created >= $5"
);

/// SQL: refunds or disputes, by their own markers, by those of their payment, or by those of its customer.
macro_rules! returns {
    ($table:literal, $object:literal, $rest:literal) => {
        changed!(concat!(
            "n AS (
                 SELECT account, livemode, id FROM k WHERE kind = '",
            $object,
            "'
                 UNION
                 SELECT f.account, f.livemode, f.id FROM k JOIN ",
            $table,
            " f
                     ON (f.account, f.livemode, f.charge_id) = (k.account, k.livemode, k.id)
                 WHERE k.kind = 'charge'
                 UNION
                 SELECT f.account, f.livemode, f.id FROM k JOIN ",
            $table,
            " f
                     ON (f.account, f.livemode, f.payment_intent_id) = (k.account, k.livemode, k.id)
                 WHERE k.kind = 'payment_intent'
                 UNION
                 SELECT f.account, f.livemode, f.id
                 FROM c JOIN payments y USING (account, livemode, customer_id)
                 JOIN ",
            $table,
            " f
                     ON (f.account, f.livemode, f.charge_id) = (y.account, y.livemode, y.charge_id)
                 WHERE f.created >= $5),
             w AS (
                 SELECT f.*, h.invoice_id,
                     coalesce((SELECT to_timestamp(e.created) FROM stripe_inbox e
                         WHERE e.inbox_id = o.inbox_id AND e.origin <> 'fetch'), f.created) AS seen_at,
                     coalesce(h.customer_id, p.customer_id, i.customer_id) AS customer_id
                 FROM n JOIN ",
            $table,
            " f USING (account, livemode, id)
                 LEFT JOIN stripe_objects o ON (o.account, o.livemode, o.object, o.object_id)
                     = (f.account, f.livemode, '",
            $object,
            "', f.id)
                 LEFT JOIN charges h
                     ON (h.account, h.livemode, h.id) = (f.account, f.livemode, f.charge_id)
                 LEFT JOIN payment_intents p
                     ON (p.account, p.livemode, p.id) = (f.account, f.livemode, f.payment_intent_id)
                 LEFT JOIN invoices i
                     ON (i.account, i.livemode, i.id) = (h.account, h.livemode, h.invoice_id)) ",
            $rest
        ))
    };
}

const REFUNDS: &str = returns!(
    "refunds",
    "refund",
    "SELECT r.org_id, 'payment.refunded' AS kind,
         concat('stripe:refund:', w.account, w.id) AS dedupe_key,
         jsonb_build_object('refund', w.id, 'payment', coalesce(w.payment_intent_id, w.charge_id),
             'origin', 'stripe', 'invoice', w.invoice_id, 'currency', w.currency, 'amount', w.amount,
             'reason', w.reason) AS data,
         to_jsonb(w) - 'seen_at' AS object
     FROM w JOIN stripe_customer_links l USING (account, livemode, customer_id)
     JOIN org_refs r USING (ref)
     WHERE w.status = 'succeeded' AND w.seen_at >= $5"
);

const DISPUTES: &str = returns!(
    "disputes",
    "dispute",
    "SELECT r.org_id, t.kind, concat('stripe:dispute:', w.account, w.id, t.key) AS dedupe_key,
         jsonb_build_object('dispute', w.id, 'payment', coalesce(w.payment_intent_id, w.charge_id),
             'origin', 'stripe', 'invoice', w.invoice_id, 'currency', w.currency, 'amount', w.amount,
             'status', w.status, 'reason', w.reason, 'evidence_due_by', w.evidence_due_by) AS data,
         to_jsonb(w) - 'seen_at' AS object
     FROM w JOIN stripe_customer_links l USING (account, livemode, customer_id)
     JOIN org_refs r USING (ref)
     CROSS JOIN LATERAL (VALUES
         ('dispute.created', '', w.created),
         ('dispute.closed', ':' || w.status, CASE WHEN w.status
             IN ('won', 'lost', 'prevented', 'charge_refunded', 'warning_closed') THEN w.seen_at END))
         t (kind, key, at)
     WHERE t.at >= $5"
);

/// A subscription that the daemon read, and that no message told before, is told only if it is new: nobody
/// wants a message for each old subscription that is brought in.
///
/// The key of a subscription's state holds the time of its event and a digest of the facts: a state that
/// equals the last one told is not told again.
const SUBSCRIPTIONS: &str = changed!(
    "n AS (
         SELECT account, livemode, id FROM k WHERE kind = 'subscription'
         UNION
         SELECT s.account, s.livemode, s.id
         FROM c JOIN subscriptions s USING (account, livemode, customer_id)),
     w AS (
         SELECT s.*, r.org_id, e.created AS seen, to_timestamp(e.created) AS seen_at,
             e.origin = 'fetch' AS fetched,
             concat('stripe:subscription:', s.account, s.id, ':') AS prefix,
             (SELECT coalesce(jsonb_agg(jsonb_build_object('price', i.price_id, 'quantity', i.quantity)
                  ORDER BY i.item_number), '[]')
              FROM subscription_items i
              WHERE (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id)) AS items
         FROM n JOIN subscriptions s USING (account, livemode, id)
         JOIN stripe_objects o ON (o.account, o.livemode, o.object, o.object_id)
             = (s.account, s.livemode, 'subscription', s.id)
         JOIN stripe_inbox e ON e.inbox_id = o.inbox_id
         JOIN stripe_customer_links l ON (l.account, l.livemode, l.customer_id)
             = (s.account, s.livemode, s.customer_id)
         JOIN org_refs r USING (ref)),
     f AS (
         SELECT w.*, jsonb_build_object('subscription', w.id, 'origin', 'stripe', 'status', w.status,
                 'items', w.items, 'trial_end', w.trial_end, 'cancel_at', w.cancel_at,
                 'cancel_at_period_end', w.cancel_at_period_end,
                 'period_end', w.current_period_end, 'ended_at', w.ended_at) AS facts,
             (SELECT m.dedupe_key FROM outbox_messages m
              WHERE m.org_id = w.org_id AND m.dedupe_key >= w.prefix AND m.dedupe_key < w.prefix || ';'
              ORDER BY m.dedupe_key DESC LIMIT 1) AS last
         FROM w)
     SELECT f.org_id,
         CASE WHEN f.status IN ('canceled', 'incomplete_expired') THEN 'subscription.cancelled'
             WHEN f.last IS NULL AND f.created >= $5 THEN 'subscription.created'
             ELSE 'subscription.updated' END AS kind,
         concat(f.prefix, lpad(f.seen::text, 12, '0'), ':', md5(f.facts::text)) AS dedupe_key,
         f.facts AS data, 
         to_jsonb(f) - '{org_id,seen,seen_at,fetched,prefix,facts,last}'::text[] AS object
     FROM f
     WHERE f.seen_at >= $5 AND right(f.last, 32) IS DISTINCT FROM md5(f.facts::text)
         AND (NOT f.fetched OR f.last IS NOT NULL OR f.created >= $5)"
);

#[derive(QueryableByName)]
struct ToldRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    dedupe_key: String,
    #[diesel(sql_type = Jsonb)]
    data: Value,
    #[diesel(sql_type = Jsonb)]
    object: Value,
    /// Public id of the org.
    #[diesel(sql_type = Text)]
    org: String,
}

/// SQL: the rows with the public ids of their orgs.
fn with_org(sql: &str) -> String {
    format!("SELECT t.*, o.public_id AS org FROM ({sql}) t JOIN orgs o ON o.org_id = t.org_id")
}

/// Writes messages about what these markers name, and about plans that changed with it, in the caller's
/// transaction.
pub fn write_messages(conn: &mut PgConnection, markers: &BTreeSet<Marker>, as_of: AsOf) -> Result<(), Error> {
    let mut told = Vec::new();
    for (realm, markers) in by_realm(markers) {
        let oldest = oldest_told(conn, realm, as_of.now)?;
        load_told(conn, &markers, oldest, &mut told)?;
    }
    let of_plans = |row: &&ToldRow| row.kind.starts_with("subscription.") || row.kind.starts_with("invoice.");
    let orgs: BTreeSet<i64> = told.iter().filter(of_plans).map(|row| row.org_id).collect();
    messages::write(conn, told.into_iter().filter_map(message).collect(), as_of.now)?;
    write_plan_changes(conn, orgs, as_of)
}

/// The markers of each realm.
fn by_realm(markers: &BTreeSet<Marker>) -> BTreeMap<&Realm, Vec<&Marker>> {
    let mut realms: BTreeMap<&Realm, Vec<&Marker>> = BTreeMap::new();
    for marker in markers {
        realms.entry(&marker.realm).or_default().push(marker);
    }
    realms
}

/// The time of the oldest fact that is told: a week ago, and not before the account was first read.
fn oldest_told(conn: &mut PgConnection, realm: &Realm, now: DateTime<Utc>) -> QueryResult<DateTime<Utc>> {
    use crate::schema::stripe_accounts as a;
    let account = a::table.find((&realm.account, realm.livemode));
    let since: Option<DateTime<Utc>> = account.select(a::effects_since).first(conn).optional()?;
    let oldest = now - TimeDelta::days(TOLD_DAYS);
    Ok(since.map_or(oldest, |since| since.max(oldest)))
}

/// Adds what the markers of one realm tell.
fn load_told(
    conn: &mut PgConnection,
    markers: &[&Marker],
    oldest: DateTime<Utc>,
    told: &mut Vec<ToldRow>,
) -> Result<(), Error> {
    let of_customers = [markers::CUSTOMER, markers::ORG];
    for (sql, kinds) in [
        (INVOICES, &["invoice"][..]),
        (FAILED_PAYMENTS, &["charge"]),
        (REFUNDS, &["refund", "charge", "payment_intent"]),
        (DISPUTES, &["dispute", "charge", "payment_intent"]),
        (SUBSCRIPTIONS, &["subscription"]),
    ] {
        let is_of_interest = |marker: &&&Marker| {
            kinds.contains(&marker.kind.as_str()) || of_customers.contains(&marker.kind.as_str())
        };
        let named: Vec<&Marker> = markers.iter().filter(is_of_interest).copied().collect();
        if !named.is_empty() {
            told.extend(load(conn, sql, &named, oldest)?);
        }
    }
    Ok(())
}

fn load(
    conn: &mut PgConnection,
    sql: &str,
    markers: &[&Marker],
    oldest: DateTime<Utc>,
) -> QueryResult<Vec<ToldRow>> {
    diesel::sql_query(with_org(sql))
        .bind::<Array<Text>, _>(markers.iter().map(|marker| &*marker.realm.account).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(markers.iter().map(|marker| marker.realm.livemode).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(markers.iter().map(|marker| &*marker.kind).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(markers.iter().map(|marker| &*marker.id).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(oldest)
        .load(conn)
}

/// Plans of orgs beside the number and plan of the last message about it.
const PLANS: &str = concat!(
    "WITH ",
    clock!("$1", "$2"),
    " SELECT o.org_id, o.plan_id, o.plan_version, o.source, o.subscription_id, o.by_default,
         split_part(m.dedupe_key, ':', 2) AS last_number, split_part(m.dedupe_key, ':', 3) AS last_plan
     FROM (",
    with_plan!(),
    " WHERE o.org_id = ANY ($3)) o
     LEFT JOIN LATERAL (
         SELECT m.dedupe_key FROM outbox_messages m
         WHERE m.org_id = o.org_id AND m.dedupe_key >= 'plan:' AND m.dedupe_key < 'plan;'
         ORDER BY m.dedupe_key DESC LIMIT 1) m ON true"
);

#[derive(QueryableByName)]
struct PlanRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Nullable<Text>)]
    plan_id: Option<String>,
    #[diesel(sql_type = Nullable<Integer>)]
    plan_version: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    source: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    subscription_id: Option<String>,
    #[diesel(sql_type = Bool)]
    by_default: bool,
    #[diesel(sql_type = Nullable<Text>)]
    last_number: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    last_plan: Option<String>,
}

/// Writes a message for each of these orgs whose plan is another than the one last told.
///
/// The key is the number of the message: of two transactions that find the same change, one writes it.
pub fn write_plan_changes(
    conn: &mut PgConnection,
    orgs: impl IntoIterator<Item = i64>,
    as_of: AsOf,
) -> Result<(), Error> {
    let orgs: Vec<i64> = orgs.into_iter().collect();
    if orgs.is_empty() {
        return Ok(());
    }
    let rows: Vec<PlanRow> = diesel::sql_query(PLANS)
        .bind::<Timestamptz, _>(as_of.now)
        .bind::<Integer, _>(i32::from(as_of.grace_days))
        .bind::<Array<BigInt>, _>(orgs)
        .load(conn)?;
    let messages = rows.into_iter().filter_map(plan_changed).collect();
    messages::write(conn, messages, as_of.now)
}

fn plan_changed(row: PlanRow) -> Option<NewMessage> {
    let previous = row.last_plan.filter(|plan| !plan.is_empty());
    // An org that never had another plan than the default one has seen no change.
    let is_first = row.last_number.is_none();
    if row.plan_id == previous || is_first && row.by_default {
        return None;
    }
    let number = row.last_number.and_then(|number| number.parse::<u64>().ok()).map_or(1, |last| last + 1);
    let plan = row.plan_id.as_deref().unwrap_or_default();
    Some(NewMessage {
        org_id: row.org_id,
        kind: "plan.changed",
        dedupe_key: format!("plan:{number:010}:{plan}"),
        data: json!({
            "plan": row.plan_id, "version": row.plan_version, "previous_plan": previous,
            "by_default": row.by_default, "origin": row.source, "subscription": row.subscription_id,
        }),
        object: None,
    })
}

/// Days before its end that a trial is told of.
const TRIAL_DAYS: i64 = 3;

const TRIALS: &str = "WITH t AS (
        SELECT r.org_id, 'stripe' AS origin, s.id, NULL AS plan, s.trial_end, to_jsonb(s) AS object
        FROM subscriptions s JOIN stripe_customer_links l USING (account, livemode, customer_id)
        JOIN org_refs r USING (ref)
        WHERE s.status = 'trialing' AND s.trial_end > $1 AND s.trial_end <= $2
        UNION ALL
        SELECT s.org_id, 'local', s.subscription_id, s.plan_id, s.trial_end,
            to_jsonb(s) - '{org_id,earlier_plans}'::text[]
        FROM local_subscriptions s
        WHERE s.status = 'trial' AND s.trial_end > $1 AND s.trial_end <= $2)
    SELECT t.org_id, 'subscription.trial_ending' AS kind,
        concat('trial:', t.id, ':', extract(epoch FROM t.trial_end)::bigint) AS dedupe_key,
        jsonb_build_object('subscription', t.id, 'origin', t.origin, 'plan', t.plan,
            'trial_end', t.trial_end) AS data,
        t.object
    FROM t
    WHERE NOT EXISTS (SELECT FROM outbox_messages m WHERE m.org_id = t.org_id
        AND m.dedupe_key = concat('trial:', t.id, ':', extract(epoch FROM t.trial_end)::bigint))";

/// Writes a message for each trial that ends within three days, in the caller's transaction.
pub fn write_trial_endings(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<(), Error> {
    let rows: Vec<ToldRow> = diesel::sql_query(with_org(TRIALS))
        .bind::<Timestamptz, _>(now)
        .bind::<Timestamptz, _>(now + TimeDelta::days(TRIAL_DAYS))
        .load(conn)?;
    messages::write(conn, rows.into_iter().filter_map(message).collect(), now)
}

fn message(row: ToldRow) -> Option<NewMessage> {
    let kind = kinds::named(&row.kind)?;
    let (org_id, dedupe_key, mut data) = (row.org_id, row.dedupe_key, row.data);
    data["org"] = row.org.into();
    Some(NewMessage { org_id, kind, dedupe_key, data, object: Some(row.object) })
}
