//! The accounts that the daemon reads, how far it has come with each, and which daemon holds it. Owns
//! `stripe_accounts`.
//!
//! A daemon holds an account until a time that it moves on, or until its session at the database ends. So
//! after a kill another daemon goes on at once, and Stripe's limits hold for all daemons together.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, Text, Timestamptz};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Error;
use crate::realm::Realm;

/// How long an account is held after the last sign of life, in seconds.
const HOLD_S: i64 = 60;

/// An account as the daemon knows it.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct Account {
    /// `acct_…` of a connected account; empty: our own.
    #[diesel(sql_type = Text)]
    pub account: String,
    /// Live or test mode.
    #[diesel(sql_type = Bool)]
    pub livemode: bool,
    /// The account's id at Stripe, also of our own.
    #[diesel(sql_type = Nullable<Text>)]
    pub stripe_id: Option<String>,
    /// Money that Stripe took before grants nothing and sends no messages.
    #[diesel(sql_type = Timestamptz)]
    pub effects_since: DateTime<Utc>,
    /// Whether what was paid before, for a period that still ran then, grants nevertheless.
    #[diesel(sql_type = Bool)]
    pub grant_running: bool,
    /// All events up to this unix second of Stripe's clock are in the inbox.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub pulled_until: Option<i64>,
    /// When the daemon last asked for events.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub pulled_at: Option<DateTime<Utc>>,
    /// The day of the last nightly comparison.
    #[diesel(sql_type = Nullable<Date>)]
    pub compared_on: Option<NaiveDate>,
    /// Since when calls fail; null: the last one succeeded.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub failing_since: Option<DateTime<Utc>>,
    /// Why the last failed call failed.
    #[diesel(sql_type = Nullable<Text>)]
    pub last_error: Option<String>,
    /// Kinds of objects that the key may not read.
    #[diesel(sql_type = Array<Text>)]
    pub forbidden: Vec<String>,
}

impl Account {
    /// Its realm.
    #[must_use]
    pub fn realm(&self) -> Realm {
        Realm { account: self.account.clone(), livemode: self.livemode }
    }
}

/// The rules of the settings for money from before the first call.
#[derive(Clone, Copy, Debug)]
pub struct OldMoney {
    /// `None`: the moment of the first call, or the first event in the inbox.
    pub effects_since: Option<DateTime<Utc>>,
    pub grant_running: bool,
}

const COLUMNS: &str = "account, livemode, stripe_id, effects_since, grant_running, pulled_until, pulled_at,
    compared_on, failing_since, last_error, forbidden";

/// All accounts, our own first.
pub fn list(conn: &mut PgConnection) -> QueryResult<Vec<Account>> {
    diesel::sql_query(format!("SELECT {COLUMNS} FROM stripe_accounts ORDER BY account, livemode")).load(conn)
}

/// One account; `None` if the daemon never called Stripe for it.
pub fn find(conn: &mut PgConnection, realm: &Realm) -> QueryResult<Option<Account>> {
    diesel::sql_query(format!("SELECT {COLUMNS} FROM stripe_accounts WHERE (account, livemode) = ($1, $2)"))
        .bind::<Text, _>(&realm.account)
        .bind::<Bool, _>(realm.livemode)
        .get_result(conn)
        .optional()
}

/// Makes the account known, if it is not. Then the time is stored from which money has effects: an
/// installation that has events already goes on with them.
///
/// Source of `effects_since`: people who bring in years of an account do not want its old payments granted.
pub(super) fn establish(
    conn: &mut PgConnection,
    realm: &Realm,
    old: OldMoney,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let made = diesel::sql_query(
        "INSERT INTO stripe_accounts (account, livemode, effects_since, grant_running, first_called_at)
         SELECT $1, $2, coalesce($3, least($5, (
             SELECT to_timestamp(min(created)) FROM stripe_inbox
             WHERE (account, livemode) = ($1, $2) AND created > 0 AND origin = 'webhook'))), $4, $5
         WHERE NOT EXISTS (SELECT FROM stripe_accounts WHERE (account, livemode) = ($1, $2))
         ON CONFLICT DO NOTHING",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Nullable<Timestamptz>, _>(old.effects_since)
    .bind::<Bool, _>(old.grant_running)
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    Ok(made > 0)
}

/// What is done for an account by one daemon at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Reading it.
    Reading,
    /// Charging usage through it.
    Charging,
}

impl Held {
    /// The table that says which daemon does it.
    fn table(self) -> &'static str {
        match self {
            Self::Reading => "stripe_accounts",
            Self::Charging => "stripe_charging",
        }
    }
}

/// Takes the account, or holds it for longer. False: another daemon holds it.
pub fn hold(conn: &mut PgConnection, what: Held, realm: &Realm, holder: &str) -> QueryResult<bool> {
    let table = what.table();
    let held = diesel::sql_query(format!(
        "UPDATE {table} a
         SET holder = $3, held_until = clock_timestamp() + $4 * interval '1 s', holder_pid = s.pid,
             holder_started = (extract(epoch FROM s.backend_start) * 1000000)::bigint
         FROM (SELECT pg_backend_pid() AS pid, (SELECT backend_start FROM pg_stat_activity
             WHERE pid = pg_backend_pid()) AS backend_start) s
         WHERE (a.account, a.livemode) = ($1, $2)
             AND (a.holder IS NULL OR a.holder = $3 OR a.held_until < clock_timestamp()
                 OR NOT EXISTS (SELECT FROM pg_stat_activity p
                     WHERE p.pid = a.holder_pid
                         AND coalesce((extract(epoch FROM p.backend_start) * 1000000)::bigint
                             = a.holder_started, true)))",
    ))
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(holder)
    .bind::<BigInt, _>(HOLD_S)
    .execute(conn)?;
    Ok(held > 0)
}

/// Gives the account back, so that another daemon takes it at once.
pub fn release(conn: &mut PgConnection, what: Held, realm: &Realm, holder: &str) -> QueryResult<()> {
    let table = what.table();
    diesel::sql_query(format!(
        "UPDATE {table} SET holder = NULL, held_until = NULL, holder_pid = NULL, holder_started = NULL
         WHERE (account, livemode) = ($1, $2) AND holder = $3",
    ))
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(holder)
    .execute(conn)
    .map(drop)
}

/// What a turn changes of an account.
#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    pub(super) stripe_id: Option<String>,
    pub(super) pulled_until: Option<i64>,
    pub(super) pulled_at: Option<DateTime<Utc>>,
    pub(super) compared_on: Option<NaiveDate>,
}

/// Notes what is not `None`.
pub(super) fn note(conn: &mut PgConnection, realm: &Realm, noted: &Noted) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_accounts SET stripe_id = coalesce($3, stripe_id),
             pulled_until = coalesce($4, pulled_until), pulled_at = coalesce($5, pulled_at),
             compared_on = coalesce($6, compared_on)
         WHERE (account, livemode) = ($1, $2)",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Nullable<Text>, _>(noted.stripe_id.as_deref())
    .bind::<Nullable<BigInt>, _>(noted.pulled_until)
    .bind::<Nullable<Timestamptz>, _>(noted.pulled_at)
    .bind::<Nullable<Date>, _>(noted.compared_on)
    .execute(conn)
    .map(drop)
}

/// Notes whether calls for the account succeed. A key without the right fails all of them.
pub fn note_error(
    conn: &mut PgConnection,
    what: Held,
    realm: &Realm,
    error: Option<&str>,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    let table = what.table();
    diesel::sql_query(format!(
        "UPDATE {table}
         SET failing_since = CASE WHEN $3 IS NULL THEN NULL ELSE coalesce(failing_since, $4) END,
             last_error = coalesce($3, last_error)
         WHERE (account, livemode) = ($1, $2) AND ($3 IS NOT NULL OR failing_since IS NOT NULL)",
    ))
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Nullable<Text>, _>(error)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .map(drop)
}

/// Notes whether the key may read a kind. Returns whether that is news.
pub(super) fn note_forbidden(
    conn: &mut PgConnection,
    realm: &Realm,
    object: &str,
    is_forbidden: bool,
) -> QueryResult<bool> {
    let changed = diesel::sql_query(
        "UPDATE stripe_accounts
         SET forbidden = CASE WHEN $4 THEN array_append(forbidden, $3) ELSE array_remove(forbidden, $3) END
         WHERE (account, livemode) = ($1, $2) AND ($3 = ANY (forbidden)) <> $4",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(object)
    .bind::<Bool, _>(is_forbidden)
    .execute(conn)?;
    Ok(changed > 0)
}

#[derive(QueryableByName)]
struct VersionRow {
    #[diesel(sql_type = Text)]
    api_version: String,
}

/// How many of the newest rows of the inbox may tell the version of an account's events.
const NEWEST: i32 = 20_000;

/// The version of Stripe's shapes in the account's newest event; `None` if it has none. Objects are read in
/// this version, or they would never equal those of the events.
pub(super) fn api_version(conn: &mut PgConnection, realm: &Realm) -> QueryResult<Option<String>> {
    let row: Option<VersionRow> = diesel::sql_query(
        "SELECT api_version FROM (
             SELECT inbox_id, account, livemode, api_version, origin FROM stripe_inbox
             ORDER BY inbox_id DESC LIMIT $3) i
         WHERE (account, livemode) = ($1, $2) AND origin <> 'fetch' AND api_version IS NOT NULL
         ORDER BY inbox_id DESC LIMIT 1",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Integer, _>(NEWEST)
    .get_result(conn)
    .optional()?;
    Ok(row.map(|row| row.api_version))
}
