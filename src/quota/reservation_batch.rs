//! The desk: where reservations are made, settled and given back. Requests that come together share one
//! transaction, which locks all their counters once, decides one request after the other in memory, and
//! writes the difference.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde_json::value::RawValue;

use super::group_commit::Work;
use super::limit_status::{self, Ask, Battery, LimitStatus};
use super::limits::Limits;
use super::locked_state::LockedState;
use super::orgs::Orgs;
use super::reservations::{self, Name, Reservation, ReservationRow};
use super::settle::{KeyClaim, Recorder, Usage};
use super::{Rulebook, thresholds};
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgRef;
use crate::db::{self, TransactionError};
use crate::error::Error;
use crate::metering::catalog::{self, Catalog};
use crate::metering::counters::{self, CounterKey};
use crate::metering::partitions;
use crate::panics;

/// Times that a batch starts over: the catalogue changed, or a reservation came up meanwhile.
const STARTS: u32 = 20;

/// A request at the desk.
#[derive(Clone, Debug)]
pub enum Job {
    /// Set an amount aside.
    Reserve {
        org: OrgRef,
        ask: Ask,
        /// Who in the org it is for.
        member: Option<String>,
        /// The reservation's id. A second request with it gets the first one's reservation.
        id: String,
        expires_at: DateTime<Utc>,
    },
    /// Put usage in a reservation's place.
    Settle {
        /// Whose; `None`: found by the id.
        org: Option<OrgRef>,
        id: String,
        /// The actual amount; what was reserved, when left out.
        amount: Option<Decimal>,
        /// The usage event; made up when left out.
        event: Option<Box<RawValue>>,
    },
    /// Give a reservation back.
    Release {
        /// Whose; `None`: found by the id.
        org: Option<OrgRef>,
        id: String,
    },
}

impl Job {
    fn org(&self) -> Option<&OrgRef> {
        match self {
            Self::Reserve { org, .. } => Some(org),
            Self::Settle { org, .. } | Self::Release { org, .. } => org.as_ref(),
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Reserve { id, .. } | Self::Settle { id, .. } | Self::Release { id, .. } => id,
        }
    }
}

/// What a request came to.
#[derive(Clone, Debug)]
pub enum Done {
    /// The reservation as it is now.
    Reservation(Box<Reservation>),
    /// It does not fit under this limit; nothing changed.
    Exceeded(Box<LimitStatus>),
    /// The battery does not hold enough; nothing changed.
    Exhausted(Box<Battery>),
}

/// Why a batch was rolled back.
enum Stop {
    /// The catalogue that we hold is old.
    Stale,
    /// Another transaction was faster with something that must be read again.
    Raced,
    /// One request's outcome hangs on another's: one by one.
    Singly,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

pub(super) struct Desk(pub(super) Arc<Rulebook>);

impl Work<Job, Done> for Desk {
    fn run(&self, conn: &mut PgConnection, jobs: &[Job]) -> Result<Vec<Result<Done, Error>>, Error> {
        for _ in 0..STARTS {
            let month = partitions::month_of(self.0.clock.now().date_naive());
            self.0.partitions.ensure(&[month], || self.0.db.connect_serving_thread())?;
            let orgs = Orgs::find(conn, &self.0.directory, jobs.iter().filter_map(Job::org))?;
            match db::try_once(conn, |conn| self.transact(conn, jobs, orgs)) {
                Ok(done) => return Ok(done),
                Err(TransactionError::OutcomeUnknown(..)) => return Err(Error::OutcomeUnknown),
                Err(TransactionError::Failed(Stop::Stale)) => self.0.refresh(conn)?,
                Err(TransactionError::Failed(Stop::Raced)) => {}
                Err(TransactionError::Failed(Stop::Singly)) => return self.singly(conn, jobs),
                Err(TransactionError::Failed(Stop::Failed(error))) => {
                    return Err(db::as_connection_error(conn, error));
                }
            }
        }
        Err(Error::Busy("the catalogue changes all the time: try again in a second"))
    }
}

impl Desk {
    fn singly(&self, conn: &mut PgConnection, jobs: &[Job]) -> Result<Vec<Result<Done, Error>>, Error> {
        let mut done = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.run(conn, std::slice::from_ref(job)) {
                Ok(one) => done.extend(one),
                // Some were done already.
                Err(error) if error.is_transient() && !done.is_empty() => return Err(Error::OutcomeUnknown),
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn transact(
        &self,
        conn: &mut PgConnection,
        jobs: &[Job],
        mut orgs: Orgs,
    ) -> Result<Vec<Result<Done, Error>>, Stop> {
        let now = self.0.clock.now();
        let version = catalog::lock_shared(conn)?;
        let (catalog, limits) = self.0.at(version).ok_or(Stop::Stale)?;
        // What the requests name, and what is overdue in their orgs: read without locks, to learn which
        // counters to lock.
        let names = jobs
            .iter()
            .filter_map(|job| Some((job.org().map_or(Some(0), |org| orgs.id(org))?, job.id().to_owned())));
        let named = reservations::named(conn, &names.collect())?;
        orgs.load(conn, &self.0.directory, named.iter().map(|row| row.org_id))?;
        let mut rows = reservations::overdue(conn, &orgs.ids(), now)?;
        rows.extend(named.iter().cloned());

        let of_job: Vec<Option<Name>> = jobs.iter().map(|job| name_of(job, &orgs, &named)).collect();
        let (mut usages, mut usage_of) = (Vec::new(), HashMap::new());
        for (n, job) in jobs.iter().enumerate() {
            let row = of_job[n].as_ref().and_then(|name| named.iter().find(|row| row.name() == *name));
            if let (Job::Settle { amount, event, .. }, Some(row)) = (job, row)
                && let Some((org, meter)) = orgs.by_id(row.org_id).zip(catalog.meters.get(&row.meter_id))
            {
                usage_of.insert(n, usages.len());
                usages.push(Usage {
                    org: Arc::clone(org),
                    reservation: &row.id,
                    meter: Arc::clone(meter),
                    amount: amount.unwrap_or(row.amount),
                    dimensions: &row.dimensions,
                    subject: row.subject.as_deref(),
                    member: row.member.as_deref(),
                    event: event.as_deref(),
                    made_at: row.made_at,
                });
            }
        }
        let (recorder, claims) = Recorder::claim(conn, &self.0.series, &catalog, &usages, now)?;

        let mut keys: BTreeSet<CounterKey> = rows.iter().flat_map(|row| row.held.iter().cloned()).collect();
        for job in jobs {
            if let Job::Reserve { org, ask, .. } = job
                && let (Some(org), Some(meter)) = (orgs.get(org), limit_status::meter(&catalog, &ask.meter))
            {
                let at = (ask.dimensions.as_slice(), ask.subject.as_deref());
                let applying = limit_status::applying(&catalog, &limits, org, meter.meter_id, at, now);
                keys.extend(applying.into_iter().map(|applying| applying.key));
            }
        }
        for claim in &claims {
            if let KeyClaim::New { counters, .. } = claim {
                keys.extend(counters.iter().map(|(key, _)| key.clone()));
            }
        }
        let counts = counters::lock(conn, &keys)?;
        jobs.iter().for_each(|job| panics::panic_if_test_asks("quota-writer", || format!("{job:?}")));
        let mut names: BTreeSet<Name> = rows.iter().map(ReservationRow::name).collect();
        names.extend(of_job.iter().flatten().cloned());
        let locked = reservations::lock(conn, &names)?;
        let asked = jobs.iter().filter_map(|job| match job {
            Job::Reserve { org, ask, .. } => Some((orgs.get(org)?, ask)),
            _ => None,
        });
        let burning = |(org, ask): (&Arc<OrgContext>, &Ask)| {
            let meter = limit_status::meter(&catalog, &ask.meter)?;
            let units = limit_status::battery_units(&catalog, org, meter.meter_id, ask, now).ok()?;
            (!units.is_zero()).then_some(org.org_id)
        };
        let mut with_battery: BTreeSet<i64> = asked.filter_map(burning).collect();
        with_battery.extend(locked.values().filter(|row| !row.battery_units.is_zero()).map(|row| row.org_id));
        let settled = claims.iter().zip(&usages).filter(|(claim, _)| claim.burns());
        with_battery.extend(settled.map(|(_, usage)| usage.org.org_id));
        let mut accounts = Accounts::lock(conn, with_battery.iter().copied(), Depth::Live, now)?;
        let contexts = with_battery.iter().filter_map(|org_id| orgs.by_id(*org_id));
        accounts.allow(contexts.map(|org| &**org), &limits.battery, now);
        let mut book =
            LockedState::open(&catalog, &limits, now, counts, locked, accounts).ok_or(Stop::Raced)?;

        let mut kept = vec![false; claims.len()];
        let mut done = Vec::with_capacity(jobs.len());
        for (n, job) in jobs.iter().enumerate() {
            done.push(match (job, &of_job[n]) {
                (Job::Reserve { org, ask, member, id, expires_at }, _) => match orgs.get(org) {
                    Some(org) => book.reserve(org, ask, member.as_ref(), id, *expires_at),
                    None => Err(Error::UnknownOrg("org".into())),
                },
                (_, None) if job.org().is_some_and(|org| orgs.get(org).is_none()) => {
                    Err(Error::UnknownOrg("org".into()))
                }
                (_, None) if ambiguous(job, &named) => {
                    Err(Error::invalid("org", "must be named: several orgs have a reservation of this id"))
                }
                (_, None) => Err(Error::NotFound("reservation")),
                (Job::Release { .. }, Some(name)) => book.release(name, &orgs),
                (Job::Settle { .. }, Some(name)) => match usage_of.get(&n) {
                    Some(&usage) => {
                        let settled = book.settle(name, &orgs, &usages[usage], &claims[usage]);
                        kept[usage] = matches!(&settled, Ok((_, true)));
                        settled.map(|(done, _)| done)
                    }
                    None => book.unrecordable(name, &orgs),
                },
            });
        }
        // A claim that is given back may have made another request's event look like a repeat, or cost what
        // it does not.
        let given_back =
            claims.iter().zip(&kept).any(|(claim, kept)| matches!(claim, KeyClaim::New { .. }) && !kept);
        let repeats =
            claims.iter().any(|claim| matches!(claim, KeyClaim::Duplicate { .. } | KeyClaim::Conflict));
        if given_back && (repeats || recorder.hangs_together()) && jobs.len() > 1 {
            return Err(Stop::Singly);
        }
        let moved = book.write(conn)?.ok_or(Stop::Raced)?;
        book.accounts.write(conn)?;
        recorder.store(conn, &kept, book.batch)?;
        let org = |org_id: i64| orgs.by_id(org_id).map(|org| &**org);
        thresholds::thresholds(conn, &catalog, &limits, org, &moved, now)?;
        Ok(done)
    }
}

/// The reservation that a request names; `None` where there is none, or several.
fn name_of(job: &Job, orgs: &Orgs, named: &[ReservationRow]) -> Option<Name> {
    if let Some(org) = job.org() {
        return Some((orgs.id(org)?, job.id().to_owned()));
    }
    let mut found = named.iter().filter(|row| row.id == job.id());
    found.next().filter(|_| found.next().is_none()).map(ReservationRow::name)
}

fn ambiguous(job: &Job, named: &[ReservationRow]) -> bool {
    job.org().is_none() && named.iter().filter(|row| row.id == job.id()).count() > 1
}

/// Ends reservations that are overdue, of whatever org, a bounded number; tells how many.
pub fn sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    let (catalog, limits) = (Catalog::default(), Limits::default());
    conn.transaction(|conn| {
        let overdue = reservations::overdue_anywhere(conn, now)?;
        let counts =
            counters::lock(conn, &overdue.iter().flat_map(|row| row.held.iter().cloned()).collect())?;
        let rows = reservations::lock(conn, &overdue.iter().map(ReservationRow::name).collect())?;
        let with_battery = rows.values().filter(|row| !row.battery_units.is_zero()).map(|row| row.org_id);
        let accounts = Accounts::lock(conn, with_battery, Depth::Live, now)?;
        let Some(book) = LockedState::open(&catalog, &limits, now, counts, rows, accounts) else {
            return Ok(0);
        };
        book.write(conn)?;
        book.accounts.write(conn)?;
        Ok(book.ended())
    })
}
