//! A worker that compares daily summaries and unique values with the records and repairs them.
//!
//! A transaction stores usage together with its sums, so a crash makes no difference. A fault of the program,
//! a person in the database or a damaged page can, and nothing reports those. So the worker goes through all
//! orgs, round after round. Each round compares the last [`RECENT_DAYS`] days, and one in
//! [`ROUNDS_PER_OLD_DAY`] of the older days; the first round after a start takes a random share. Only one
//! daemon works at a time; it works shortly and rests [`REST_FACTOR`] times as long.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Date, Integer};

use super::derived_tables::parts::{Orgs, Part};
use super::derived_tables::{self, CountingRules, CountingSettings, DerivedTable};
use crate::error::Error;
use crate::messages;

/// Each older day is compared once in so many rounds.
const ROUNDS_PER_OLD_DAY: i32 = 32;
/// Days that every round compares: a time zone may be a day ahead of UTC or behind it.
const RECENT_DAYS: u64 = 3;
/// How long a turn works before it rests. Short, because a request may have to wait this long for a
/// processor.
const TURN_LENGTH: Duration = Duration::from_millis(20);
/// A turn rests this many times the time that it worked.
const REST_FACTOR: u32 = 20;
/// The least time from the start of one round to the next.
const SHORTEST_ROUND: Duration = Duration::from_secs(300);
/// A day that takes longer is left to `coulomb rebuild summaries`.
const DAY_TIMEOUT_SQL: &str = "SET LOCAL statement_timeout = '60s'";
/// Rows of a day repaired in one transaction.
const ROWS_PER_REPAIR: usize = 1_000;
/// Rows of a day reported in the log.
const ROWS_LOGGED: usize = 10;
/// Key of the advisory lock that lets only one daemon repair.
const LOCK: i64 = 2_685_665;

/// The repair of daily summaries, and where its round is.
#[derive(Default)]
pub struct SummaryRepair(Mutex<RepairState>);

#[derive(Default)]
struct RepairState {
    round: Option<i32>,
    orgs: VecDeque<i64>,
    days: VecDeque<Part>,
    begun: Option<Instant>,
}

/// What a turn did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub days: u64,
    /// Rows that were repaired.
    pub repaired: u64,
    /// How long to rest; `None`: the round is over, or another daemon works.
    pub rest: Option<Duration>,
}

impl SummaryRepair {
    /// Works for one turn. `conn` must be the worker's own: its session has the lock that keeps other daemons
    /// from the same work.
    ///
    /// # Errors
    /// When the database fails; the next round then compares the current day.
    pub fn turn(&self, conn: &mut PgConnection, settings: CountingSettings) -> Result<Turn, Error> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        if !has_lock(conn)? {
            return Ok(Turn::default());
        }
        let rules = CountingRules::load(conn, settings)?;
        let mut turn = Turn::default();
        while started.elapsed() < TURN_LENGTH {
            let Some(part) = state.next(conn, &rules, settings.as_of.now)? else { return Ok(turn) };
            turn.days += 1;
            turn.repaired += repair_day(conn, &rules, part)?;
        }
        turn.rest = Some(started.elapsed() * REST_FACTOR);
        Ok(turn)
    }
}

impl RepairState {
    /// The next day to compare; `None`: none until the next round.
    fn next(
        &mut self,
        conn: &mut PgConnection,
        rules: &CountingRules,
        now: DateTime<Utc>,
    ) -> Result<Option<Part>, Error> {
        loop {
            if let Some(part) = self.days.pop_front() {
                return Ok(Some(part));
            }
            if let Some(org_id) = self.orgs.pop_front() {
                self.days = days(conn, rules, org_id, self.round.unwrap_or_default(), now)?;
                continue;
            }
            if self.begun.is_some_and(|begun| begun.elapsed() < SHORTEST_ROUND) {
                return Ok(None);
            }
            self.begun = Some(Instant::now());
            self.round = Some(self.round.map_or_else(random_round, |round| (round + 1) % ROUNDS_PER_OLD_DAY));
            self.orgs = derived_tables::orgs_with_usage(conn)?.into();
        }
    }
}

fn random_round() -> i32 {
    let mut byte = [0];
    // Without randomness every start begins with the same round: no harm.
    let _ = getrandom::fill(&mut byte);
    i32::from(byte[0]) % ROUNDS_PER_OLD_DAY
}

fn has_lock(conn: &mut PgConnection) -> Result<bool, Error> {
    #[derive(QueryableByName)]
    struct LockAnswer {
        #[diesel(sql_type = Bool)]
        held: bool,
    }
    // PostgreSQL counts how often a session takes its own lock: it must not be taken again.
    let held: LockAnswer = diesel::sql_query(
        "SELECT CASE WHEN EXISTS (SELECT FROM pg_locks
             WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = $1::bigint::oid AND granted)
             THEN true ELSE pg_try_advisory_lock($1) END AS held",
    )
    .bind::<BigInt, _>(LOCK)
    .get_result(conn)?;
    Ok(held.held)
}

/// The days of an org that this round compares, newest first.
fn days(
    conn: &mut PgConnection,
    rules: &CountingRules,
    org_id: i64,
    round: i32,
    now: DateTime<Utc>,
) -> Result<VecDeque<Part>, Error> {
    #[derive(QueryableByName)]
    struct Day {
        #[diesel(sql_type = Date)]
        day: NaiveDate,
    }
    let today = now.date_naive();
    let recent = today.checked_sub_days(Days::new(RECENT_DAYS - 1)).unwrap_or(today);
    // The days with summaries, one step in the index each; and the recent days, with summaries or not.
    let rows: Vec<Day> = diesel::sql_query(
        "WITH RECURSIVE d (day) AS (
             (SELECT day FROM daily_summaries WHERE org_id = $1 ORDER BY org_id DESC, day DESC LIMIT 1)
             UNION ALL
             SELECT (SELECT s.day FROM daily_summaries s WHERE s.org_id = $1 AND s.day < d.day
                 ORDER BY s.org_id DESC, s.day DESC LIMIT 1)
             FROM d WHERE d.day IS NOT NULL)
         SELECT day FROM d WHERE day IS NOT NULL AND (day >= $2 OR (day - DATE '1970-01-01') % $3 = $4)
         UNION SELECT $2 + n FROM generate_series(0, $5) AS n
         ORDER BY day DESC",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Date, _>(recent)
    .bind::<Integer, _>(ROUNDS_PER_OLD_DAY)
    .bind::<Integer, _>(round)
    .bind::<Integer, _>((today.num_days_from_ce() - recent.num_days_from_ce()) + 1)
    .load(conn)?;
    let whole = rules.first_whole_day.unwrap_or(NaiveDate::MIN);
    Ok(rows
        .into_iter()
        .filter(|row| row.day >= whole)
        .filter_map(|row| Some(Part { orgs: Orgs::one(org_id), from: row.day, before: row.day.succ_opt()? }))
        .collect())
}

/// Compares a day with its records and repairs it; returns how many rows were repaired.
pub fn repair_day(conn: &mut PgConnection, rules: &CountingRules, part: Part) -> Result<u64, Error> {
    let mut repaired = 0;
    for table in [DerivedTable::Uniques, DerivedTable::Summaries] {
        let found = conn.transaction(|conn| {
            conn.batch_execute(DAY_TIMEOUT_SQL)?;
            derived_tables::differences(conn, rules, table, part, ROWS_PER_REPAIR)
        })?;
        if found.is_empty() {
            continue;
        }
        for difference in found.iter().take(ROWS_LOGGED) {
            tracing::warn!(table = table.sql_name(), %difference, "a summary differs from its records");
        }
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        let now = rules.settings.as_of.now;
        messages::write(conn, vec![super::drift_found(table.sql_name(), &told)], now)?;
        let mended = derived_tables::repair(conn, rules, table, part, &found)?;
        tracing::warn!(table = table.sql_name(), org_id = part.orgs.first, day = %part.from, rows = mended,
            "repaired");
        repaired += u64::try_from(mended).unwrap_or_default();
    }
    Ok(repaired)
}
