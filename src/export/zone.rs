//! The time zone of an export: its days begin the periods of filters, and its clock writes the times.

use chrono::offset::Offset;
use chrono::{DateTime, NaiveDate, TimeZone, Utc};
use chrono_tz::Tz;

use crate::time::day_start;

/// A time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zone(Tz);

impl Zone {
    pub(super) const UTC: Self = Self(Tz::UTC);

    /// The zone of an IANA name; `None` when there is none.
    pub(super) fn named(name: &str) -> Option<Self> {
        name.parse().ok().map(Self)
    }

    pub(super) fn tz(self) -> Tz {
        self.0
    }

    /// The first instant of a day.
    pub(super) fn start_of(self, day: NaiveDate) -> DateTime<Utc> {
        day_start(self.0, day)
    }

    /// How many seconds its clocks are ahead of UTC at an instant; `None`: UTC itself, which is written `Z`.
    pub(super) fn ahead_s(self, at: DateTime<Utc>) -> Option<i32> {
        if self == Self::UTC {
            return None;
        }
        Some(self.0.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc())
    }
}
