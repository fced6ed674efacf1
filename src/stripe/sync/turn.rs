//! What the worker does in a turn: for each account that it holds, it pulls events, reads what is wanted, and
//! goes on with a run.

mod run;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use futures_util::future::join_all;

use super::accounts::{self, Account, Held, Noted};
use super::read::{EventPage, Reader};
use super::runs::{self, RunKind};
use super::store::{self, Cause, Expected};
use super::wanted::{self, Due, THIN};
use super::whose::Stopped;
use super::window::Window;
use super::{Sync, is_due};
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::client::CallError;
use crate::stripe::inbox::Fetch;

/// Objects that are read one by one at the same time.
const CONCURRENT_OBJECTS: usize = 8;
/// Wanted objects of one turn.
const WANTED_A_TURN: i64 = 40;
/// A pull asks again for this much of what the last one had: Stripe lists an event a little after its time.
const OVERLAP: TimeDelta = TimeDelta::minutes(10);
/// Stripe lists the events of 30 days. After a longer time without a pull, some are missing.
const LISTED_EVENTS: TimeDelta = TimeDelta::days(29);

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnOutcome {
    /// There is more to read.
    More,
    Rest,
}

/// What a turn works with.
struct Turn<'a> {
    sync: &'a Sync,
    conn: &'a mut PgConnection,
    realm: &'a Realm,
    now: &'a dyn Fn() -> DateTime<Utc>,
    is_stopped: &'a dyn Fn() -> bool,
}

impl Sync {
    /// Reads what is due in each account that no other daemon holds. A failure of one account does not stop
    /// the others.
    ///
    /// # Errors
    /// When the database fails.
    pub fn turn(
        &self,
        conn: &mut PgConnection,
        now: &dyn Fn() -> DateTime<Utc>,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<TurnOutcome, Error> {
        let mut outcome = TurnOutcome::Rest;
        for realm in &self.options.realms {
            if is_stopped() || self.rests(realm) {
                continue;
            }
            accounts::establish(conn, realm, self.options.old_money, now())?;
            if !accounts::hold(conn, Held::Reading, realm, &self.holder)? {
                continue;
            }
            let mut turn = Turn { sync: self, conn, realm, now, is_stopped };
            match turn.run() {
                Ok(TurnOutcome::More) => outcome = TurnOutcome::More,
                Ok(TurnOutcome::Rest) => {}
                Err(Stopped::Database(error)) => return Err(error),
                Err(Stopped::Call(error)) => {
                    let account = &realm.account;
                    tracing::warn!(account, %error, "reading an account at Stripe failed; it is tried again");
                    self.rest(realm);
                    accounts::note_error(conn, Held::Reading, realm, Some(&error.to_string()), now())?;
                    continue;
                }
            }
            self.succeeded(realm);
            accounts::note_error(conn, Held::Reading, realm, None, now())?;
        }
        Ok(outcome)
    }

    /// Gives all accounts back, so that another process goes on at once.
    ///
    /// # Errors
    /// When the database fails.
    pub fn release(&self, conn: &mut PgConnection) -> Result<(), Error> {
        for realm in &self.options.realms {
            accounts::release(conn, Held::Reading, realm, &self.holder)?;
        }
        Ok(())
    }
}

impl Turn<'_> {
    fn run(&mut self) -> Result<TurnOutcome, Stopped> {
        let mut account = self.account()?;
        let reader = Reader {
            client: self.sync.client.clone(),
            realm: self.realm.clone(),
            version: accounts::api_version(self.conn, self.realm)?,
        };
        account.stripe_id = Some(self.sync.check_account(self.conn, &account)?);
        let is_first_turn = self.sync.state().begun.insert(self.realm.clone());
        self.request_backfill(is_first_turn)?;
        if is_due(account.pulled_at, self.sync.options.pull_every, (self.now)()) {
            self.pull(&reader, &account)?;
        }
        let more_wanted = self.read_wanted(&reader, &account)?;
        self.request_comparison(&account)?;
        let more_of_run = match runs::running(self.conn, self.realm)? {
            Some(run) => self.go_on(&reader, &account, &run)?,
            None => false,
        };
        Ok(if more_wanted || more_of_run { TurnOutcome::More } else { TurnOutcome::Rest })
    }

    fn account(&mut self) -> Result<Account, Stopped> {
        let found = accounts::find(self.conn, self.realm)?;
        found.ok_or_else(|| Stopped::Database(Error::NotFound("account")))
    }

    /// Has the account read when it never was. A backfill that failed begins again when the daemon starts,
    /// because settings may have changed, and else the next day.
    fn request_backfill(&mut self, is_first_turn: bool) -> Result<(), Stopped> {
        let now = (self.now)();
        let today = now.date_naive().and_time(NaiveTime::MIN).and_utc();
        if runs::needs_backfill(self.conn, self.realm, if is_first_turn { now } else { today })? {
            runs::request(self.conn, self.realm, RunKind::Backfill, "the daemon", now)?;
        }
        Ok(())
    }

    /// Runs calls on the client's thread and waits for them.
    fn wait<T>(&self, calls: impl Future<Output = T>) -> T {
        self.sync.runtime.block_on(calls)
    }

    /// Reads all events since the last pull. The watermark moves when all of them are stored: a pull that is
    /// cut off begins again.
    fn pull(&mut self, reader: &Reader, account: &Account) -> Result<(), Stopped> {
        let known = match account.pulled_until {
            Some(until) => until,
            None => self.wait(reader.account())?.1.observed.timestamp(),
        };
        // No upper bound: the newest events are those of the request itself.
        let mut window = Some(Window::new(known - OVERLAP.num_seconds(), i64::from(i32::MAX)));
        let mut until = None;
        let expected = match account.pulled_until {
            Some(_) if self.sync.options.has_webhooks => Expected::ByWebhook,
            _ => Expected::No,
        };
        while let Some(next) = window {
            let EventPage { events, rest, observed } = self.wait(reader.events(&next))?;
            until.get_or_insert(observed.timestamp());
            let now = (self.now)();
            let realm = self.realm;
            self.conn.transaction(|conn| {
                store::events(conn, realm, &events, expected, observed.timestamp(), now)
            })?;
            window = rest;
        }
        let noted = Noted { pulled_until: until, pulled_at: Some((self.now)()), ..Noted::default() };
        accounts::note(self.conn, self.realm, &noted)?;
        // Stripe does not list what happened before: only the objects themselves tell.
        if until.is_some_and(|until| until - known > LISTED_EVENTS.num_seconds()) {
            let now = (self.now)();
            runs::request(self.conn, self.realm, RunKind::Backfill, "the daemon", now)?;
        }
        Ok(())
    }

    /// Reads objects that are wanted alone; returns whether there may be more.
    fn read_wanted(&mut self, reader: &Reader, account: &Account) -> Result<bool, Stopped> {
        wanted::find_missing(self.conn, self.realm, (self.now)())?;
        let due = wanted::due(self.conn, self.realm, WANTED_A_TURN, (self.now)())?;
        let is_full = due.len() as i64 == WANTED_A_TURN;
        let mut targets = Vec::new();
        for one in due {
            if one.object != THIN {
                targets.push((one.object.clone(), one.object_id.clone(), one.path.clone(), one));
                continue;
            }
            match wanted::related(self.conn, self.realm, &one.object_id)? {
                Some(related) => targets.push((related.r#type, related.id, Some(related.url), one)),
                // It is about no object.
                None => wanted::done(self.conn, self.realm, &one, None, (self.now)())?,
            }
        }
        let stripe_id = account.stripe_id.clone().unwrap_or_default();
        for chunk in targets.chunks(CONCURRENT_OBJECTS) {
            let reads = chunk
                .iter()
                .map(|(object, id, path, _)| read_one(reader, object, id, path.as_deref(), &stripe_id));
            let answers = self.wait(join_all(reads));
            let mut outage = None;
            for ((.., due), answer) in chunk.iter().zip(answers) {
                outage = self.store_wanted(due, answer)?.or(outage);
            }
            if let Some(error) = outage {
                return Err(error.into());
            }
        }
        Ok(is_full)
    }

    /// Stores what was read of one object. An object that cannot be read is tried again later, so it does not
    /// hold up the others; the error comes back if other calls may fail alike.
    fn store_wanted(
        &mut self,
        due: &Due,
        answer: Result<Vec<Fetch>, CallError>,
    ) -> Result<Option<CallError>, Stopped> {
        let (now, realm) = ((self.now)(), self.realm);
        let fetches = match answer {
            Ok(fetches) => fetches,
            Err(error) => {
                wanted::failed(self.conn, realm, due, &error.to_string(), now)?;
                return Ok(Some(error).filter(CallError::is_temporary));
            }
        };
        let cause = Cause { run_id: None, brings_in: false, reason: Some(&due.reason) };
        self.conn.transaction(|conn| {
            let observed = fetches.iter().map(|fetch| fetch.observed).max();
            // Before the fetches: one that is too close to an event wants another.
            wanted::done(conn, realm, due, observed, now)?;
            store::fetches(conn, realm, fetches, cause, now)
        })?;
        Ok(None)
    }

    /// Has the account compared, once a night.
    fn request_comparison(&mut self, account: &Account) -> Result<(), Stopped> {
        let now = (self.now)();
        let today: NaiveDate = now.date_naive();
        let is_due = now.hour() >= self.sync.options.compare_hour && account.compared_on != Some(today);
        if !is_due || !runs::backfilled(self.conn, self.realm)? {
            return Ok(());
        }
        let realm = self.realm;
        self.conn.transaction(|conn| {
            // A backfill that ran today compared everything.
            if account.compared_on.is_some() || account.pulled_at.is_none_or(|at| at.date_naive() < today) {
                runs::request(conn, realm, RunKind::Comparison, "the daemon", now)?;
            }
            let noted = Noted { compared_on: Some(today), ..Noted::default() };
            accounts::note(conn, realm, &noted).map_err(Error::from)
        })?;
        Ok(())
    }
}

/// Reads one object. If Stripe does not have it, and proves that it is the same account, it is deleted.
async fn read_one(
    reader: &Reader,
    object: &str,
    id: &str,
    path: Option<&str>,
    stripe_id: &str,
) -> Result<Vec<Fetch>, CallError> {
    match reader.retrieve(object, id, path).await? {
        Some(fetches) => Ok(fetches),
        None => Ok(vec![reader.tombstone(object, id, stripe_id).await?]),
    }
}
