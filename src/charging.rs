//! Usage that Coulomb metered, charged through Stripe.
//!
//! Each meter goes to Stripe one way ([`ways`]):
//!
//! - *totals*: absolute totals of an hour or a day into a Stripe meter of that window;
//! - *deltas*: what was added, into a raw Stripe meter;
//! - *invoice items*: priced lines on the draft of a billing period.
//!
//! A charge ([`charges`]) is planned and committed before it is sent, so nothing is charged twice or never:
//! `docs/design/charging.md` has the rules with their sources. One daemon at a time charges an account.

mod buckets;
pub mod charges;
mod compare;
mod discarded;
mod facts;
mod freeze;
mod frozen;
mod hold;
mod items;
mod last_usage;
mod plan;
pub mod preview;
mod reports;
mod send;
pub mod staying;
pub mod stripe_meter;
pub mod ways;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;

use crate::billing::directory::{Directory, OrgContext};
use crate::config::Config;
use crate::error::Error;
use crate::ids;
use crate::realm::Realm;
use crate::stripe::sync::Sync;
use crate::stripe::sync::accounts::{self, Held};

/// How usage is charged.
#[derive(Clone, Copy, Debug)]
pub struct ChargeOptions {
    /// How often new usage is planned: a running bucket is not sent more often.
    pub plan_every: Duration,
    /// How long after the end of a period its usage is frozen.
    pub freeze_after: TimeDelta,
    /// Hour of the day in UTC after which the nightly comparison begins.
    pub compare_hour: u32,
}

/// Charges usage. Its owner calls [`Charger::turn`] again and again.
pub struct Charger {
    options: ChargeOptions,
    /// Names this process among those that may hold an account.
    holder: String,
    planned: Mutex<HashMap<Realm, DateTime<Utc>>>,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnOutcome {
    /// There is more to send.
    More,
    Rest,
}

/// What a turn works with.
struct Turn<'a> {
    options: ChargeOptions,
    sync: &'a Sync,
    directory: &'a Arc<Directory>,
    conn: &'a mut PgConnection,
    realm: &'a Realm,
    holder: &'a str,
    now: &'a dyn Fn() -> DateTime<Utc>,
    is_stopped: &'a dyn Fn() -> bool,
}

impl Charger {
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            options: ChargeOptions {
                plan_every: Duration::from_secs(u64::from(config.stripe_usage_s)),
                freeze_after: TimeDelta::seconds(i64::from(config.stripe_freeze_after_s)),
                compare_hour: u32::from(config.stripe_compare_hour),
            },
            holder: ids::fresh("charger"),
            planned: Mutex::default(),
        }
    }

    /// Plans and sends what is due in each account that no other daemon holds.
    ///
    /// # Errors
    /// When the database fails.
    pub fn turn(
        &self,
        sync: &Sync,
        directory: &Arc<Directory>,
        conn: &mut PgConnection,
        now: &dyn Fn() -> DateTime<Utc>,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<TurnOutcome, Error> {
        let mut outcome = TurnOutcome::Rest;
        // Every charge and every report belongs to a meter that has a way, or had one.
        if !ways::any(conn)? {
            return Ok(outcome);
        }
        for realm in sync.realms() {
            if is_stopped() || !hold::hold(conn, realm, &self.holder)? {
                continue;
            }
            let (options, holder) = (self.options, &*self.holder);
            let mut turn = Turn { options, sync, directory, conn, realm, holder, now, is_stopped };
            let began = now();
            if self.is_planning_due(realm, began) {
                turn.plan()?;
                turn.freeze()?;
                turn.charge_last_usage()?;
                turn.find_discarded()?;
                self.planned().insert(realm.clone(), began);
            }
            let more = turn.send_buckets()? | turn.send_items()?;
            turn.read_reports()?;
            frozen::confirm(turn.conn, realm, now())?;
            turn.compare_nightly()?;
            if more {
                outcome = TurnOutcome::More;
            }
        }
        Ok(outcome)
    }

    /// Lets another daemon go on at once.
    ///
    /// # Errors
    /// When the database fails.
    pub fn release(&self, sync: &Sync, conn: &mut PgConnection) -> Result<(), Error> {
        for realm in sync.realms() {
            accounts::release(conn, Held::Charging, realm, &self.holder)?;
        }
        Ok(())
    }

    fn is_planning_due(&self, realm: &Realm, now: DateTime<Utc>) -> bool {
        let last = self.planned().get(realm).copied();
        last.is_none_or(|last| {
            last > now || (now - last).to_std().is_ok_and(|since| since >= self.options.plan_every)
        })
    }

    fn planned(&self) -> MutexGuard<'_, HashMap<Realm, DateTime<Utc>>> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    fn now(&self) -> DateTime<Utc> {
        (self.now)()
    }

    /// The org as the database has it now: a cached one may lack the period that just ended.
    fn org(&mut self, org_id: i64) -> Result<Arc<OrgContext>, Error> {
        self.directory.load(self.conn, &[], &[org_id])?;
        self.directory.find(self.conn, org_id)
    }

    /// Runs calls on the client's thread and waits for them.
    fn wait<T>(&self, calls: impl Future<Output = T>) -> T {
        self.sync.runtime().block_on(calls)
    }
}
