//! What usage and quotas need to know of an org, held in memory for a second: its zone, its plan, its billing period.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use chrono_tz::Tz;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz};
use quick_cache::sync::Cache;

use super::orgs;
use crate::error::Error;

/// How long what is held counts: a change of plan, subscription or zone acts after this at the latest, on every replica.
pub const HELD_FOR: Duration = Duration::from_secs(1);
/// Names held at most.
const CAPACITY: usize = 100_000;

/// An org, as usage and quotas see it.
#[derive(Clone, Debug)]
pub struct OrgContext {
    /// Row id.
    pub org_id: i64,
    /// `org_…`.
    pub public_id: Arc<str>,
    /// Where its days and months begin.
    pub zone: Tz,
    /// Its plan.
    pub plan: Option<String>,
    /// The present period of its subscription, `[start, end)`.
    pub billing: Option<(DateTime<Utc>, DateTime<Utc>)>,
    loaded: Instant,
}

impl OrgContext {
    /// The local day of an instant.
    #[must_use]
    pub fn day(&self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.zone).date_naive()
    }

    /// First day (UTC) of the subscription's period that an instant lies in; `None` while there is no subscription. Periods before
    /// and after the present one are told by counting its length on, in months where it is one of whole months.
    #[must_use]
    pub fn billing_period(&self, at: DateTime<Utc>) -> Option<NaiveDate> {
        self.billing_bounds(at).map(|(start, _)| start.date_naive())
    }

    /// The subscription's period that an instant lies in, `[start, end)`.
    #[must_use]
    pub fn billing_bounds(&self, at: DateTime<Utc>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let (start, end) = self.billing.filter(|(start, end)| start < end)?;
        if (start..end).contains(&at) {
            return Some((start, end));
        }
        let step = Step::between(start, end);
        // An estimate by the mean length, then the exact place beside it.
        let length_s = (end - start).num_seconds().max(1);
        let mut n = (at - start).num_seconds().div_euclid(length_s);
        while step.nth(start, n)? > at {
            n -= 1;
        }
        while step.nth(start, n + 1)? <= at {
            n += 1;
        }
        Some((step.nth(start, n)?, step.nth(start, n + 1)?))
    }
}

/// The length of a billing period.
enum Step {
    Months(i64),
    Seconds(i64),
}

impl Step {
    fn between(start: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        let months =
            i64::from(end.year() - start.year()) * 12 + i64::from(end.month()) - i64::from(start.month());
        let whole = u32::try_from(months).ok().filter(|months| *months > 0);
        match whole.and_then(|months| start.checked_add_months(Months::new(months))) {
            Some(reached) if reached == end => Self::Months(months),
            _ => Self::Seconds((end - start).num_seconds()),
        }
    }

    /// `start` and `n` steps.
    fn nth(&self, start: DateTime<Utc>, n: i64) -> Option<DateTime<Utc>> {
        match *self {
            Self::Months(months) => {
                let by = Months::new(u32::try_from((n * months).abs()).ok()?);
                if n < 0 { start.checked_sub_months(by) } else { start.checked_add_months(by) }
            }
            Self::Seconds(seconds) => {
                start.checked_add_signed(chrono::Duration::try_seconds(seconds.checked_mul(n)?)?)
            }
        }
    }
}

/// Orgs by what callers name them: public id, external id, or row id.
pub struct Directory {
    by_ref: Cache<String, Arc<OrgContext>>,
    by_id: Cache<i64, Arc<OrgContext>>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { by_ref: Cache::new(CAPACITY), by_id: Cache::new(CAPACITY) }
    }
}

fn fresh(context: Arc<OrgContext>) -> Option<Arc<OrgContext>> {
    (context.loaded.elapsed() < HELD_FOR).then_some(context)
}

impl Directory {
    /// The org of that public or external id, when it is held and fresh.
    #[must_use]
    pub fn by_ref(&self, name: &str) -> Option<Arc<OrgContext>> {
        self.by_ref.get(name).and_then(fresh)
    }

    /// The org of that row id, when it is held and fresh.
    #[must_use]
    pub fn by_id(&self, org_id: i64) -> Option<Arc<OrgContext>> {
        self.by_id.get(&org_id).and_then(fresh)
    }

    /// Reads orgs by their names and row ids and holds them; names that nobody has are left out.
    ///
    /// # Errors
    /// When the database fails.
    pub fn load(
        &self,
        conn: &mut PgConnection,
        names: &[String],
        org_ids: &[i64],
    ) -> Result<Vec<(String, Arc<OrgContext>)>, Error> {
        let rows: Vec<Row> = diesel::sql_query(orgs::CONTEXTS)
            .bind::<Array<Text>, _>(names)
            .bind::<Array<BigInt>, _>(org_ids)
            .load(conn)?;
        rows.into_iter()
            .map(|row| {
                let name = row.name.clone();
                let context = Arc::new(context_of(row)?);
                self.by_id.insert(context.org_id, Arc::clone(&context));
                if !name.is_empty() {
                    self.by_ref.insert(name.clone(), Arc::clone(&context));
                }
                Ok((name, context))
            })
            .collect()
    }

    /// The org of that row id, held or read.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub fn find(&self, conn: &mut PgConnection, org_id: i64) -> Result<Arc<OrgContext>, Error> {
        if let Some(context) = self.by_id(org_id) {
            return Ok(context);
        }
        self.load(conn, &[], &[org_id])?.pop().map(|(_, context)| context).ok_or(Error::NotFound("org"))
    }

    /// The org of that public or external id, held or read.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub fn find_ref(&self, conn: &mut PgConnection, name: &str) -> Result<Arc<OrgContext>, Error> {
        if let Some(context) = self.by_ref(name) {
            return Ok(context);
        }
        let found = self.load(conn, &[name.to_owned()], &[])?.pop();
        found.map(|(_, context)| context).ok_or(Error::NotFound("org"))
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    public_id: String,
    #[diesel(sql_type = Text)]
    time_zone: String,
    #[diesel(sql_type = Nullable<Text>)]
    plan_id: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    period_start: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    period_end: Option<DateTime<Utc>>,
}

fn context_of(row: Row) -> Result<OrgContext, Error> {
    let zone = row.time_zone.parse().map_err(|_| {
        Error::Internal(format!("org {} has the unknown zone {}", row.public_id, row.time_zone))
    })?;
    Ok(OrgContext {
        org_id: row.org_id,
        public_id: row.public_id.into(),
        zone,
        plan: row.plan_id,
        billing: row.period_start.zip(row.period_end),
        loaded: Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn org(start: &str, end: &str) -> OrgContext {
        OrgContext {
            org_id: 1,
            public_id: "org_1".into(),
            zone: Tz::UTC,
            plan: None,
            billing: Some((at(start), at(end))),
            loaded: Instant::now(),
        }
    }

    #[test]
    fn billing_periods_go_on_in_both_directions() {
        let monthly = org("2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z");
        for (instant, start) in [
            ("2026-02-01T00:00:00Z", "2026-01-31"),
            ("2026-01-31T09:59:59Z", "2025-12-31"),
            ("2026-02-28T10:00:00Z", "2026-02-28"),
            ("2026-04-30T09:59:59Z", "2026-03-31"),
            ("2026-04-30T10:00:00Z", "2026-04-30"),
            ("2025-06-30T10:00:00Z", "2025-06-30"),
        ] {
            let period = monthly.billing_period(at(instant)).expect("a subscription").to_string();
            assert_eq!(period, start, "{instant}");
        }
        let weekly = org("2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z");
        assert_eq!(weekly.billing_period(at("2026-03-23T12:00:00Z")).expect("one").to_string(), "2026-03-23");
        assert_eq!(weekly.billing_period(at("2026-03-01T12:00:00Z")).expect("one").to_string(), "2026-02-23");
    }
}
