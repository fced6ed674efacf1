//! Looks again at days that were summed up, and mends what does not say what the records say.
//!
//! Usage is summed up in the transaction that stores it, so no crash puts a day in doubt; a fault of the
//! program, a hand in the database or a damaged page does. Nothing tells of those, so every day is looked at:
//! round after round, org by org, the last few days each time and an older one in [`OLDER`] in its turn. A
//! round after a start begins with a day by chance. Only one daemon does so at a time, a little now and then,
//! and rests [`RESTS`] times as long as it worked.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Date, Integer};

use super::derived_tables::parts::{Orgs, Part};
use super::derived_tables::{self, DerivedTable, Given, Rules};
use crate::error::Error;

/// A day older than [`RECENT`] is looked at in one round of so many.
const OLDER: i32 = 32;
/// Days that every round looks at: a zone may be a day ahead of UTC or behind.
const RECENT: u64 = 3;
/// How long a turn works before it rests: no longer than a request may well wait for a processor.
const WORK: Duration = Duration::from_millis(20);
/// How many times as long it rests.
const RESTS: u32 = 20;
/// Rounds are at least so far apart.
const ROUND: Duration = Duration::from_secs(300);
/// A day that takes longer than this is left for `coulomb rebuild summaries`.
const LONGEST: &str = "SET LOCAL statement_timeout = '60s'";
/// Rows of a day mended in one transaction.
const ROWS: usize = 1_000;
/// Rows of a day told in the log.
const TOLD: usize = 10;
/// Advisory lock of the one connection that looks.
const LOCK: i64 = 2_685_665;

/// Where the look has come to.
#[derive(Default)]
pub struct Refresher(Mutex<State>);

#[derive(Default)]
struct State {
    round: Option<i32>,
    orgs: VecDeque<i64>,
    days: VecDeque<Part>,
    begun: Option<Instant>,
}

/// What a turn did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub days: u64,
    /// Rows that were mended.
    pub repaired: u64,
    /// How long to rest before there is more to do; `None`: the round is over, or another daemon's.
    pub rest: Option<Duration>,
}

impl Refresher {
    /// One turn. `conn` is to be the worker's own: it holds the lock that keeps other daemons from the same
    /// work.
    ///
    /// # Errors
    /// When the database fails; the day in hand is then looked at in the next round.
    pub fn turn(&self, conn: &mut PgConnection, given: Given) -> Result<Turn, Error> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        if !is_ours(conn)? {
            return Ok(Turn::default());
        }
        let rules = Rules::load(conn, given)?;
        let mut turn = Turn::default();
        while started.elapsed() < WORK {
            let Some(part) = state.next(conn, &rules, given.as_of.now)? else { return Ok(turn) };
            turn.days += 1;
            turn.repaired += refresh_day(conn, &rules, part)?;
        }
        turn.rest = Some(started.elapsed() * RESTS);
        Ok(turn)
    }
}

impl State {
    /// The next day to look at; `None`: nothing for now.
    fn next(
        &mut self,
        conn: &mut PgConnection,
        rules: &Rules,
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
            if self.begun.is_some_and(|begun| begun.elapsed() < ROUND) {
                return Ok(None);
            }
            self.begun = Some(Instant::now());
            self.round = Some(self.round.map_or_else(by_chance, |round| (round + 1) % OLDER));
            self.orgs = derived_tables::orgs_with_usage(conn)?.into();
        }
    }
}

fn by_chance() -> i32 {
    let mut byte = [0];
    // Without randomness every start begins with the same day: no harm.
    let _ = getrandom::fill(&mut byte);
    i32::from(byte[0]) % OLDER
}

fn is_ours(conn: &mut PgConnection) -> Result<bool, Error> {
    #[derive(QueryableByName)]
    struct LockAnswer {
        #[diesel(sql_type = Bool)]
        held: bool,
    }
    // A session may take its own lock again; it must not pile up.
    let held: LockAnswer = diesel::sql_query(
        "SELECT CASE WHEN EXISTS (SELECT FROM pg_locks
             WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = $1::bigint::oid AND granted)
             THEN true ELSE pg_try_advisory_lock($1) END AS held",
    )
    .bind::<BigInt, _>(LOCK)
    .get_result(conn)?;
    Ok(held.held)
}

/// The days of an org that this round looks at, newest first.
fn days(
    conn: &mut PgConnection,
    rules: &Rules,
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
    let recent = today.checked_sub_days(Days::new(RECENT - 1)).unwrap_or(today);
    // Days with summaries, by steps through the index; and the recent ones, summaries or not.
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
    .bind::<Integer, _>(OLDER)
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

/// Compares a day with its records and mends what differs; returns how many rows were mended.
pub fn refresh_day(conn: &mut PgConnection, rules: &Rules, part: Part) -> Result<u64, Error> {
    let mut repaired = 0;
    for book in [DerivedTable::Uniques, DerivedTable::Summaries] {
        let found = conn.transaction(|conn| {
            conn.batch_execute(LONGEST)?;
            derived_tables::differences(conn, rules, book, part, ROWS)
        })?;
        if found.is_empty() {
            continue;
        }
        for difference in found.iter().take(TOLD) {
            tracing::warn!(table = book.table(), %difference, "a summary did not say what its records say");
        }
        let mended = derived_tables::mend(conn, rules, book, part, &found)?;
        tracing::warn!(table = book.table(), org_id = part.orgs.first, day = %part.from, rows = mended,
            "repaired");
        repaired += u64::try_from(mended).unwrap_or_default();
    }
    Ok(repaired)
}
