//! The levels that a transaction moves: it locks them, moves them in memory event by event, and writes them
//! at the end.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Numeric, Text, Timestamptz, Untyped, Uuid as SqlUuid};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::{CHANGE, LevelState, SET, states, valid_records};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::counters::CounterKey;
use crate::metering::event::Rejection;
use crate::metering::posting::counted_by;
use crate::metering::usage::{Metered, Usage};
use crate::quantity::{LIMIT, Sum};

/// Org, series and subject (empty: none).
type Key = (i64, i64, String);

// An existing row is locked and not written. Rows are locked in the order of the arrays.
statement!(LockLevels -> Untyped:
    "INSERT INTO usage_levels AS l (org_id, series_id, subject, set_value, changes) \
    SELECT o, s, j, 0, 0 FROM unnest(?, ?, ?) AS t (o, s, j) \
    ON CONFLICT (org_id, series_id, subject) DO UPDATE SET changes = l.changes WHERE false");
statement!(ReadLevels -> (
        BigInt, BigInt, Text, Nullable<Timestamptz>, Numeric, Numeric, Nullable<Timestamptz>
    ):
    "SELECT l.org_id, l.series_id, l.subject, l.set_at, l.set_value, l.changes, l.changed_at \
    FROM unnest(?, ?, ?) AS t (o, s, j) \
    JOIN usage_levels l ON (l.org_id, l.series_id, l.subject) = (t.o, t.s, t.j)");
statement!(WriteLevels -> Untyped:
    "UPDATE usage_levels l SET set_at = t.a, set_value = t.v, changes = t.c, changed_at = t.b \
    FROM unnest(?, ?, ?, ?, ?, ?, ?) AS t (o, s, j, a, v, c, b) \
    WHERE (l.org_id, l.series_id, l.subject) = (t.o, t.s, t.j)");

type LevelRow = (i64, i64, String, Option<DateTime<Utc>>, Sum, Sum, Option<DateTime<Utc>>);

/// A locked level.
struct LockedLevel {
    before: LevelState,
    now: LevelState,
    /// Changes that a late set may need: first stored ones, then those of this transaction.
    changes: Vec<(DateTime<Utc>, Decimal)>,
    /// How many of `changes` are stored ones.
    stored_changes: usize,
}

/// The levels of a transaction. Without usage of level meters it is empty, and nothing is sent to the
/// database.
#[derive(Default)]
pub(crate) struct Levels(BTreeMap<Key, LockedLevel>);

impl Levels {
    /// Locks the levels that `usage` may move until the caller's transaction ends: after tiers, before
    /// counters.
    pub(crate) fn lock<'a>(
        conn: &mut PgConnection,
        usage: impl IntoIterator<Item = &'a Usage>,
    ) -> Result<Self, Error> {
        // Each with the time of its first set.
        let mut first_sets: BTreeMap<Key, Option<DateTime<Utc>>> = BTreeMap::new();
        for usage in usage {
            for metered in usage.metered.iter().filter(|metered| metered.is_level()) {
                let first = first_sets.entry(key(usage, metered)).or_default();
                if is_set(metered) {
                    *first = Some(first.map_or(usage.occurred_at, |first| first.min(usage.occurred_at)));
                }
            }
        }
        if first_sets.is_empty() {
            return Ok(Self::default());
        }
        bind_keys::<LockLevels>(first_sets.keys()).execute(conn)?;
        // A new statement sees what others committed while the one before waited.
        let rows: Vec<LevelRow> = bind_keys::<ReadLevels>(first_sets.keys()).load(conn)?;
        let mut levels = Self(rows.into_iter().map(from_row).collect());
        let late_sets = first_sets.into_iter().filter_map(|(key, first)| {
            let last = levels.0.get(&key)?.now.changed_at?;
            first.filter(|first| last >= *first).map(|first| (key, first))
        });
        let late_sets: Vec<(Key, DateTime<Utc>)> = late_sets.collect();
        for (key, from) in late_sets {
            let changes = read_changes(conn, &key, from)?;
            if let Some(level) = levels.0.get_mut(&key) {
                level.stored_changes = changes.len();
                level.changes = changes;
            }
        }
        Ok(levels)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the next event would add to counters now; `None`: no level meter counts it.
    pub(crate) fn counted(&self, usage: &Usage) -> Option<Vec<(CounterKey, Decimal)>> {
        if self.is_empty() || !usage.metered.iter().any(Metered::is_level) {
            return None;
        }
        let moves = |metered: &Metered| match self.0.get(&key(usage, metered)).filter(|_| metered.is_level())
        {
            Some(level) => (level.after(usage, metered).level() - level.now.level()).shown(),
            None => metered.counts(),
        };
        Some(counted_by(usage, moves).collect())
    }

    /// Counts the next event, and sets its [`Metered::moves`].
    ///
    /// # Errors
    /// Rejects an event that would make a level too large to be exact.
    pub(crate) fn take(&mut self, usage: &mut Usage) -> Result<(), Rejection> {
        if self.is_empty() {
            return Ok(());
        }
        for index in 0..usage.metered.len() {
            let metered = &usage.metered[index];
            let Some(level) = self.0.get_mut(&key(usage, metered)).filter(|_| metered.is_level()) else {
                continue;
            };
            let after = level.after(usage, metered);
            let moves = (after.level() - level.now.level()).exact();
            let fits = after.signed().exact().is_some_and(|signed| signed.abs() < LIMIT);
            let Some(moves) = moves.filter(|_| fits) else {
                return Err(Rejection::new("data", "too_large", "the level would be 10^15 or more"));
            };
            if !is_set(metered) {
                level.changes.push((usage.occurred_at, metered.quantity));
            }
            level.now = after;
            usage.metered[index].moves = moves;
        }
        Ok(())
    }

    /// Forgets the events that were counted.
    pub(crate) fn reset(&mut self) {
        for level in self.0.values_mut() {
            level.now = level.before;
            level.changes.truncate(level.stored_changes);
        }
    }

    /// Writes the levels that moved.
    pub(crate) fn write(&self, conn: &mut PgConnection) -> Result<(), Error> {
        let moved = self.0.iter().filter(|(_, level)| level.now != level.before);
        write(conn, moved.map(|(key, level)| (key, level.now)))
    }
}

impl LockedLevel {
    fn after(&self, usage: &Usage, metered: &Metered) -> LevelState {
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

fn bind_keys<'a, Q: crate::db::prepared::StatementText>(
    keys: impl Iterator<Item = &'a Key> + Clone,
) -> Prepared<'a, Q> {
    Prepared::new()
        .bind::<BigInt, _>(keys.clone().map(|key| key.0).collect())
        .bind::<BigInt, _>(keys.clone().map(|key| key.1).collect())
        .bind::<Text, _>(keys.map(|key| key.2.as_str()).collect())
}

fn from_row(
    (org_id, series_id, subject, set_at, set_value, changes, changed_at): LevelRow,
) -> (Key, LockedLevel) {
    let now = LevelState { set: set_at.map(|at| (at, set_value)), changes, changed_at };
    ((org_id, series_id, subject), LockedLevel { before: now, now, changes: Vec::new(), stored_changes: 0 })
}

fn write<'a>(
    conn: &mut PgConnection,
    moved: impl Iterator<Item = (&'a Key, LevelState)> + Clone,
) -> Result<(), Error> {
    if moved.clone().next().is_none() {
        return Ok(());
    }
    let set = |state: LevelState| state.set.unwrap_or_default();
    bind_keys::<WriteLevels>(moved.clone().map(|(key, _)| key))
        .bind::<Nullable<Timestamptz>, _>(
            moved.clone().map(|(_, state)| state.set.map(|set| set.0)).collect(),
        )
        .bind::<Numeric, _>(moved.clone().map(|(_, state)| set(state).1).collect())
        .bind::<Numeric, _>(moved.clone().map(|(_, state)| state.changes).collect())
        .bind::<Nullable<Timestamptz>, _>(moved.map(|(_, state)| state.changed_at).collect())
        .execute(conn)?;
    Ok(())
}

/// Reads the stored changes of a level at and after a time. Needed when a set arrives late, with changes
/// after it.
fn read_changes(
    conn: &mut PgConnection,
    (org_id, series_id, subject): &Key,
    from: DateTime<Utc>,
) -> Result<Vec<(DateTime<Utc>, Decimal)>, Error> {
    #[derive(QueryableByName)]
    struct ChangeRow {
        #[diesel(sql_type = Timestamptz)]
        occurred_at: DateTime<Utc>,
        #[diesel(sql_type = Numeric)]
        quantity: Decimal,
    }
    let valid_records = valid_records("r.org_id = $1 AND r.series_id = $2 AND r.occurred_at >= $3");
    let sql = format!(
        "SELECT occurred_at, quantity FROM {valid_records} e WHERE subject = $4 AND value = '{CHANGE}'"
    );
    let rows: Vec<ChangeRow> = diesel::sql_query(sql)
        .bind::<BigInt, _>(org_id)
        .bind::<BigInt, _>(series_id)
        .bind::<Timestamptz, _>(from)
        .bind::<Text, _>(subject)
        .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.occurred_at, row.quantity)).collect())
}

/// Takes an event back from its levels and sets [`Metered::moves`] of `reversal`, which takes back its
/// records later. Its levels are locked. A change is subtracted; nothing moves for a change before the last
/// set or a set that is not the last; without the last set, the records say what is left.
///
/// # Errors
/// [`Error::Conflict`] when the level would be too large.
pub(crate) fn take_back(conn: &mut PgConnection, reversal: &mut Usage) -> Result<(), Error> {
    for index in 0..reversal.metered.len() {
        let metered = &reversal.metered[index];
        if !metered.is_level() {
            continue;
        }
        let key = key(reversal, metered);
        let rows: Vec<LevelRow> = bind_keys::<ReadLevels>([&key].into_iter()).load(conn)?;
        let Some((_, LockedLevel { now, .. })) = rows.into_iter().map(from_row).next() else { continue };
        let value = -metered.quantity;
        let after = match is_set(metered) {
            true if now.set == Some((reversal.occurred_at, value.into())) => {
                state_without(conn, &key, reversal.event_key)?
            }
            false if now.counts_change(reversal.occurred_at) => {
                LevelState { changes: now.changes - value, ..now }
            }
            _ => now,
        };
        let moves = (after.level() - now.level()).exact();
        reversal.metered[index].moves = moves.ok_or_else(|| {
            Error::conflict("amount_too_large", "the level would be too large a number to be kept")
        })?;
        write(conn, [(&key, after)].into_iter())?;
    }
    Ok(())
}

/// The state of a level by its records, without those of one event.
fn state_without(
    conn: &mut PgConnection,
    (org_id, series_id, subject): &Key,
    event_key: Uuid,
) -> Result<LevelState, Error> {
    #[derive(QueryableByName)]
    struct StateRow {
        #[diesel(sql_type = Nullable<Timestamptz>)]
        set_at: Option<DateTime<Utc>>,
        #[diesel(sql_type = Numeric)]
        set_value: Sum,
        #[diesel(sql_type = Numeric)]
        changes: Sum,
        #[diesel(sql_type = Nullable<Timestamptz>)]
        changed_at: Option<DateTime<Utc>>,
    }
    let states = states(&valid_records(
        "r.org_id = $1 AND r.series_id = $2 AND coalesce(r.subject, '') = $3 AND NOT r.event_key = ANY ($4)",
    ));
    let left: Option<StateRow> =
        diesel::sql_query(format!("SELECT set_at, set_value, changes, changed_at FROM {states} s"))
            .bind::<BigInt, _>(org_id)
            .bind::<BigInt, _>(series_id)
            .bind::<Text, _>(subject)
            .bind::<Array<SqlUuid>, _>(vec![event_key])
            .get_result(conn)
            .optional()?;
    Ok(left.map_or_else(LevelState::default, |left| LevelState {
        set: left.set_at.map(|at| (at, left.set_value)),
        changes: left.changes,
        changed_at: left.changed_at,
    }))
}
