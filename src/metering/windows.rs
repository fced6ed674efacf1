//! The lengths of rolling windows, and their segments. `rolling.rs` says how they are counted.

use chrono::{DateTime, TimeDelta, Utc};

/// The length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// From 1 to [`Window::MAX_HOURS`].
    hours: u16,
}

impl Window {
    /// A month of 31 days.
    const MAX_HOURS: u16 = 31 * 24;
    /// Segments of the length of a window.
    pub const SEGMENTS: i32 = 24;
    /// What its name must be, for error messages.
    pub const RULE: &'static str = "1 to 744 hours or 1 to 31 days, such as rolling_24h or rolling_7d";

    /// The window of that name: `rolling_<n>h` or `rolling_<n>d`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let length = name.strip_prefix("rolling_")?;
        let (number, hours) = match length.strip_suffix('d') {
            Some(days) => (days, 24),
            None => (length.strip_suffix('h')?, 1),
        };
        let is_plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
        let hours = number.parse::<u16>().ok().filter(|_| is_plain)?.checked_mul(hours)?;
        (1..=Self::MAX_HOURS).contains(&hours).then_some(Self { hours })
    }

    /// Its one name: 48 hours and 2 days are the same window, named by days.
    #[must_use]
    pub fn name(self) -> String {
        match self.hours {
            hours if hours % 24 == 0 && hours > 24 => format!("rolling_{}d", hours / 24),
            hours => format!("rolling_{hours}h"),
        }
    }

    /// The length of a segment in seconds.
    #[must_use]
    pub fn segment_seconds(self) -> i32 {
        i32::from(self.hours) * 3600 / Self::SEGMENTS
    }

    /// The length of a segment.
    #[must_use]
    pub fn segment(self) -> TimeDelta {
        TimeDelta::seconds(self.segment_seconds().into())
    }

    /// The length of the window.
    #[must_use]
    pub fn length(self) -> TimeDelta {
        TimeDelta::hours(self.hours.into())
    }

    /// Days of the past that an instant sees, rounded up.
    #[must_use]
    pub fn days(self) -> u16 {
        (self.hours + self.hours.div_ceil(24)).div_ceil(24)
    }

    /// When the segment of an instant begins.
    #[must_use]
    pub fn segment_start(self, at: DateTime<Utc>) -> DateTime<Utc> {
        let seconds = i64::from(self.segment_seconds());
        DateTime::from_timestamp(at.timestamp().div_euclid(seconds) * seconds, 0).unwrap_or(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_one_name() {
        for (name, shown) in [
            ("rolling_1h", Some("rolling_1h")),
            ("rolling_24h", Some("rolling_24h")),
            ("rolling_1d", Some("rolling_24h")),
            ("rolling_48h", Some("rolling_2d")),
            ("rolling_49h", Some("rolling_49h")),
            ("rolling_744h", Some("rolling_31d")),
            ("rolling_31d", Some("rolling_31d")),
            ("rolling_745h", None),
            ("rolling_32d", None),
            ("rolling_0h", None),
            ("rolling_024h", None),
            ("rolling_+4h", None),
            ("rolling_65536h", None),
            ("rolling_24", None),
            ("rolling_d", None),
            ("24h", None),
        ] {
            assert_eq!(Window::parse(name).map(Window::name).as_deref(), shown, "{name}");
        }
    }

    #[test]
    fn segments_are_a_24th_aligned_to_the_epoch() {
        for (name, seconds, start, days) in [
            ("rolling_1h", 150, "2026-11-20T12:07:30Z", 1),
            ("rolling_24h", 3600, "2026-11-20T12:00:00Z", 2),
            // 498,660 whole hours since 1970: 71,237 times 7 and 1 more, 16,085 times 31 and 25 more.
            ("rolling_7d", 7 * 3600, "2026-11-20T11:00:00Z", 8),
            ("rolling_31d", 31 * 3600, "2026-11-19T11:00:00Z", 33),
        ] {
            let window = Window::parse(name).expect("a window");
            let at = "2026-11-20T12:09:59.999999Z".parse().expect("a time");
            assert_eq!(window.segment_seconds(), seconds, "{name}");
            assert_eq!(window.segment_start(at), start.parse::<DateTime<Utc>>().expect("a time"), "{name}");
            assert_eq!(window.days(), days, "{name}");
        }
    }
}
