//! When a failed delivery is tried again, and when it is given up.
//!
//! The waits grow as in the schedule that the Standard Webhooks specification recommends (section
//! "Deliverability and reliability"), to about three days together.

use chrono::{DateTime, TimeDelta, Utc};

/// Seconds before the second, third, … attempt.
const WAITS_S: [i64; 11] = [5, 60, 300, 1800, 7200, 18_000, 36_000, 43_200, 50_400, 50_400, 50_400];
/// A wait is up to a fifth shorter or longer, in percent: so retries do not come all at once.
const JITTER_PERCENT: i64 = 20;
/// The longest `Retry-After` that is honoured.
const LONGEST_ASKED: TimeDelta = TimeDelta::hours(24);
/// An endpoint that has failed for so long without a success is disabled.
pub const FAILING_LIMIT: TimeDelta = TimeDelta::days(5);

/// When to try again after a failed attempt; `None`: give up.
///
/// `failed_before` attempts had failed already. `chance` is 0 to 255. `retry_after` is the answer's header;
/// it can make the wait longer, never shorter.
#[must_use]
pub fn next_attempt(
    failed_before: i32,
    retry_after: Option<&str>,
    chance: u8,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let wait_ms = usize::try_from(failed_before).ok().and_then(|n| WAITS_S.get(n)).copied()? * 1000;
    let percent = 100 - JITTER_PERCENT + i64::from(chance) * 2 * JITTER_PERCENT / 255;
    let wait = TimeDelta::milliseconds(wait_ms * percent / 100);
    let asked = retry_after.and_then(|text| asked_wait(text, now)).unwrap_or(TimeDelta::zero());
    Some(now + wait.max(asked.min(LONGEST_ASKED)))
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn asked_wait(text: &str, now: DateTime<Utc>) -> Option<TimeDelta> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than fit are as good as the longest wait.
        return Some(text.parse().ok().and_then(TimeDelta::try_seconds).unwrap_or(LONGEST_ASKED));
    }
    DateTime::parse_from_rfc2822(text).ok().map(|at| at.with_timezone(&Utc) - now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_s(failed_before: i32, retry_after: Option<&str>, chance: u8) -> Option<i64> {
        let now: DateTime<Utc> = "2026-11-28T12:00:00Z".parse().expect("a time");
        next_attempt(failed_before, retry_after, chance, now).map(|at| (at - now).num_seconds())
    }

    #[test]
    fn waits_grow_to_about_three_days_and_end() {
        assert_eq!(WAITS_S.iter().sum::<i64>(), 257_765);
        assert_eq!(wait_s(0, None, 0), Some(4));
        assert_eq!(wait_s(0, None, 255), Some(6));
        assert_eq!(wait_s(3, None, 0), Some(1440));
        assert_eq!(wait_s(10, None, 255), Some(60_480));
        assert_eq!(wait_s(11, None, 0), None);
        assert_eq!(wait_s(-1, None, 0), None);
    }

    #[test]
    fn the_receiver_may_ask_for_more_time_but_not_for_ever() {
        for (asked, seconds) in [
            ("120", 120),
            ("1", 4),
            ("0", 4),
            (" 30 ", 30),
            ("86400", 86_400),
            ("999999999999999999999999", 86_400),
            ("100000000", 86_400),
            ("Sat, 28 Nov 2026 12:10:00 GMT", 600),
            ("Sat, 28 Nov 2026 11:00:00 GMT", 4),
            ("Fri, 28 Nov 2036 12:00:00 GMT", 86_400),
            ("-5", 4),
            ("soon", 4),
            ("", 4),
        ] {
            assert_eq!(wait_s(0, Some(asked), 0), Some(seconds), "{asked}");
        }
        assert_eq!(wait_s(11, Some("5"), 0), None);
    }
}
