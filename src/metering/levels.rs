//! Levels: how much there is (stored bytes, contacts, seats), across all periods. Owns `usage_levels`.
//!
//! **Events.** An event either *sets* the level of its series and subject to a value of 0 or more (the
//! meter's `value_field`), or *changes* it by a signed amount (its `change_field`). It counts once, by its
//! key, like any other usage.
//!
//! **The level at an instant** depends only on the set of valid events, not on the order in which they
//! arrive. It is the value of the last set at or before the instant, plus the changes from the time of that
//! set on; without a set, the sum of all changes. At one instant sets come before changes, so a change is
//! added to a set of the same time; of several sets the largest counts. A change before the last set does not
//! matter afterwards. An event that was taken back counts as if it had never arrived.
//!
//! **Below zero.** While changes are missing (the removal arrived, the addition did not) the sum may be below
//! zero. The sum is stored with its sign, or the addition would count twice; but the level shown is 0. (Lago
//! lost the sign at the border of periods and charged for what was not there: getlago/lago-api#5569.)
//!
//! **Limits.** A counter of the period `always` is the sum of the present levels of the series and subjects
//! that its slot counts. An event moves it by as much as it moves the level, which is 0 for a late event
//! before the last set.
//!
//! **Over a time** ([`level_figures`]): the average weights each level by how long it lasted; the peak is the
//! highest level at any instant.

mod figures;
pub mod list;
mod locked;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use crate::quantity::Sum;

use self::figures::{LevelFigures, level_figures};
pub(crate) use self::list::costs;
pub(crate) use self::locked::Levels;
pub(crate) use self::locked::take_back;

/// `value` of a level meter's record: the event sets the level.
pub const SET: &str = "set";
/// `value` of a level meter's record: the event changes the level.
pub const CHANGE: &str = "change";

/// The state of a level, of one series and subject, after all valid events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelState {
    /// Time and value of the last set.
    pub set: Option<(DateTime<Utc>, Sum)>,
    /// The sum of the changes at and after it.
    pub changes: Sum,
    /// Time of the latest change.
    pub changed_at: Option<DateTime<Utc>>,
}

impl LevelState {
    /// The level with its sign.
    #[must_use]
    pub fn signed(&self) -> Sum {
        self.set.map_or(Sum::ZERO, |(_, value)| value) + self.changes
    }

    /// The level as it is shown: at least 0.
    #[must_use]
    pub fn level(&self) -> Sum {
        self.signed().max(Sum::ZERO)
    }

    /// Whether a set of this time and value becomes the last set.
    fn is_last_set(&self, at: DateTime<Utc>, value: Sum) -> bool {
        self.set.is_none_or(|set| (at, value) > set)
    }

    /// Whether a change of this time is added to the last set.
    fn counts_change(&self, at: DateTime<Utc>) -> bool {
        self.set.is_none_or(|(set_at, _)| at >= set_at)
    }

    /// The state after one more event. `changes_from` returns the sum of the changes at and after a time,
    /// including those of the event's own batch.
    #[must_use]
    pub fn after(
        self,
        at: DateTime<Utc>,
        is_set: bool,
        value: Decimal,
        changes_from: impl FnOnce(DateTime<Utc>) -> Sum,
    ) -> Self {
        match is_set {
            true if self.is_last_set(at, value.into()) => {
                let changes =
                    if self.changed_at.is_some_and(|last| last >= at) { changes_from(at) } else { Sum::ZERO };
                Self { set: Some((at, value.into())), changes, ..self }
            }
            true => self,
            false => {
                let changes = if self.counts_change(at) { self.changes + value } else { self.changes };
                Self { changes, changed_at: self.changed_at.max(Some(at)), ..self }
            }
        }
    }
}

/// The valid records of level meters that match `conditions` (on `r`), as SQL: those that are neither taken
/// back nor replaced. Columns: org, series, subject, time, value, quantity, key.
#[must_use]
pub fn valid_records(conditions: &str) -> String {
    format!(
        "(SELECT org_id, series_id, coalesce(subject, '') AS subject, occurred_at, value, quantity, event_key
             FROM (
             SELECT r.*, correction % 2 = 0 AND lead(correction) OVER (
                 PARTITION BY org_id, meter_id, occurred_at, event_key ORDER BY correction) IS NULL AS stands
             FROM usage_records r WHERE {conditions}) r
         WHERE stands AND value IN ('{SET}', '{CHANGE}'))"
    )
}

/// The state of each series and subject by its [`valid_records`], as SQL: the columns of `usage_levels`.
#[must_use]
pub fn states(valid_records: &str) -> String {
    format!(
        "(SELECT org_id, series_id, subject, max(last_set) AS set_at,
             coalesce(max(quantity) FILTER (WHERE value = '{SET}' AND occurred_at = last_set),
                 0) AS set_value,
             coalesce(sum(quantity) FILTER (
                 WHERE value = '{CHANGE}' AND (last_set IS NULL OR occurred_at >= last_set)), 0) AS changes,
             max(occurred_at) FILTER (WHERE value = '{CHANGE}') AS changed_at
         FROM (SELECT *, max(occurred_at) FILTER (WHERE value = '{SET}')
                   OVER (PARTITION BY org_id, series_id, subject) AS last_set
               FROM {valid_records} e) e
         GROUP BY org_id, series_id, subject)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds; whether the event sets the level; value.
    type TestEvent = (i64, bool, i64);

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("a time")
    }

    /// The state after the events, one after the other.
    fn state_after(events: &[TestEvent]) -> LevelState {
        let mut state = LevelState::default();
        for (n, (seconds, is_set, value)) in events.iter().enumerate() {
            let changes_from = |from| {
                let mut sum = Sum::ZERO;
                let before =
                    events[..n].iter().filter(|(seconds, is_set, _)| !is_set && at(*seconds) >= from);
                before.for_each(|(_, _, value)| sum += Decimal::from(*value));
                sum
            };
            state = state.after(at(*seconds), *is_set, (*value).into(), changes_from);
        }
        state
    }

    #[test]
    fn the_level_follows_from_the_set_of_events() {
        let table: [(&str, &[TestEvent], i64); 12] = [
            ("nothing", &[], 0),
            ("changes alone add up", &[(1, false, 5), (2, false, -2)], 3),
            ("a set, then changes", &[(1, true, 10), (2, false, 5), (3, false, -1)], 14),
            ("a later set forgets them", &[(1, true, 10), (2, false, 5), (3, true, 7)], 7),
            ("a change behind the set", &[(3, true, 7), (2, false, 5)], 7),
            ("a set behind a set", &[(3, true, 7), (2, true, 100)], 7),
            ("a set that comes late, before changes", &[(5, false, 4), (2, true, 10)], 14),
            ("at one instant the change is on top", &[(2, true, 10), (2, false, 3)], 13),
            ("whichever came first", &[(2, false, 3), (2, true, 10)], 13),
            ("of two sets the larger", &[(2, true, 10), (2, true, 12), (2, true, 11)], 12),
            ("below zero there is nothing", &[(1, false, -5)], 0),
            ("and the sign is kept", &[(2, false, -5), (1, false, 8)], 3),
        ];
        for (name, events, level) in table {
            // Every order of arrival, for a few events.
            let mut order: Vec<TestEvent> = events.to_vec();
            for _ in 0..order.len().max(1) {
                assert_eq!(state_after(&order).level(), Sum::from(Decimal::from(level)), "{name}: {order:?}");
                let one = order.len().min(1);
                order.rotate_left(one);
                let mut back = order.clone();
                back.reverse();
                assert_eq!(state_after(&back).level(), Sum::from(Decimal::from(level)), "{name}: {back:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_order_makes_the_same(
            events in proptest::collection::vec((0_i64..6, proptest::bool::ANY, -5_i64..9), 0..9),
            seed in 0_usize..1000,
        ) {
            let events: Vec<TestEvent> =
                events.into_iter().map(|(at, is_set, value)| (at, is_set,
                    if is_set { value.abs() } else { value })).collect();
            let mut other = events.clone();
            let length = other.len().max(1);
            for n in 0..other.len() {
                other.swap(n, (n * 7 + seed) % length);
            }
            proptest::prop_assert_eq!(state_after(&events), state_after(&other));
        }
    }
}
