//! What happens too often for an entry each: it is counted, and each minute gets one entry for each address
//! and kind. So strangers cannot fill the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde_json::{Map, Value, json};

use super::{AuditEntry, Author, Origin};
use crate::error::Error;
use crate::networks;

/// Entries of one minute and action at most. What would need more is counted in one entry without address.
const MAX_ENTRIES: usize = 500;
/// The actor without a valid key.
pub const STRANGER: &str = "stranger";
/// The actor of an entry that counts what had no place of its own.
const SEVERAL: &str = "several";

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    pub org_id: i64,
    /// As in [`Author::actor`].
    pub actor: String,
    pub action: &'static str,
    pub target: String,
    pub address: Option<IpAddr>,
}

#[derive(Debug)]
struct Tally {
    count: u64,
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    /// Of the last one.
    detail: Map<String, Value>,
}

/// Counts of minutes that are not written yet.
#[derive(Debug, Default)]
pub struct Tallies(Mutex<BTreeMap<(i64, Counted), Tally>>);

impl Tallies {
    /// Counts one. The entry will have the `detail` of the last one.
    pub fn count(&self, what: Counted, detail: impl FnOnce() -> Value, now: DateTime<Utc>) {
        let minute = now.timestamp().div_euclid(60);
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (minute, Counted { address: what.address.map(networks::client), ..what });
        if !tallies.contains_key(&key)
            && tallies.keys().filter(|(of, other)| *of == minute && other.action == key.1.action).count()
                >= MAX_ENTRIES
        {
            key.1 = Counted {
                org_id: crate::auth::PLATFORM,
                actor: SEVERAL.to_owned(),
                action: key.1.action,
                target: String::new(),
                address: None,
            };
        }
        let tally = tallies.entry(key).or_insert_with(|| Tally {
            count: 0,
            first: now,
            last: now,
            detail: Map::new(),
        });
        tally.count += 1;
        tally.last = now;
        if let Value::Object(detail) = detail() {
            tally.detail = detail;
        }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Writes the entries of the minutes that are over; with `all` also of the present one. When it fails,
    /// they stay for the next time.
    ///
    /// # Errors
    /// The database fails.
    pub fn write(&self, conn: &mut PgConnection, now: DateTime<Utc>, all: bool) -> Result<usize, Error> {
        let minute = now.timestamp().div_euclid(60);
        let due: BTreeMap<_, _> = {
            let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = std::mem::take(&mut *tallies);
            let (due, kept) = taken.into_iter().partition(|((of, _), _)| all || *of < minute);
            *tallies = kept;
            due
        };
        let written = if due.is_empty() {
            Ok(())
        } else {
            crate::db::run_once(conn, |conn| {
                due.iter().try_for_each(|((_, what), tally)| tally.write(conn, what))
            })
        };
        let number = due.len();
        if written.is_err() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(due);
        }
        written.map(|()| number)
    }
}

impl Tally {
    fn write(&self, conn: &mut PgConnection, what: &Counted) -> Result<(), Error> {
        let mut detail = self.detail.clone();
        detail.insert("count".to_owned(), json!(self.count));
        detail.insert("last".to_owned(), json!(self.last));
        let entry = AuditEntry {
            org_id: what.org_id,
            action: what.action,
            target: what.target.clone(),
            detail: Value::Object(detail),
        };
        let origin = Origin { address: what.address, ..Origin::default() };
        entry.write(conn, &Author { actor: &what.actor, at: self.first, origin: Some(&origin) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(address: &str) -> Counted {
        Counted {
            org_id: 0,
            actor: STRANGER.to_owned(),
            action: "auth.fail",
            target: String::new(),
            address: Some(address.parse().expect("an address")),
        }
    }

    #[test]
    fn a_minute_has_a_bounded_number_of_entries() {
        let tallies = Tallies::default();
        let now = "2026-11-28T12:00:10Z".parse().expect("a time");
        for n in 0..2_000_u32 {
            let address = format!("10.0.{}.{}", n / 250, n % 250);
            tallies.count(failed(&address), || json!({}), now);
            tallies.count(failed("2001:db8::1"), || json!({}), now);
            tallies.count(failed(&format!("2001:db8::{n:x}")), || json!({}), now);
        }
        let held = tallies.0.lock().expect("no panic");
        assert_eq!(held.len(), MAX_ENTRIES + 1);
        let of = |found: &dyn Fn(&Counted) -> bool| -> u64 {
            held.iter().filter(|((_, what), _)| found(what)).map(|(_, tally)| tally.count).sum()
        };
        // 499 addresses and the IPv6 network have a place; the other 1,501 addresses share one.
        assert_eq!(of(&|what| what.actor == SEVERAL), 1_501);
        assert_eq!(of(&|what| what.address == Some("2001:db8::".parse().expect("an address"))), 4_000);
        assert_eq!(of(&|_| true), 6_000);
    }
}
