//! What Stripe's payments do to batteries: grants for what was paid, clawbacks for what was returned.
//!
//! Whoever writes mirrors leaves markers ([`markers`]). They are taken once that is committed, each is traced to its *economic
//! source* (an invoice, a payment intent, a checkout session), the account of the source's org is locked, and only then everything
//! is read: so whoever holds the lock last sees all there is, and the order of events does not matter. What a source is worth
//! ([`targets`]) is a function of what is read, and the differences to what was done before are applied ([`apply`]).
//!
//! What cannot happen yet waits ([`waiting`]), and is tried again when what is missing appears.

mod apply;
mod facts;
mod judge;
mod prorations;
pub mod returns;
pub mod targets;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, SmallInt, Text, Timestamptz};

use self::facts::Facts;
use super::{Accounts, Depth};
use crate::billing::markers::{self, Marker};
use crate::config::Proration;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::realm::Realm;

/// Failed attempts after which a marker is parked.
const ATTEMPTS: i16 = 5;
/// Lock under which what waits is looked through: any number that nobody else uses.
const LOCK: i64 = 2_685_663;

/// How effects are worked on.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Markers a transaction, at most.
    pub batch: u32,
    /// What a change of plan within a period does.
    pub proration: Proration,
}

/// What was paid for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Account and mode.
    pub realm: Realm,
    /// What it is.
    pub kind: Kind,
    /// Stripe's id.
    pub id: String,
}

/// What a source is. In the order in which they are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An invoice.
    Invoice,
    /// A payment intent that pays no invoice.
    PaymentIntent,
    /// A checkout session without either.
    CheckoutSession,
}

impl Kind {
    /// Its name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::PaymentIntent => "payment_intent",
            Self::CheckoutSession => "checkout_session",
        }
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        [Self::Invoice, Self::PaymentIntent, Self::CheckoutSession]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::Internal(format!("no source of effects is called {name}")))
    }
}

#[derive(QueryableByName)]
struct Taken {
    #[diesel(sql_type = BigInt)]
    effect_id: i64,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    object_id: String,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
}

impl Taken {
    fn marker(&self) -> Marker {
        let realm = Realm { account: self.account.clone(), livemode: self.livemode };
        Marker { realm, kind: self.kind.clone(), id: self.object_id.clone() }
    }
}

/// Works on the next markers; returns how many were taken.
///
/// # Errors
/// Only when the database is away or locks were lost: nothing has changed then, and the next call tries again.
pub fn step(conn: &mut PgConnection, options: &Options, now: DateTime<Utc>) -> Result<usize, Error> {
    let mut ids = Vec::new();
    let done = conn.transaction(|conn| {
        let mut taken = take(conn, options.batch, now)?;
        if taken.is_empty() && waiting::wake_due(conn, now)? > 0 {
            taken = take(conn, options.batch, now)?;
        }
        ids = taken.iter().map(|marker| marker.effect_id).collect();
        work(conn, options, &taken, now)
    });
    match done {
        Ok(()) => Ok(ids.len()),
        Err(error) if error.is_transient() => Err(error),
        Err(_) => {
            for effect_id in &ids {
                alone(conn, options, *effect_id, now)?;
            }
            Ok(ids.len())
        }
    }
}

/// One marker of a batch that failed as a whole.
fn alone(
    conn: &mut PgConnection,
    options: &Options,
    effect_id: i64,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let done = conn.transaction(|conn| {
        let taken = take_one(conn, effect_id)?;
        work(conn, options, &taken, now)
    });
    match done {
        Err(error) if error.is_transient() => Err(error),
        Err(error) => put_off(conn, effect_id, &error, now),
        Ok(()) => Ok(()),
    }
}

fn take(conn: &mut PgConnection, limit: u32, now: DateTime<Utc>) -> Result<Vec<Taken>, Error> {
    Ok(diesel::sql_query(
        "DELETE FROM battery_effects_queue WHERE effect_id = ANY (ARRAY (
             SELECT effect_id FROM battery_effects_queue WHERE next_attempt_at IS NULL OR next_attempt_at <= $1
             ORDER BY effect_id LIMIT $2 FOR UPDATE SKIP LOCKED))
         RETURNING effect_id, account, livemode, kind, object_id, attempts",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(i64::from(limit))
    .load(conn)?)
}

fn take_one(conn: &mut PgConnection, effect_id: i64) -> Result<Vec<Taken>, Error> {
    Ok(diesel::sql_query(
        "DELETE FROM battery_effects_queue WHERE effect_id = ANY (ARRAY (
             SELECT effect_id FROM battery_effects_queue WHERE effect_id = $1 FOR UPDATE SKIP LOCKED))
         RETURNING effect_id, account, livemode, kind, object_id, attempts",
    )
    .bind::<BigInt, _>(effect_id)
    .load(conn)?)
}

/// The next attempt comes after 1, 4, 16, … seconds; at last the marker is parked among what waits.
fn put_off(conn: &mut PgConnection, effect_id: i64, error: &Error, now: DateTime<Utc>) -> Result<(), Error> {
    let message = error.to_string().replace('\0', "\u{fffd}");
    tracing::warn!(effect_id, error = message, "an effect on a battery failed");
    conn.transaction(|conn| {
        let Some(taken) = take_one(conn, effect_id)?.pop() else { return Ok(()) };
        let attempts = taken.attempts.saturating_add(1);
        if attempts >= ATTEMPTS {
            return waiting::park(conn, &taken.marker(), &message, now);
        }
        let wait = TimeDelta::seconds(4_i64.saturating_pow(u32::from(taken.attempts.unsigned_abs())));
        diesel::sql_query(
            "INSERT INTO battery_effects_queue (account, livemode, kind, object_id, attempts, next_attempt_at, last_error)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind::<Text, _>(&taken.account)
        .bind::<Bool, _>(taken.livemode)
        .bind::<Text, _>(&taken.kind)
        .bind::<Text, _>(&taken.object_id)
        .bind::<SmallInt, _>(attempts)
        .bind::<Timestamptz, _>(now + wait)
        .bind::<Text, _>(&message)
        .execute(conn)?;
        Ok(())
    })
}

fn work(
    conn: &mut PgConnection,
    options: &Options,
    taken: &[Taken],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if taken.is_empty() {
        return Ok(());
    }
    let markers: BTreeSet<Marker> = taken.iter().map(Taken::marker).collect();
    // Whoever wakes what waits must see what others are about to let wait; those meanwhile see what it was woken for.
    let wakes = markers.iter().any(|marker| {
        matches!(marker.kind.as_str(), markers::CUSTOMER | markers::ORG | markers::MAPPING | "subscription")
    });
    let lock = if wakes { "pg_advisory_xact_lock" } else { "pg_advisory_xact_lock_shared" };
    diesel::sql_query(format!("SELECT {lock}($1)")).bind::<BigInt, _>(LOCK).execute(conn)?;
    if wakes {
        waiting::wake(conn, &markers)?;
    }
    waiting::unpark(conn, &markers)?;
    let sources = sources_of(conn, &markers)?;
    if sources.is_empty() {
        return Ok(());
    }
    // A look without locks, for the orgs alone. A source of which nothing can come yet has a marker to come.
    let seen = facts::load(conn, &sources)?;
    let sources: Vec<Source> = sources.into_iter().filter(|source| targets::matters(&seen[source])).collect();
    if sources.is_empty() {
        return Ok(());
    }
    let orgs: BTreeSet<i64> = sources.iter().filter_map(|source| targets::org_of(&seen[source])).collect();
    let mut accounts = Accounts::lock(conn, orgs, Depth::All, now)?;
    let facts: BTreeMap<Source, Facts> = facts::load(conn, &sources)?;
    apply::apply(conn, &mut accounts, &facts, options.proration, now)?;
    accounts.write(conn)
}

/// A look-up by one column for each row of `$of`. OFFSET 0 keeps the planner at one index look-up for each, also before it has
/// statistics; and it must not take the account, which is the same for all rows, for a good key.
macro_rules! each {
    ($of:literal, $table:literal, $by:literal) => {
        concat!(
            $of,
            " CROSS JOIN LATERAL (SELECT y.* FROM ",
            $table,
            " y WHERE ",
            $by,
            " = ",
            $of,
            ".id AND y.account IS NOT DISTINCT FROM ",
            $of,
            ".account AND y.livemode IS NOT DISTINCT FROM ",
            $of,
            ".livemode OFFSET 0) x"
        )
    };
}
use each;

// What a marker is about, by the names of its payments where it is about those.
statement!(Trace -> (Text, Bool, Text, Text): concat!(
    "WITH m AS MATERIALIZED (SELECT * FROM unnest(?, ?, ?, ?) AS m (account, livemode, kind, id)),
     named AS MATERIALIZED (
        SELECT m.account, m.livemode, NULL AS intent, m.id AS charge FROM m WHERE m.kind = 'charge'
        UNION ALL SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id FROM ", each!("m", "refunds", "y.id"), " WHERE m.kind = 'refund'
        UNION ALL SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id FROM ", each!("m", "disputes", "y.id"), " WHERE m.kind = 'dispute'
        UNION ALL SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id FROM m CROSS JOIN LATERAL (SELECT * FROM invoice_payments y
            WHERE y.account = m.account AND y.livemode = m.livemode AND y.id = m.id OFFSET 0) x WHERE m.kind = 'invoice_payment'),
     p AS MATERIALIZED (
        SELECT account, livemode, id FROM m WHERE kind = 'payment_intent'
        UNION SELECT n.account, n.livemode, coalesce(n.intent, c.payment_intent_id, n.charge) FROM named n LEFT JOIN LATERAL (
            SELECT y.payment_intent_id FROM charges y WHERE y.account = n.account AND y.livemode = n.livemode AND y.id = n.charge OFFSET 0) c ON true),
     s AS MATERIALIZED (
        SELECT x.account, x.livemode, x.id, x.invoice_id, x.payment_intent_id FROM m CROSS JOIN LATERAL (SELECT * FROM checkout_sessions y
            WHERE y.account = m.account AND y.livemode = m.livemode AND y.id = m.id OFFSET 0) x WHERE m.kind IN ('checkout.session', 'checkout_session')
        UNION SELECT x.account, x.livemode, x.id, x.invoice_id, x.payment_intent_id FROM ", each!("p", "checkout_sessions", "y.payment_intent_id"), ")
     SELECT account, livemode, kind, id FROM (
        SELECT account, livemode, 'invoice' AS kind, id FROM m WHERE m.kind = 'invoice'
        UNION SELECT m.account, m.livemode, 'invoice', x.invoice_id FROM m CROSS JOIN LATERAL (SELECT * FROM invoice_payments y
            WHERE y.account = m.account AND y.livemode = m.livemode AND y.id = m.id OFFSET 0) x WHERE m.kind = 'invoice_payment'
        UNION SELECT m.account, m.livemode, 'invoice', x.invoice_id FROM ", each!("m", "credit_notes", "y.id"), " WHERE m.kind = 'credit_note'
        UNION SELECT s.account, s.livemode, 'invoice', s.invoice_id FROM s
        UNION SELECT p.account, p.livemode, 'invoice', x.invoice_id FROM ", each!("p", "payments", "y.id"), "
        UNION SELECT p.account, p.livemode, 'invoice', x.invoice_id FROM ", each!("p", "invoice_payments", "coalesce(y.payment_intent_id, y.charge_id, y.payment_record_id, y.id)"), "
        UNION SELECT p.account, p.livemode, 'invoice', x.id FROM ", each!("p", "invoices", "coalesce(y.payment_intent_id, y.charge_id)"), "
        UNION SELECT account, livemode, 'payment_intent', id FROM p
        UNION SELECT s.account, s.livemode, 'payment_intent', s.payment_intent_id FROM s
        UNION SELECT s.account, s.livemode, 'checkout_session', s.id FROM s WHERE s.payment_intent_id IS NULL AND s.invoice_id IS NULL) t
     WHERE id IS NOT NULL"));

fn sources_of(conn: &mut PgConnection, markers: &BTreeSet<Marker>) -> Result<Vec<Source>, Error> {
    let rows: Vec<(String, bool, String, String)> = Prepared::<Trace>::new()
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(markers.iter().map(|marker| marker.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.kind).collect::<Vec<_>>())
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.id).collect::<Vec<_>>())
        .load(conn)?;
    let sources: Result<BTreeSet<Source>, Error> = rows
        .into_iter()
        .map(|(account, livemode, kind, id)| {
            Ok(Source { realm: Realm { account, livemode }, kind: Kind::parse(&kind)?, id })
        })
        .collect();
    Ok(sources?.into_iter().collect())
}

/// Markers for these sources, so that they are looked at again.
fn mark(conn: &mut PgConnection, sources: impl IntoIterator<Item = Source>) -> Result<(), Error> {
    let markers: Vec<Marker> = sources
        .into_iter()
        .map(|source| Marker { realm: source.realm, kind: source.kind.name().to_owned(), id: source.id })
        .collect();
    Ok(markers::write(conn, &markers)?)
}

/// Other invoices of these subscriptions that count unused time: a new grant may be the one that holds it.
fn mark_siblings(conn: &mut PgConnection, subscriptions: &[String]) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT DISTINCT account, livemode, 'invoice', source_id FROM battery_effects WHERE subscription_id = ANY ($1) AND what = 'proration_back'",
    )
    .bind::<Array<Text>, _>(subscriptions)
    .execute(conn)?;
    Ok(())
}
