//! How long failed work waits before its next attempt.

use chrono::TimeDelta;

/// The wait after an attempt that failed when `failed_before` attempts had failed already: 1, 4, 16, …
/// seconds, at most an hour.
#[must_use]
pub(crate) fn wait(failed_before: i16) -> TimeDelta {
    const LONGEST: i64 = 3600;
    let seconds = 4_i64.saturating_pow(u32::from(failed_before.unsigned_abs()));
    TimeDelta::seconds(seconds.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::wait;

    #[test]
    fn each_wait_is_four_times_the_last_up_to_an_hour() {
        let waits: Vec<i64> = [0, 1, 2, 5, 6, 7, i16::MAX].map(|failed| wait(failed).num_seconds()).into();
        assert_eq!(waits, [1, 4, 16, 1024, 3600, 3600, 3600]);
    }
}
