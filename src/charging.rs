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
pub mod stripe_meter;
mod uninvoiced;
pub mod ways;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;

use crate::billing::directory::{Directory, OrgContext};
use crate::config::Config;
use crate::error::Error;
use crate::ids;
use crate::realm::Realm;
use crate::stripe::sync::Sync;
use crate::stripe::sync::accounts::{self, Held};
use crate::stripe::sync::whose::Stopped;

/// How long calls rest when the key's account could not be checked, or is another one.
const CHECK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How often the lines of final invoices are compared: all of 35 days are read.
const LINES_COMPARED_EVERY: Duration = Duration::from_secs(3600);

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
    /// When the lines of final invoices were last compared with what Stripe took.
    lines_compared: Mutex<HashMap<Realm, DateTime<Utc>>>,
    /// When it was last found that the key may not be that of the account.
    refused: Mutex<HashMap<Realm, Instant>>,
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
            lines_compared: Mutex::default(),
            refused: Mutex::default(),
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
            let is_planning_due = is_due(&self.planned, realm, began, self.options.plan_every);
            if is_planning_due {
                turn.plan()?;
                lock(&self.planned).insert(realm.clone(), began);
            }
            if !self.is_right_account(&mut turn)? {
                continue;
            }
            if is_planning_due {
                turn.freeze()?;
                turn.charge_last_usage()?;
                turn.find_discarded()?;
            }
            if is_due(&self.lines_compared, realm, began, LINES_COMPARED_EVERY) {
                turn.find_uninvoiced()?;
                lock(&self.lines_compared).insert(realm.clone(), began);
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

    /// Whether the key is of the account whose objects the database has. Another account would get usage that
    /// is not its own, and take it.
    fn is_right_account(&self, turn: &mut Turn<'_>) -> Result<bool, Error> {
        let realm = turn.realm;
        let mut refused = lock(&self.refused);
        if refused.get(realm).is_some_and(|at| at.elapsed() < CHECK_AGAIN_AFTER) {
            return Ok(false);
        }
        // Without one, the reader has not begun with it.
        let Some(account) = accounts::find(turn.conn, realm)? else { return Ok(false) };
        let error = match turn.sync.check_account(turn.conn, &account) {
            Ok(_) => None,
            Err(Stopped::Call(error)) => Some(error.to_string()),
            Err(Stopped::Database(error)) => return Err(error),
        };
        let was_refused = refused.remove(realm).is_some();
        if error.is_some() || was_refused {
            accounts::note_error(turn.conn, Held::Charging, realm, error.as_deref(), turn.now())?;
        }
        if error.is_some() {
            refused.insert(realm.clone(), Instant::now());
        }
        Ok(error.is_none())
    }
}

/// Whether so much time has passed since the last one, or the clock went back.
fn is_due(
    times: &Mutex<HashMap<Realm, DateTime<Utc>>>,
    realm: &Realm,
    now: DateTime<Utc>,
    every: Duration,
) -> bool {
    let last = lock(times).get(realm).copied();
    last.is_none_or(|last| last > now || (now - last).to_std().is_ok_and(|since| since >= every))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
