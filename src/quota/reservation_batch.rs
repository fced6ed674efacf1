//! Reservations: requests that arrive together, to reserve, to settle or to release, share one transaction.
//! It locks all their rows once ([`super::session`]), decides one request after the other in memory, and
//! writes what changed.

mod batch;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde_json::value::RawValue;

use self::batch::{Batch, Decided};
use super::limit_status::{BatteryStatus, LimitStatus, RequestedUsage};
use super::orgs::Orgs;
use super::reservations::{self, Reservation, ReservationRow};
use super::rulebook::{CHANGING, Rulebook};
use super::session::{CatalogLocked, UsageClaimed};
use super::{QuotaContext, thresholds};
use crate::billing::org_name::OrgRef;
use crate::db::{self, TransactionError};
use crate::error::Error;
use crate::group_commit::{Session, Work};
use crate::metering::partitions;
use crate::panics;

/// How often a batch starts over: the catalogue changed, or a reservation was made meanwhile.
const STARTS: u32 = 20;

#[derive(Clone, Debug)]
pub enum ReservationRequest {
    /// Set an amount aside.
    Reserve { org: OrgRef, new: NewReservation },
    /// Put usage in a reservation's place.
    Settle {
        /// `None`: found by the id.
        org: Option<OrgRef>,
        id: String,
        /// The actual amount; what was reserved, when left out.
        amount: Option<Decimal>,
        /// The usage event; made of the reservation when left out.
        event: Option<Box<RawValue>>,
    },
    /// Give a reservation back.
    Release {
        /// `None`: found by the id.
        org: Option<OrgRef>,
        id: String,
    },
}

#[derive(Clone, Debug)]
pub struct NewReservation {
    /// A second request with the same id gets the first one's reservation.
    pub id: String,
    pub usage: RequestedUsage,
    /// Who in the org it is for.
    pub member: Option<String>,
    pub expires_at: DateTime<Utc>,
}

impl ReservationRequest {
    fn org(&self) -> Option<&OrgRef> {
        match self {
            Self::Reserve { org, .. } => Some(org),
            Self::Settle { org, .. } | Self::Release { org, .. } => org.as_ref(),
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Reserve { new, .. } => &new.id,
            Self::Settle { id, .. } | Self::Release { id, .. } => id,
        }
    }
}

#[derive(Clone, Debug)]
pub enum ReservationAnswer {
    /// The reservation as it is now.
    Reservation(Box<Reservation>),
    /// It does not fit under this limit; nothing changed.
    Exceeded(Box<LimitStatus>),
    /// The battery does not hold enough; nothing changed.
    Exhausted(Box<BatteryStatus>),
}

/// Why a batch was rolled back.
enum Rollback {
    /// The cached rulebook is old.
    StaleRules,
    /// Another transaction made something meanwhile that must be read again.
    Raced,
    /// One request's outcome depends on another's: do them one by one.
    OneByOne,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Rollback {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Answers = Vec<Result<ReservationAnswer, Error>>;

pub(super) struct ReservationWork(pub(super) Arc<QuotaContext>);

impl Work for ReservationWork {
    type Input = ReservationRequest;
    type Output = Result<ReservationAnswer, Error>;

    fn run(
        &mut self,
        session: &mut Session,
        requests: &mut [ReservationRequest],
    ) -> Result<Vec<Self::Output>, Error> {
        self.run_together(session.connection()?, requests)
    }
}

impl ReservationWork {
    /// Runs all requests in one transaction.
    fn run_together(
        &self,
        conn: &mut PgConnection,
        requests: &[ReservationRequest],
    ) -> Result<Answers, Error> {
        for _ in 0..STARTS {
            let month = partitions::month_of(self.0.clock.now().date_naive());
            self.0.partitions.ensure(&[month], || self.0.db.connect_serving_thread())?;
            let named = requests.iter().filter_map(ReservationRequest::org);
            let orgs = Orgs::find(conn, &self.0.directory, named)?;
            match db::try_once(conn, |conn| self.transact(conn, requests, orgs)) {
                Ok(answers) => return Ok(answers),
                Err(TransactionError::OutcomeUnknown(..)) => return Err(Error::OutcomeUnknown),
                Err(TransactionError::Failed(Rollback::StaleRules)) => drop(self.0.rules.refresh(conn)?),
                Err(TransactionError::Failed(Rollback::Raced)) => {}
                Err(TransactionError::Failed(Rollback::OneByOne)) => return self.one_by_one(conn, requests),
                Err(TransactionError::Failed(Rollback::Failed(error))) => {
                    return Err(db::as_connection_error(conn, error));
                }
            }
        }
        Err(CHANGING)
    }

    fn one_by_one(&self, conn: &mut PgConnection, requests: &[ReservationRequest]) -> Result<Answers, Error> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            match self.run_together(conn, std::slice::from_ref(request)) {
                Ok(one) => answers.extend(one),
                // Some are committed already.
                Err(error) if error.is_transient() && !answers.is_empty() => {
                    return Err(Error::OutcomeUnknown);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    fn transact(
        &self,
        conn: &mut PgConnection,
        requests: &[ReservationRequest],
        orgs: Orgs,
    ) -> Result<Answers, Rollback> {
        let now = self.0.clock.now();
        let (locked, rules) = CatalogLocked::lock(conn, &self.0.rules)?.ok_or(Rollback::StaleRules)?;
        let batch = Batch::read(conn, &self.0.directory, &rules, requests, orgs, now)?;
        let settlements = batch.settlements();
        let (locked, usage) = locked.claim_usage(conn, (&rules, &self.0.series), &settlements.usage, now)?;
        let locked = locked.lock_counters(conn, &rules, &batch.counters(usage.claims()))?;
        requests
            .iter()
            .for_each(|request| panics::panic_if_test_asks("quota-writer", || format!("{request:?}")));
        let locked = locked.lock_reservations(conn, &batch.reservations())?;
        let battery_users = batch.battery_users(locked.orgs_with_units(), &settlements, usage.claims());
        let mut state =
            locked.lock_batteries(conn, &rules, battery_users.into_iter(), now)?.ok_or(Rollback::Raced)?;
        let Decided { answers, stored } = batch.decide(&mut state, &settlements, usage.claims());
        if requests.len() > 1 && usage.depends_on_rejected(&stored) {
            return Err(Rollback::OneByOne);
        }
        let written = state.write(conn)?.ok_or(Rollback::Raced)?;
        let moved = written.store_usage(conn, usage, &stored)?;
        thresholds::write_messages(conn, &rules, |org_id| batch.org(org_id), &moved, now)?;
        Ok(answers)
    }
}

/// Ends overdue reservations of all orgs, a bounded number; returns how many.
pub fn end_overdue(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    // Ending a reservation needs no rules.
    let rules = Rulebook::default();
    conn.transaction(|conn| {
        let overdue = reservations::overdue_anywhere(conn, now)?;
        let state = UsageClaimed::by_caller()
            .lock_counters(
                conn,
                &rules,
                &overdue.iter().flat_map(|row| row.counters.iter().cloned()).collect(),
            )?
            .lock_reservations(conn, &overdue.iter().map(ReservationRow::name).collect())?
            .lock_batteries(conn, &rules, std::iter::empty(), now)?;
        let Some(state) = state else { return Ok(0) };
        let ended = state.ended();
        state.write(conn)?;
        Ok(ended)
    })
}
