//! The mirrors kept true: what the daemon itself reads at Stripe.
//!
//! - A *backfill* brings in a whole account, a nightly *comparison* looks for differences ([`runs`]).
//! - Every few minutes all events since the last time are *pulled*, so a webhook that was lost is found.
//! - What events do not tell whole is *wanted*, and read one by one.
//!
//! Everything read is an input of the projection: an event, or a fetch. Nothing here writes a mirror. One
//! daemon at a time reads an account ([`accounts`]). Differences are listed ([`drift`]).

pub mod accounts;
mod compare;
pub mod drift;
mod kinds;
mod read;
pub mod runs;
mod steps;
mod store;
mod turn;
mod wanted;
pub(crate) mod whose;
mod window;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz};
use futures_util::future::try_join_all;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use self::accounts::OldMoney;
use self::read::Reader;
use super::client::{self, CallError, StripeClient};
use crate::config::Config;
use crate::ids;
use crate::realm::Realm;
use crate::threads::Threads;

pub use self::turn::TurnOutcome;

/// How the daemon keeps its mirrors true.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// The accounts to read, our own first, in the mode of the key.
    pub realms: Vec<Realm>,
    pub old_money: OldMoney,
    /// How often events are pulled.
    pub pull_every: Duration,
    /// Hour of the day in UTC after which the nightly comparison begins.
    pub compare_hour: u32,
    /// Whether webhooks tell events. Then an event that only a pull brings was missed.
    pub has_webhooks: bool,
}

impl SyncOptions {
    fn new(config: &Config, livemode: bool) -> Self {
        let accounts = std::iter::once(String::new()).chain(config.stripe_accounts.iter().cloned());
        Self {
            realms: accounts.map(|account| Realm { account, livemode }).collect(),
            old_money: OldMoney {
                effects_since: DateTime::parse_from_rfc3339(&config.stripe_effects_since)
                    .ok()
                    .map(|since| since.to_utc()),
                grant_running: config.stripe_grant_running,
            },
            pull_every: Duration::from_secs(u64::from(config.stripe_pull_s)),
            compare_hour: u32::from(config.stripe_compare_hour),
            has_webhooks: !config.stripe_webhook_secret.is_empty(),
        }
    }
}

/// Reads accounts at Stripe. Its owner calls [`Sync::turn`] again and again.
pub struct Sync {
    client: StripeClient,
    options: SyncOptions,
    runtime: Handle,
    /// Names this process among those that may hold an account.
    holder: String,
    state: Mutex<State>,
    ended: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// When each account's calls may go on after a failure, with the number of failures.
    resting: std::collections::HashMap<Realm, (Instant, u32)>,
    /// Accounts whose id was compared with the key's since the start.
    checked: std::collections::HashSet<Realm>,
    /// Accounts that had a turn since the start.
    begun: std::collections::HashSet<Realm>,
}

impl Sync {
    /// Starts the thread that talks to Stripe; `None` if the settings have no key.
    #[must_use]
    pub fn start(config: &Config, threads: &Threads) -> Option<Self> {
        let client = StripeClient::from_config(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the system starts a runtime");
        let handle = runtime.handle().clone();
        let ended = Arc::new(Notify::new());
        let until_ended = Arc::clone(&ended);
        threads.spawn("stripe-http", 0, Duration::MAX, move |_| {
            runtime.block_on(until_ended.notified());
            // A resolver that hangs must not keep the daemon.
            runtime.shutdown_background();
        });
        Some(Self {
            options: SyncOptions::new(config, client.livemode()),
            client,
            runtime: handle,
            holder: ids::fresh("sync"),
            state: Mutex::default(),
            ended,
        })
    }

    /// The client, for other calls. They run on [`Sync::runtime`].
    #[must_use]
    pub fn client(&self) -> &StripeClient {
        &self.client
    }

    /// The runtime that drives the client's connections.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The accounts that are read.
    #[must_use]
    pub fn realms(&self) -> &[Realm] {
        &self.options.realms
    }

    /// Asks Stripe whose the key is, and which kinds of objects it may read. It waits for at most `limit`.
    ///
    /// # Errors
    /// When the key does not work, or Stripe cannot be reached in time.
    pub fn check_key(&self, limit: Duration) -> Result<KeyCheck, CallError> {
        let own = Realm { account: String::new(), livemode: self.client.livemode() };
        let reader = Reader { client: self.client.clone(), realm: own, version: None };
        let check = async {
            let (account, _) = reader.account().await?;
            let may_read = try_join_all(kinds::LISTED.iter().map(|kind| reader.may_read(kind))).await?;
            let of_kinds = kinds::LISTED.iter().zip(may_read);
            let forbidden = of_kinds.filter(|(_, may_read)| !may_read).map(|(kind, _)| kind.object);
            Ok(KeyCheck { account, forbidden: forbidden.collect() })
        };
        self.runtime.block_on(client::within(limit, check))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the account's calls failed a moment ago.
    fn rests(&self, realm: &Realm) -> bool {
        self.state().resting.get(realm).is_some_and(|(until, _)| *until > Instant::now())
    }

    /// After a failure the account rests: 1, 2, 4, … seconds, at most five minutes.
    fn rest(&self, realm: &Realm) {
        let mut state = self.state();
        let (until, failures) = state.resting.entry(realm.clone()).or_insert((Instant::now(), 0));
        *until = Instant::now() + Duration::from_secs(1 << (*failures).min(8)).min(Duration::from_secs(300));
        *failures += 1;
    }

    fn succeeded(&self, realm: &Realm) {
        self.state().resting.remove(realm);
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        self.ended.notify_one();
    }
}

/// Whose a key is, and what it may not do.
#[derive(Clone, Debug)]
pub struct KeyCheck {
    /// `acct_…`.
    pub account: String,
    /// Kinds of objects that it may not read.
    pub forbidden: Vec<&'static str>,
}

/// How far the daemon is with reading, for metrics and `coulomb doctor`.
#[derive(Clone, Copy, Debug, diesel::QueryableByName)]
pub struct Backlog {
    /// Accounts whose calls fail.
    #[diesel(sql_type = BigInt)]
    pub failing: i64,
    /// Seconds since events were last pulled, of the account that waits longest; 0 without an account.
    #[diesel(sql_type = BigInt)]
    pub pulled_s: i64,
    /// Objects to read one by one.
    #[diesel(sql_type = BigInt)]
    pub wanted: i64,
    /// Of these, those that could not be read.
    #[diesel(sql_type = BigInt)]
    pub wanted_failed: i64,
    /// Objects and events that running runs have read.
    #[diesel(sql_type = BigInt)]
    pub run_objects: i64,
    /// Steps of running runs that are not done.
    #[diesel(sql_type = BigInt)]
    pub run_steps_left: i64,
    /// Accounts whose newest run failed.
    #[diesel(sql_type = BigInt)]
    pub failed_runs: i64,
    /// Differences found so far.
    #[diesel(sql_type = BigInt)]
    pub drift: i64,
}

/// Reads how far the daemon is.
pub fn backlog(conn: &mut PgConnection, now: DateTime<Utc>) -> QueryResult<Backlog> {
    diesel::sql_query(
        "SELECT (SELECT count(*) FROM stripe_accounts WHERE failing_since IS NOT NULL) AS failing,
             (SELECT coalesce(extract(epoch FROM $1 - min(coalesce(pulled_at, first_called_at))), 0)::bigint
              FROM stripe_accounts) AS pulled_s,
             (SELECT count(*) FROM (SELECT DISTINCT ON (account, livemode) state FROM stripe_sync_runs
                  ORDER BY account, livemode, run_id DESC) r WHERE r.state = 'failed') AS failed_runs,
             w.wanted, w.wanted_failed, s.run_objects, s.run_steps_left,
             (SELECT coalesce(max(drift_id), 0) FROM stripe_drift) AS drift
         FROM (SELECT count(*) AS wanted, count(last_error) AS wanted_failed
               FROM stripe_wanted WHERE done_at IS NULL) w,
             (SELECT coalesce(sum(found), 0)::bigint AS run_objects,
                  count(*) FILTER (WHERE s.state = 'waiting') AS run_steps_left
              FROM stripe_sync_steps s JOIN stripe_sync_runs r USING (run_id)
              WHERE r.state = 'running') s",
    )
    .bind::<Timestamptz, _>(now)
    .get_result(conn)
}

/// Whether a time is due at an interval.
fn is_due(last: Option<DateTime<Utc>>, every: Duration, now: DateTime<Utc>) -> bool {
    last.is_none_or(|last| (now - last).to_std().is_ok_and(|since| since >= every) || last > now)
}
