//! The levels that a transaction moves: locked, moved in memory event by event, written at the end.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Numeric, Text, Timestamptz, Untyped, Uuid as SqlUuid};
use rust_decimal::Decimal;

use super::{CHANGE, SET, State, standing, states};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::counters::CounterKey;
use crate::metering::event::Rejection;
use crate::metering::posting::counted_by;
use crate::metering::resolve::{Metered, Usage};
use crate::quantity::{LIMIT, Sum};

/// Org, series and subject (empty: none).
type Key = (i64, i64, String);

// The row that is there is locked and not written. Rows are taken in the order of the arrays.
statement!(Lock -> Untyped:
    "INSERT INTO usage_levels AS l (org_id, series_id, subject, set_value, changes) \
    SELECT o, s, j, 0, 0 FROM unnest(?, ?, ?) AS t (o, s, j) \
    ON CONFLICT (org_id, series_id, subject) DO UPDATE SET changes = l.changes WHERE false");
statement!(Read -> (BigInt, BigInt, Text, Nullable<Timestamptz>, Numeric, Numeric, Nullable<Timestamptz>):
    "SELECT l.org_id, l.series_id, l.subject, l.set_at, l.set_value, l.changes, l.changed_at \
    FROM unnest(?, ?, ?) AS t (o, s, j) \
    JOIN usage_levels l ON (l.org_id, l.series_id, l.subject) = (t.o, t.s, t.j)");
statement!(Write -> Untyped:
    "UPDATE usage_levels l SET set_at = t.a, set_value = t.v, changes = t.c, changed_at = t.b \
    FROM unnest(?, ?, ?, ?, ?, ?, ?) AS t (o, s, j, a, v, c, b) \
    WHERE (l.org_id, l.series_id, l.subject) = (t.o, t.s, t.j)");

type StateRow = (i64, i64, String, Option<DateTime<Utc>>, Sum, Sum, Option<DateTime<Utc>>);

/// One of them.
struct LoadedState {
    before: State,
    now: State,
    /// Changes that a late set may have to look for: stored ones first, then those of this transaction.
    changes: Vec<(DateTime<Utc>, Decimal)>,
    stored: usize,
}

/// The levels of a transaction. None where no level meter is counted, and then nothing is asked of the
/// database.
#[derive(Default)]
pub(crate) struct Levels(BTreeMap<Key, LoadedState>);

impl Levels {
    /// Locks the levels that `usage` may move, until the caller's transaction ends. They come after tiers and
    /// before counters.
    pub(crate) fn lock<'a>(
        conn: &mut PgConnection,
        usage: impl IntoIterator<Item = &'a Usage>,
    ) -> Result<Self, Error> {
        // Of each the time of the first set.
        let mut wanted: BTreeMap<Key, Option<DateTime<Utc>>> = BTreeMap::new();
        for one in usage {
            for metered in one.metered.iter().filter(|metered| metered.is_level()) {
                let first = wanted.entry(key(one, metered)).or_default();
                if is_set(metered) {
                    *first = Some(first.map_or(one.occurred_at, |first| first.min(one.occurred_at)));
                }
            }
        }
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        keyed::<Lock>(wanted.keys()).execute(conn)?;
        // A statement of its own: it sees what was committed while the one before waited.
        let rows: Vec<StateRow> = keyed::<Read>(wanted.keys()).load(conn)?;
        let mut levels = Self(rows.into_iter().map(held).collect());
        let late = wanted.into_iter().filter_map(|(key, first)| {
            let last = levels.0.get(&key)?.now.changed_at?;
            first.filter(|first| last >= *first).map(|first| (key, first))
        });
        let late: Vec<(Key, DateTime<Utc>)> = late.collect();
        for (key, from) in late {
            let found = changes(conn, &key, from)?;
            if let Some(held) = levels.0.get_mut(&key) {
                held.stored = found.len();
                held.changes = found;
            }
        }
        Ok(levels)
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the next event adds to counters, as things stand; `None`: it is of no level.
    pub(crate) fn counted(&self, usage: &Usage) -> Option<Vec<(CounterKey, Decimal)>> {
        if self.is_empty() || !usage.metered.iter().any(Metered::is_level) {
            return None;
        }
        let moves = |metered: &Metered| match self.0.get(&key(usage, metered)).filter(|_| metered.is_level())
        {
            Some(held) => (held.after(usage, metered).level() - held.now.level()).shown(),
            None => metered.counts(),
        };
        Some(counted_by(usage, moves).collect())
    }

    /// Lets the next event count, and notes on it what it moves.
    ///
    /// # Errors
    /// The rejection of one that would make a level too large to be exact.
    pub(crate) fn take(&mut self, usage: &mut Usage) -> Result<(), Rejection> {
        if self.is_empty() {
            return Ok(());
        }
        for place in 0..usage.metered.len() {
            let metered = &usage.metered[place];
            let Some(held) = self.0.get_mut(&key(usage, metered)).filter(|_| metered.is_level()) else {
                continue;
            };
            let after = held.after(usage, metered);
            let moves = (after.level() - held.now.level()).exact();
            let fits = after.signed().exact().is_some_and(|level| level.abs() < LIMIT);
            let Some(moves) = moves.filter(|_| fits) else {
                return Err(Rejection::new("data", "too_large", "the level would be 10^15 or more"));
            };
            if !is_set(metered) {
                held.changes.push((usage.occurred_at, metered.quantity));
            }
            held.now = after;
            usage.metered[place].moves = moves;
        }
        Ok(())
    }

    /// Forgets what was taken.
    pub(crate) fn reset(&mut self) {
        for held in self.0.values_mut() {
            held.now = held.before;
            held.changes.truncate(held.stored);
        }
    }

    /// Writes what was taken.
    pub(crate) fn write(&self, conn: &mut PgConnection) -> Result<(), Error> {
        let moved = self.0.iter().filter(|(_, held)| held.now != held.before);
        write(conn, moved.map(|(key, held)| (key, held.now)))
    }
}

impl LoadedState {
    fn after(&self, usage: &Usage, metered: &Metered) -> State {
        let changes_from = |from| {
            let mut sum = Sum::ZERO;
            self.changes.iter().filter(|(at, _)| *at >= from).for_each(|(_, change)| sum += *change);
            sum
        };
        self.now.after(usage.occurred_at, is_set(metered), metered.quantity, changes_from)
    }
}

fn is_set(metered: &Metered) -> bool {
    metered.value.as_deref() == Some(SET)
}

fn key(usage: &Usage, metered: &Metered) -> Key {
    (usage.org.org_id, metered.series.series_id, usage.subject.as_deref().unwrap_or_default().to_owned())
}

fn keyed<'a, Q: crate::db::prepared::StatementText>(
    keys: impl Iterator<Item = &'a Key> + Clone,
) -> Prepared<'a, Q> {
    Prepared::new()
        .bind::<BigInt, _>(keys.clone().map(|key| key.0).collect())
        .bind::<BigInt, _>(keys.clone().map(|key| key.1).collect())
        .bind::<Text, _>(keys.map(|key| key.2.as_str()).collect())
}

fn held(
    (org_id, series_id, subject, set_at, set_value, changes, changed_at): StateRow,
) -> (Key, LoadedState) {
    let now = State { set: set_at.map(|at| (at, set_value)), changes, changed_at };
    ((org_id, series_id, subject), LoadedState { before: now, now, changes: Vec::new(), stored: 0 })
}

fn write<'a>(
    conn: &mut PgConnection,
    moved: impl Iterator<Item = (&'a Key, State)> + Clone,
) -> Result<(), Error> {
    if moved.clone().next().is_none() {
        return Ok(());
    }
    let set = |state: State| state.set.unwrap_or_default();
    keyed::<Write>(moved.clone().map(|(key, _)| key))
        .bind::<Nullable<Timestamptz>, _>(
            moved.clone().map(|(_, state)| state.set.map(|set| set.0)).collect(),
        )
        .bind::<Numeric, _>(moved.clone().map(|(_, state)| set(state).1).collect())
        .bind::<Numeric, _>(moved.clone().map(|(_, state)| state.changes).collect())
        .bind::<Nullable<Timestamptz>, _>(moved.map(|(_, state)| state.changed_at).collect())
        .execute(conn)?;
    Ok(())
}

/// The stored changes of a level at and after a time. They are read where a set comes late, with changes
/// behind it.
fn changes(
    conn: &mut PgConnection,
    (org_id, series_id, subject): &Key,
    from: DateTime<Utc>,
) -> Result<Vec<(DateTime<Utc>, Decimal)>, Error> {
    #[derive(QueryableByName)]
    struct Change {
        #[diesel(sql_type = Timestamptz)]
        occurred_at: DateTime<Utc>,
        #[diesel(sql_type = Numeric)]
        quantity: Decimal,
    }
    let standing = standing("r.org_id = $1 AND r.series_id = $2 AND r.occurred_at >= $3");
    let sql =
        format!("SELECT occurred_at, quantity FROM {standing} e WHERE subject = $4 AND value = '{CHANGE}'");
    let rows: Vec<Change> = diesel::sql_query(sql)
        .bind::<BigInt, _>(org_id)
        .bind::<BigInt, _>(series_id)
        .bind::<Timestamptz, _>(from)
        .bind::<Text, _>(subject)
        .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.occurred_at, row.quantity)).collect())
}

/// Takes back the levels of an event whose records `taken` take back, and notes on it what that moves. Its
/// levels are locked, and its records are not taken back yet. A change leaves the sum; behind the last set,
/// or as a set that is not the last, nothing changes; and where the last set goes, the records say what is
/// left.
///
/// # Errors
/// When the database fails; [`Error::Conflict`] when the level would be too large.
pub(crate) fn take_back(conn: &mut PgConnection, taken: &mut Usage) -> Result<(), Error> {
    for place in 0..taken.metered.len() {
        let metered = &taken.metered[place];
        if !metered.is_level() {
            continue;
        }
        let key = key(taken, metered);
        let rows: Vec<StateRow> = keyed::<Read>([&key].into_iter()).load(conn)?;
        let Some((_, LoadedState { now, .. })) = rows.into_iter().map(held).next() else { continue };
        let value = -metered.quantity;
        let after = match is_set(metered) {
            true if now.set == Some((taken.occurred_at, value.into())) => without(conn, &key, taken)?,
            false if now.counts(taken.occurred_at) => State { changes: now.changes - value, ..now },
            _ => now,
        };
        let moves = (after.level() - now.level()).exact();
        taken.metered[place].moves = moves.ok_or_else(|| {
            Error::conflict("amount_too_large", "the level would be too large a number to be kept")
        })?;
        write(conn, [(&key, after)].into_iter())?;
    }
    Ok(())
}

/// What the records of a level say without those of one event.
fn without(
    conn: &mut PgConnection,
    (org_id, series_id, subject): &Key,
    taken: &Usage,
) -> Result<State, Error> {
    #[derive(QueryableByName)]
    struct Left {
        #[diesel(sql_type = Nullable<Timestamptz>)]
        set_at: Option<DateTime<Utc>>,
        #[diesel(sql_type = Numeric)]
        set_value: Sum,
        #[diesel(sql_type = Numeric)]
        changes: Sum,
        #[diesel(sql_type = Nullable<Timestamptz>)]
        changed_at: Option<DateTime<Utc>>,
    }
    let states = states(&standing(
        "r.org_id = $1 AND r.series_id = $2 AND coalesce(r.subject, '') = $3 AND NOT r.event_key = ANY ($4)",
    ));
    let left: Option<Left> =
        diesel::sql_query(format!("SELECT set_at, set_value, changes, changed_at FROM {states} s"))
            .bind::<BigInt, _>(org_id)
            .bind::<BigInt, _>(series_id)
            .bind::<Text, _>(subject)
            .bind::<Array<SqlUuid>, _>(vec![taken.event_key])
            .get_result(conn)
            .optional()?;
    Ok(left.map_or_else(State::default, |left| State {
        set: left.set_at.map(|at| (at, left.set_value)),
        changes: left.changes,
        changed_at: left.changed_at,
    }))
}
