//! What Stripe's payments do to batteries: grants for what was paid, clawbacks for what was returned.
//!
//! Whoever writes mirrors leaves markers ([`markers`]). They are taken once that is committed, each is traced
//! to its *economic source* (an invoice, a payment intent, a checkout session), a look without locks
//! ([`look`]) tells whose it is, the account of that org is locked, and only then everything is read, once:
//! so whoever holds the lock last sees all there is, and the order of events does not matter. What a source
//! is worth ([`targets`]) is a function of what is read, and the differences to what was done before are
//! applied ([`apply`]).
//!
//! What cannot happen yet waits ([`waiting`]), and is tried again when what is missing appears. Markers of
//! what may be missing (a link, an org, a mapping, a subscription) are worked on apart, in a short
//! transaction that holds the lock of effects alone, while those of payments share it. So the former sees all
//! that was let wait by those who could not see what it stands for, and those who come later see that. The
//! same holds for what was passed over as nothing is sold ([`skipped`]), and for what has no org: two that
//! decide on it at once may write the older of two judgements, but whatever made the difference has a marker
//! to come.

mod apply;
mod bought;
mod decide;
mod facts;
pub mod ignored;
pub mod model;
mod owners;
mod prorations;
mod purchases;
mod repeats;
pub mod returns;
mod sales;
pub mod skipped;
mod sources;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod waiting;

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, SmallInt, Text, Timestamptz, Untyped};

use super::{Accounts, Depth};
use crate::billing::markers::{self, Marker};
use crate::config::Proration;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::panics;
use crate::realm::Realm;

/// Failed attempts after which a marker is parked.
const ATTEMPTS: i16 = 5;
/// Lock of effects, under which what waits is looked through: any number that nobody else uses.
const LOCK: i64 = 2_685_668;

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
pub struct SaleSource {
    pub realm: Realm,
    pub kind: Kind,
    pub id: String,
}

/// What a source is. In the order in which they are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
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
/// Only when the database is away or locks were lost: nothing has changed then, and the next call tries
/// again.
pub fn step(conn: &mut PgConnection, options: &Options, now: DateTime<Utc>) -> Result<usize, Error> {
    Ok(turn::<TakeWakers>(conn, options, now)? + turn::<TakeOthers>(conn, options, now)?)
}

/// Works on the next markers of the ones or the others.
fn turn<T: Take>(conn: &mut PgConnection, options: &Options, now: DateTime<Utc>) -> Result<usize, Error> {
    let mut ids = Vec::new();
    let done = conn.transaction(|conn| {
        look_up(conn)?;
        let mut taken = take::<T>(conn, options.batch, now)?;
        if taken.is_empty() && !T::WAKES && waiting::wake_due(conn, now)? > 0 {
            taken = take::<T>(conn, options.batch, now)?;
        }
        ids = taken.iter().map(|marker| marker.effect_id).collect();
        panics::catch_as_error(
            || if T::WAKES { wake(conn, &taken) } else { work(conn, options, &taken, now) },
        )
    });
    match done {
        Ok(()) => Ok(ids.len()),
        Err(error) if error.is_transient() => Err(error),
        Err(_) => {
            for effect_id in &ids {
                alone(conn, options, *effect_id, T::WAKES, now)?;
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
    wakes: bool,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let done = conn.transaction(|conn| {
        look_up(conn)?;
        let taken = take_one(conn, effect_id)?;
        panics::catch_as_error(|| if wakes { wake(conn, &taken) } else { work(conn, options, &taken, now) })
    });
    match done {
        Err(error) if error.is_transient() => Err(error),
        Err(error) => put_off(conn, effect_id, &error, now),
        Ok(()) => Ok(()),
    }
}

/// Everything here is looked up by an index. Statements are planned once for long, and a table that happened
/// to be empty then would be read as a whole for each row.
fn look_up(conn: &mut PgConnection) -> QueryResult<()> {
    conn.batch_execute("SET LOCAL enable_seqscan = off")
}

type TakenTypes = (BigInt, Text, Bool, Text, Text, SmallInt);
type TakenRow = (i64, String, bool, String, String, i16);

/// The next markers of the kinds `$which`. The condition is that of `battery_effects_queue_wakers`.
macro_rules! take {
    ($which:literal) => {
        concat!(
            "DELETE FROM battery_effects_queue WHERE effect_id = ANY (ARRAY (
                 SELECT effect_id FROM battery_effects_queue WHERE kind ",
            $which,
            " IN ('customer', 'mapping', 'org', 'subscription')
                     AND (next_attempt_at IS NULL OR next_attempt_at <= ?)
                 ORDER BY effect_id LIMIT ? FOR UPDATE SKIP LOCKED))
             RETURNING effect_id, account, livemode, kind, object_id, attempts"
        )
    };
}

statement!(TakeWakers -> TakenTypes: take!(""));
statement!(TakeOthers -> TakenTypes: take!("NOT"));

/// Which markers are taken.
trait Take: crate::db::prepared::StatementText<Row = TakenTypes> {
    /// Whether they are about what others wait for, and not about payments.
    const WAKES: bool;
}

impl Take for TakeWakers {
    const WAKES: bool = true;
}

impl Take for TakeOthers {
    const WAKES: bool = false;
}

fn take<T: Take>(conn: &mut PgConnection, limit: u32, now: DateTime<Utc>) -> Result<Vec<Taken>, Error> {
    let rows: Vec<TakenRow> = Prepared::<T>::new()
        .bind_one::<Timestamptz, _>(now)
        .bind_one::<BigInt, _>(i64::from(limit))
        .load(conn)?;
    let taken = |(effect_id, account, livemode, kind, object_id, attempts)| Taken {
        effect_id,
        account,
        livemode,
        kind,
        object_id,
        attempts,
    };
    Ok(rows.into_iter().map(taken).collect())
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
            "INSERT INTO battery_effects_queue (account, livemode, kind, object_id, attempts,
                 next_attempt_at, last_error)
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

/// Has tried again what these markers may let happen.
fn wake(conn: &mut PgConnection, taken: &[Taken]) -> Result<(), Error> {
    if taken.is_empty() {
        return Ok(());
    }
    let markers: BTreeSet<Marker> = taken.iter().map(Taken::marker).collect();
    diesel::sql_query("SELECT pg_advisory_xact_lock($1)").bind::<BigInt, _>(LOCK).execute(conn)?;
    waiting::unpark(conn, &markers)?;
    waiting::wake(conn, &markers)?;
    if markers.iter().any(|marker| marker.kind == markers::MAPPING) {
        skipped::resume(conn)?;
    }
    Ok(())
}

/// Works on markers of payments.
fn work(
    conn: &mut PgConnection,
    options: &Options,
    taken: &[Taken],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if taken.is_empty() {
        return Ok(());
    }
    taken.iter().for_each(|one| panics::panic_if_test_asks("effects", || &*one.object_id));
    let markers: BTreeSet<Marker> = taken.iter().map(Taken::marker).collect();
    diesel::sql_query("SELECT pg_advisory_xact_lock_shared($1)").bind::<BigInt, _>(LOCK).execute(conn)?;
    waiting::unpark(conn, &markers)?;
    for marker in &markers {
        skipped::walk(conn, marker)?;
    }
    let sources = sources::sources(conn, &markers)?;
    if sources.is_empty() {
        return Ok(());
    }
    // A source of which nothing can come yet has a marker to come.
    let sells = skipped::sells(conn)?;
    let seen = owners::look(conn, &sources, sells)?;
    skipped::note(conn, &seen.skipped, now)?;
    if seen.sources.is_empty() {
        return Ok(());
    }
    let mut accounts = Accounts::lock(conn, seen.orgs, Depth::All, now)?;
    let facts = facts::load(conn, &seen.sources)?;
    apply::apply(conn, &mut accounts, &facts, options.proration, now)?;
    accounts.write(conn)
}

/// Markers for these sources, so that they are looked at again.
fn mark(conn: &mut PgConnection, sources: impl IntoIterator<Item = SaleSource>) -> Result<(), Error> {
    let markers: Vec<Marker> = sources
        .into_iter()
        .map(|source| Marker { realm: source.realm, kind: source.kind.name().to_owned(), id: source.id })
        .collect();
    Ok(markers::write(conn, &markers)?)
}

statement!(Siblings -> Untyped:
    "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
     SELECT DISTINCT x.account, x.livemode, 'invoice', x.source_id FROM unnest(?) AS k (id)
     CROSS JOIN LATERAL (SELECT y.* FROM battery_effects y
         WHERE y.subscription_id = k.id AND y.what = 'proration_back' OFFSET 0) x");

/// Other invoices of these subscriptions that count unused time: a new grant may be the one that holds it.
fn mark_siblings(conn: &mut PgConnection, subscriptions: Vec<String>) -> Result<(), Error> {
    Prepared::<Siblings>::new().bind::<Text, _>(subscriptions).execute(conn)?;
    Ok(())
}
