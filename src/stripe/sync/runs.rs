//! Walks through an account: the *backfill*, which brings all of it in, and the nightly *comparison*. Owns
//! `stripe_sync_runs` and `stripe_sync_steps`.
//!
//! A run is a list of steps, planned when it begins. A step's cursor is committed with the page that it
//! follows, so a run goes on after a crash where it was, by whichever daemon holds the account.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::steps::{self, Plan};
use crate::error::Error;
use crate::realm::Realm;

/// What kind of walk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// Everything of the account.
    Backfill,
    /// What may still change, what is new, and a thirtieth of the rest.
    Comparison,
}

impl RunKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Backfill => "backfill",
            Self::Comparison => "comparison",
        }
    }
}

/// A step that is not done.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) step: i32,
    pub(super) object: String,
    pub(super) plan: Plan,
}

/// What a page brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) found: i64,
    pub(super) same: i64,
    pub(super) new: i64,
    pub(super) changed: i64,
    pub(super) requests: i64,
}

/// A walk through an account.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct Run {
    /// Its number.
    #[diesel(sql_type = BigInt)]
    pub run_id: i64,
    /// `acct_…` of a connected account; empty: our own.
    #[diesel(sql_type = Text)]
    pub account: String,
    /// Live or test mode.
    #[diesel(sql_type = Bool)]
    pub livemode: bool,
    /// `backfill` or `comparison`.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// `running`, `done`, `incomplete` (without kinds that the key may not read) or `failed`.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// Who asked for it.
    #[diesel(sql_type = Text)]
    pub requested_by: String,
    /// When it was asked for.
    #[diesel(sql_type = Timestamptz)]
    pub requested_at: DateTime<Utc>,
    /// When a daemon began.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub began_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it failed or what is missing; while it runs: the last call that failed.
    #[diesel(sql_type = Nullable<Text>)]
    pub error: Option<String>,
    /// Steps that are done, of all steps.
    #[diesel(sql_type = BigInt)]
    pub steps_done: i64,
    #[diesel(sql_type = BigInt)]
    pub steps: i64,
    /// Objects and events read so far.
    #[diesel(sql_type = BigInt)]
    pub found: i64,
    /// Requests sent so far.
    #[diesel(sql_type = BigInt)]
    pub requests: i64,
}

impl Run {
    pub(super) fn is_backfill(&self) -> bool {
        self.kind == "backfill"
    }
}

/// What a run found of one kind.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct KindTally {
    /// Kind of the object, or `event`.
    #[diesel(sql_type = Text)]
    pub object: String,
    /// How many Stripe has, as far as the run has come.
    #[diesel(sql_type = BigInt)]
    pub found: i64,
    /// Of these, how many were mirrored as Stripe has them.
    #[diesel(sql_type = BigInt)]
    pub same: i64,
    /// How many the inbox did not have.
    #[diesel(sql_type = BigInt)]
    pub new: i64,
    /// How many were mirrored otherwise and are repaired.
    #[diesel(sql_type = BigInt)]
    pub changed: i64,
    /// How many we hold now, those that Stripe deleted left out.
    #[diesel(sql_type = BigInt)]
    pub held: i64,
    /// Requests.
    #[diesel(sql_type = BigInt)]
    pub requests: i64,
    /// Whether the key may not read this kind.
    #[diesel(sql_type = Bool)]
    pub forbidden: bool,
    /// Whether all of it is read.
    #[diesel(sql_type = Bool)]
    pub done: bool,
}

const SELECT: &str =
    "SELECT r.run_id, r.account, r.livemode, r.kind, r.state, r.requested_by, r.requested_at,
        r.began_at, r.ended_at, r.error, s.steps_done, s.steps, s.found, s.requests
    FROM stripe_sync_runs r
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE state <> 'waiting') AS steps_done, count(*) AS steps,
            coalesce(sum(found), 0)::bigint AS found, coalesce(sum(requests), 0)::bigint AS requests
        FROM stripe_sync_steps WHERE run_id = r.run_id) s";

/// The newest runs, at most `limit`.
pub fn list(conn: &mut PgConnection, limit: i64) -> QueryResult<Vec<Run>> {
    diesel::sql_query(format!("{SELECT} ORDER BY r.run_id DESC LIMIT $1")).bind::<BigInt, _>(limit).load(conn)
}

/// One run.
///
/// # Errors
/// [`Error::NotFound`] when there is none with this number.
pub fn find(conn: &mut PgConnection, run_id: i64) -> Result<Run, Error> {
    let run = diesel::sql_query(format!("{SELECT} WHERE r.run_id = $1")).bind::<BigInt, _>(run_id);
    run.get_result(conn).optional()?.ok_or(Error::NotFound("run"))
}

/// The run that goes on in an account.
pub(super) fn running(conn: &mut PgConnection, realm: &Realm) -> QueryResult<Option<Run>> {
    diesel::sql_query(format!("{SELECT} WHERE (r.account, r.livemode) = ($1, $2) AND r.state = 'running'"))
        .bind::<Text, _>(&realm.account)
        .bind::<Bool, _>(realm.livemode)
        .get_result(conn)
        .optional()
}

/// What a run has found, by kind, in the order of its steps.
pub fn by_kind(conn: &mut PgConnection, run_id: i64) -> QueryResult<Vec<KindTally>> {
    diesel::sql_query(
        "SELECT s.object, sum(s.found)::bigint AS found, sum(s.same)::bigint AS same,
             sum(s.new)::bigint AS new, sum(s.changed)::bigint AS changed,
             sum(s.requests)::bigint AS requests, bool_or(s.state = 'forbidden') AS forbidden,
             bool_and(s.state <> 'waiting') AS done,
             (SELECT count(*) FROM stripe_objects o
              WHERE (o.account, o.livemode, o.object) = (r.account, r.livemode, s.object)
                  AND NOT o.deleted AND o.inbox_id IS NOT NULL) AS held
         FROM stripe_sync_steps s JOIN stripe_sync_runs r USING (run_id)
         WHERE s.run_id = $1
         GROUP BY r.account, r.livemode, s.object
         ORDER BY min(s.step)",
    )
    .bind::<BigInt, _>(run_id)
    .load(conn)
}

/// Asks for a run; returns its number. One that goes on in this account already is that run.
pub fn request(
    conn: &mut PgConnection,
    realm: &Realm,
    kind: RunKind,
    by: &str,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    #[derive(QueryableByName)]
    struct Id {
        #[diesel(sql_type = BigInt)]
        run_id: i64,
    }
    let made: Option<Id> = diesel::sql_query(
        "INSERT INTO stripe_sync_runs (account, livemode, kind, state, requested_by, requested_at)
         VALUES ($1, $2, $3, 'running', $4, $5)
         ON CONFLICT (account, livemode) WHERE state = 'running' DO NOTHING
         RETURNING run_id",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(kind.name())
    .bind::<Text, _>(by)
    .bind::<Timestamptz, _>(now)
    .get_result(conn)
    .optional()?;
    match made {
        Some(made) => Ok(made.run_id),
        None => running(conn, realm)?
            .map(|run| run.run_id)
            .ok_or_else(|| Error::conflict("run_ended", "a run has just ended in this account: ask again")),
    }
}

/// Whether the account needs a backfill: it never had one, or its last one failed before this time.
pub(super) fn needs_backfill(
    conn: &mut PgConnection,
    realm: &Realm,
    failed_before: DateTime<Utc>,
) -> QueryResult<bool> {
    use crate::schema::stripe_sync_runs as r;
    let last = r::table
        .filter(r::account.eq(&realm.account).and(r::livemode.eq(realm.livemode)))
        .filter(r::kind.eq(RunKind::Backfill.name()))
        .order(r::run_id.desc())
        .select((r::state, r::ended_at))
        .first::<(String, Option<DateTime<Utc>>)>(conn)
        .optional()?;
    Ok(last.is_none_or(|(state, ended_at)| state == "failed" && ended_at < Some(failed_before)))
}

/// Whether a backfill of the account has ended.
pub(super) fn backfilled(conn: &mut PgConnection, realm: &Realm) -> QueryResult<bool> {
    use crate::schema::stripe_sync_runs as r;
    let ended = r::table
        .filter(r::account.eq(&realm.account).and(r::livemode.eq(realm.livemode)))
        .filter(r::kind.eq(RunKind::Backfill.name()).and(r::state.eq_any(["done", "incomplete"])));
    diesel::select(diesel::dsl::exists(ended)).get_result(conn)
}

/// Plans the steps of a run that begins now. `stripe_now`: unix second of Stripe's clock.
pub(super) fn begin(
    conn: &mut PgConnection,
    run: &Run,
    stripe_now: i64,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let steps = match run.is_backfill() {
        true => steps::of_backfill(stripe_now, run.livemode),
        false => steps::of_comparison(stripe_now),
    };
    let numbers: Vec<i32> = (0..).take(steps.len()).collect();
    let cursors = steps.iter().map(|(.., plan)| serde_json::to_value(plan));
    let cursors: Vec<Value> =
        cursors.collect::<Result<_, _>>().map_err(|error| Error::Internal(error.to_string()))?;
    conn.transaction(|conn| {
        diesel::sql_query(
            "UPDATE stripe_sync_runs SET began_at = $2, stripe_began = $3
             WHERE run_id = $1 AND began_at IS NULL",
        )
        .bind::<BigInt, _>(run.run_id)
        .bind::<Timestamptz, _>(now)
        .bind::<BigInt, _>(stripe_now)
        .execute(conn)?;
        diesel::sql_query(
            "INSERT INTO stripe_sync_steps (run_id, step, object, what, cursor, state)
             SELECT $1, n.step, n.object, n.what, n.cursor, 'waiting'
             FROM unnest($2::integer[], $3::text[], $4::text[], $5::jsonb[])
                 AS n (step, object, what, cursor)
             ON CONFLICT DO NOTHING",
        )
        .bind::<BigInt, _>(run.run_id)
        .bind::<Array<Integer>, _>(numbers)
        .bind::<Array<Text>, _>(steps.iter().map(|(object, ..)| &**object).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(steps.iter().map(|(_, what, _)| &**what).collect::<Vec<_>>())
        .bind::<Array<Jsonb>, _>(cursors)
        .execute(conn)?;
        Ok(())
    })
}

/// Second of Stripe's clock at which the run began; `None` if it has not begun.
pub(super) fn stripe_began(conn: &mut PgConnection, run_id: i64) -> QueryResult<Option<i64>> {
    use crate::schema::stripe_sync_runs as r;
    r::table.find(run_id).select(r::stripe_began).first(conn)
}

#[derive(QueryableByName)]
struct StepRow {
    #[diesel(sql_type = Integer)]
    step: i32,
    #[diesel(sql_type = Text)]
    object: String,
    #[diesel(sql_type = Jsonb)]
    cursor: Value,
}

/// The steps that are not done, in their order.
pub(super) fn waiting(conn: &mut PgConnection, run_id: i64) -> Result<Vec<Step>, Error> {
    let rows: Vec<StepRow> = diesel::sql_query(
        "SELECT step, object, cursor FROM stripe_sync_steps
         WHERE run_id = $1 AND state = 'waiting' ORDER BY step",
    )
    .bind::<BigInt, _>(run_id)
    .load(conn)?;
    let step = |row: StepRow| {
        let unreadable = |error| Error::Internal(format!("the cursor of step {}: {error}", row.step));
        let plan = serde_json::from_value(row.cursor).map_err(unreadable)?;
        Ok(Step { step: row.step, object: row.object, plan })
    };
    rows.into_iter().map(step).collect()
}

/// Notes a page of a step, with the page itself in the caller's transaction. `rest`: where the step goes on;
/// `None`: it is done.
pub(super) fn advance(
    conn: &mut PgConnection,
    run_id: i64,
    step: i32,
    rest: Option<&Plan>,
    tally: Tally,
) -> Result<(), Error> {
    let cursor = rest.map(serde_json::to_value).transpose();
    let cursor = cursor.map_err(|error| Error::Internal(error.to_string()))?;
    diesel::sql_query(
        "UPDATE stripe_sync_steps SET cursor = coalesce($3, cursor),
             state = CASE WHEN $3 IS NULL THEN 'done' ELSE 'waiting' END,
             found = found + $4, same = same + $5, new = new + $6, changed = changed + $7,
             requests = requests + $8
         WHERE (run_id, step) = ($1, $2)",
    )
    .bind::<BigInt, _>(run_id)
    .bind::<Integer, _>(step)
    .bind::<Nullable<Jsonb>, _>(cursor)
    .bind::<BigInt, _>(tally.found)
    .bind::<BigInt, _>(tally.same)
    .bind::<BigInt, _>(tally.new)
    .bind::<BigInt, _>(tally.changed)
    .bind::<BigInt, _>(tally.requests)
    .execute(conn)?;
    Ok(())
}

/// Adds to the figures of a kind that came with the objects of another step: the tax ids of customers, what
/// exists on test clocks.
pub(super) fn add(conn: &mut PgConnection, run_id: i64, object: &str, tally: Tally) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO stripe_sync_steps AS s (run_id, step, object, what, cursor, state, found, same, new,
             changed)
         SELECT $1, coalesce(min(step) FILTER (WHERE object = $2), 1 + max(step)), $2, 'with others', '{}',
             'done', $3, $4, $5, $6
         FROM stripe_sync_steps WHERE run_id = $1
         ON CONFLICT (run_id, step) DO UPDATE SET found = s.found + excluded.found,
             same = s.same + excluded.same, new = s.new + excluded.new,
             changed = s.changed + excluded.changed",
    )
    .bind::<BigInt, _>(run_id)
    .bind::<Text, _>(object)
    .bind::<BigInt, _>(tally.found)
    .bind::<BigInt, _>(tally.same)
    .bind::<BigInt, _>(tally.new)
    .bind::<BigInt, _>(tally.changed)
    .execute(conn)
    .map(drop)
}

/// Ends all steps of a kind that the key may not read.
pub(super) fn forbid(conn: &mut PgConnection, run_id: i64, object: &str) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_sync_steps SET state = 'forbidden', requests = requests + 1
         WHERE run_id = $1 AND object = $2 AND state = 'waiting'",
    )
    .bind::<BigInt, _>(run_id)
    .bind::<Text, _>(object)
    .execute(conn)
    .map(drop)
}

/// Notes the last failed call of a run that goes on; `None`: calls succeed.
pub(super) fn note_error(conn: &mut PgConnection, run_id: i64, error: Option<&str>) -> QueryResult<()> {
    diesel::sql_query("UPDATE stripe_sync_runs SET error = $2 WHERE run_id = $1 AND state = 'running'")
        .bind::<BigInt, _>(run_id)
        .bind::<Nullable<Text>, _>(error)
        .execute(conn)
        .map(drop)
}

/// Ends a run: `done`, or `incomplete` if the key may not read some kinds, or `failed` with a reason.
pub(super) fn end(
    conn: &mut PgConnection,
    run_id: i64,
    failure: Option<&str>,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_sync_runs r
         SET ended_at = $3,
             state = CASE WHEN $2 IS NOT NULL THEN 'failed' WHEN f.kinds IS NOT NULL THEN 'incomplete'
                 ELSE 'done' END,
             error = coalesce($2, 'the key may not read ' || f.kinds)
         FROM (SELECT string_agg(DISTINCT object, ', ' ORDER BY object) AS kinds FROM stripe_sync_steps
               WHERE run_id = $1 AND state = 'forbidden') f
         WHERE r.run_id = $1 AND r.state = 'running'",
    )
    .bind::<BigInt, _>(run_id)
    .bind::<Nullable<Text>, _>(failure)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .map(drop)
}
