//! Figures of a level over a time: its first and last value, its average and its peak.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::LevelState;
use crate::quantity::{PLACES, Sum};

/// Figures of a level over a time `[from, to)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LevelFigures {
    /// The level at the first instant.
    pub(super) start: Decimal,
    /// The level at the end.
    pub(super) end: Decimal,
    /// Weighted by how long each level lasted, rounded half-even to twelve places.
    pub(super) average: Decimal,
    /// The highest level at any instant.
    pub(super) peak: Decimal,
}

/// A valid event: its time, whether it sets the level, and its value.
pub(super) type LevelEvent = (DateTime<Utc>, bool, Decimal);

/// The figures of a level over `[from, to)`, from its events in any order. Events before `from` make the
/// level at its beginning; events from `to` on do not count. `None`: the time is empty, or the sums are too
/// large.
#[must_use]
pub(super) fn level_figures(
    events: &mut [LevelEvent],
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Option<LevelFigures> {
    let whole = (to - from).num_microseconds().filter(|whole| *whole > 0)?;
    // At one instant: sets before changes, and of the sets the largest last.
    events.sort_by_key(|(at, is_set, value)| (*at, !is_set, *value));
    let mut state = LevelState::default();
    let mut weighted = 0_i128;
    let mut figures: Option<LevelFigures> = None;
    let mut since = from;
    let mut add = |state: &LevelState, since: DateTime<Utc>, until: DateTime<Utc>| -> Option<()> {
        let level = state.level().exact()?;
        let micros = (until - since).num_microseconds()?;
        if micros > 0 {
            let scaled =
                level.mantissa().checked_mul(10_i128.checked_pow(PLACES.checked_sub(level.scale())?)?)?;
            weighted = weighted.checked_add(scaled.checked_mul(i128::from(micros))?)?;
            let figures =
                figures.get_or_insert(LevelFigures { start: level, peak: level, ..LevelFigures::default() });
            figures.peak = figures.peak.max(level);
            figures.end = level;
        }
        Some(())
    };
    for (at, is_set, value) in events.iter().filter(|(at, ..)| *at < to) {
        if *at > since {
            add(&state, since, *at)?;
            since = *at;
        }
        // In the order of time, no change before a set counts after it.
        state = state.after(*at, *is_set, *value, |_| Sum::ZERO);
    }
    add(&state, since, to)?;
    let average = divide(weighted, i128::from(whole))?;
    figures.map(|figures| LevelFigures { average, ..figures })
}

/// A quotient of units of the last decimal place, rounded half-even.
fn divide(sum: i128, by: i128) -> Option<Decimal> {
    let (whole, rest) = (sum.checked_div(by)?, sum.checked_rem(by)?.checked_mul(2)?);
    let up = rest > by || rest == by && whole % 2 != 0;
    let units = whole.checked_add(i128::from(up))?;
    Decimal::try_from_i128_with_scale(units, PLACES).ok().map(|average| average.normalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of June 2026 at an hour.
    fn at(day: u32, hour: u32) -> DateTime<Utc> {
        format!("2026-06-{day:02}T{hour:02}:00:00Z").parse().expect("a time")
    }

    fn figures(events: &[LevelEvent], from: DateTime<Utc>, to: DateTime<Utc>) -> [String; 4] {
        let level = level_figures(&mut events.to_vec(), from, to).expect("figures");
        [level.start, level.end, level.average, level.peak].map(|figure| figure.to_string())
    }

    #[test]
    fn levels_are_weighted_by_how_long_they_lasted() {
        let (from, to) = (at(1, 0), at(11, 0));
        let set = |day, hour, value: i64| (at(day, hour), true, Decimal::from(value));
        let change = |day, hour, value: i64| (at(day, hour), false, Decimal::from(value));
        let before: DateTime<Utc> = "2026-05-01T00:00:00Z".parse().expect("a time");
        for (name, events, expected) in [
            ("nothing was ever there", vec![], ["0", "0", "0", "0"]),
            // Ten days at 20.
            ("carried from before", vec![(before, true, Decimal::from(20))], ["20", "20", "20", "20"]),
            // A day at 20, nine at 30: 290 / 10.
            ("20 for a day, then 10 more", vec![set(1, 0, 20), change(2, 0, 10)], ["20", "30", "29", "30"]),
            // 5 days at 0, 5 at 8.
            ("from the middle on", vec![set(6, 0, 8)], ["0", "8", "4", "8"]),
            // 12 hours at 100 of 240: 5. It ends at 0.
            ("a short peak", vec![set(3, 0, 100), set(3, 12, 0)], ["0", "0", "5", "100"]),
            // 1 hour of 240 at 1.
            ("a third of nothing", vec![set(5, 0, 1), set(5, 1, 0)], ["0", "0", "0.004166666667", "1"]),
            ("what comes at the end is not in it", vec![set(11, 0, 50)], ["0", "0", "0", "0"]),
            ("late ones in any order", vec![change(2, 0, 10), set(1, 0, 20)], ["20", "30", "29", "30"]),
            // Two days below zero count as zero, then 5 - 3 for eight days: 16 / 10.
            ("below zero is nothing", vec![change(1, 0, -3), change(3, 0, 5)], ["0", "2", "1.6", "2"]),
            // Of several values at one instant only the last counts.
            (
                "up and down at once",
                vec![set(1, 0, 7), change(4, 0, 9), change(4, 0, -9)],
                ["7", "7", "7", "7"],
            ),
        ] {
            assert_eq!(figures(&events, from, to), expected, "{name}");
        }
        assert_eq!(level_figures(&mut [], to, from), None);
    }
}
