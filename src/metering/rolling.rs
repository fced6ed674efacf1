//! Rolling windows: "at most 100 in any 24 hours".
//!
//! Usage is counted in segments of a 24th of the window, aligned to the Unix epoch in UTC: an hour for each
//! day of the window, two and a half minutes for each of its hours. A segment is a counter like that of an
//! hour, so it is written, corrected, verified and rebuilt as they are.
//!
//! **The rule.** An instant sees its own segment and the 24 before it. These always cover the whole window,
//! and at most one segment more. So usage counts for at least the length of the window and at most a 24th
//! longer, and never does more than the limit lie within any window of that length. (The common estimate from
//! two counters, weighted by time, and a window of whole segments without the running one both let more
//! through.)
//!
//! **Late usage** is decided at its own time: it must fit in every window that contains it ([`counted`]),
//! also in those that ended after it. What is refused counts nowhere, so refused calls do not keep a window
//! full.
//!
//! **The anchor** is a counter of its own beside the segments ([`Period::ALWAYS`]). Every transaction that
//! changes or decides about a segment locks the anchor first, since usage of another segment may be in the
//! same window. What reservations set aside is at the anchor, not in a segment: it may be used at any instant
//! until their deadline, so it counts in every window.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::counters::{Count, CounterKey};
use super::periods::Period;
use super::windows::Window;
use crate::quantity::Sum;

/// The counter to lock before that of a segment, and where reservations of a window set their amount aside.
#[must_use]
pub fn anchor(key: &CounterKey) -> CounterKey {
    CounterKey { period: Period::ALWAYS, ..key.clone() }
}

/// The first and the last segment that are in one window with the segment of a counter; `None`: it is an
/// anchor.
#[must_use]
pub fn neighbours(window: Window, key: &CounterKey) -> Option<(CounterKey, CounterKey)> {
    let began = key.period.began?;
    let at = |began| CounterKey { period: Period::instant(began), ..key.clone() };
    Some((at(began - window.length()), at(began + window.length())))
}

/// What is counted where usage is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub count: Count,
    /// The last segment of the window that was counted; `None`: it is no window.
    pub last_segment: Option<DateTime<Utc>>,
    /// When the oldest usage in the window leaves it; `None`: it is empty, or is no window.
    pub leaves_at: Option<DateTime<Utc>>,
}

/// What is counted at `key`. Of a window: in the fullest one that contains this segment. `counts` must have
/// its anchor and all neighbours.
#[must_use]
pub fn counted(counts: &BTreeMap<CounterKey, Count>, window: Option<Window>, key: &CounterKey) -> Counted {
    let Some((window, (first, last))) = window.and_then(|window| Some((window, neighbours(window, key)?)))
    else {
        return Counted { count: counts.get(key).copied().unwrap_or_default(), ..Counted::default() };
    };
    let segments: Vec<(DateTime<Utc>, Sum)> = counts
        .range(first..=last)
        .filter(|(_, count)| !count.used.is_zero())
        .filter_map(|(key, count)| Some((key.period.began?, count.used)))
        .collect();
    let own = key.period.began.unwrap_or_default();
    let windows = (0..=Window::SEGMENTS).map(|n| {
        let last = own + window.segment() * n;
        let seen = |(began, _): &&(DateTime<Utc>, Sum)| (last - window.length()..=last).contains(began);
        let used: Sum = segments.iter().filter(seen).map(|(_, used)| *used).sum();
        let oldest = segments.iter().find(seen).map(|(began, _)| *began);
        (used, std::cmp::Reverse(n), last, oldest)
    });
    // Of equally full windows the first one.
    let (used, _, last, oldest) = windows.max().unwrap_or_default();
    Counted {
        count: Count { used, reserved: counts.get(&anchor(key)).copied().unwrap_or_default().reserved },
        last_segment: Some(last),
        leaves_at: oldest.map(|oldest| oldest + window.segment() + window.length()),
    }
}
