//! Changes of orgs. The transaction that makes a change announces it, and every daemon receives the message
//! after the commit.
//!
//! A message names the changed row, and the receiver looks up its org. The sender could not: two transactions
//! may write a link and a subscription at once, and neither sees the other's row. When the later message
//! arrives, both have committed.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text, Untyped};
use serde::{Deserialize, Serialize};

use crate::db::prepared::{Prepared, statement};
use crate::db::temporary_tables::on_shared_tables;

const CHANNEL: &str = "coulomb_orgs";
/// With more changes than this in a transaction, every org is announced as changed.
const MOST_CHANGES: usize = 500;
/// Longest message in bytes. PostgreSQL's limit is just below 8,000.
const LONGEST: usize = 4000;
/// For how many orgs a daemon remembers the last change.
const REMEMBERED: usize = 10_000;

/// A change of something that an org's entry is made from. A message that this release cannot read counts as
/// a change of every org.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The org with this row id.
    Org(i64),
    /// The customers that are linked to this public or external id.
    Ref(String),
    /// A subscription of Stripe: account, live mode, id.
    Subscription(String, bool, String),
}

statement!(Notify -> Untyped: concat!("SELECT pg_notify(?, message) FROM unnest(?) AS m (message)
    WHERE ", on_shared_tables!()));
statement!(Concerned -> BigInt: "SELECT DISTINCT r.org_id FROM (
    SELECT unnest(?) AS ref
    UNION ALL
    SELECT coalesce(l.ref, l.idle_ref)
    FROM unnest(?, ?, ?) AS c (account, livemode, id)
    JOIN subscriptions s USING (account, livemode, id)
    JOIN stripe_customer_links l USING (account, livemode, customer_id)) n
    JOIN org_refs r USING (ref)");

thread_local! {
    /// The messages that this thread has sent during [`gathered`]; `None` outside of it.
    static GATHERED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Runs `work` and returns its result and the orgs that it announced as changed. One thread runs a
/// transaction from begin to end, so the messages of this thread are those of the transaction.
///
/// # Errors
/// Those of `work`, and when the database fails.
pub fn gathered<T, E: From<diesel::result::Error>>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<(T, Stale), E> {
    /// Stops gathering, even if `work` panics.
    struct Gathering;
    impl Drop for Gathering {
        fn drop(&mut self) {
            GATHERED.set(None);
        }
    }
    GATHERED.set(Some(Vec::new()));
    let gathering = Gathering;
    let done = work(conn)?;
    let messages = GATHERED.take().unwrap_or_default();
    drop(gathering);
    let stale = stale(conn, messages.iter().map(String::as_str))?;
    Ok((done, stale))
}

fn gather<'a>(messages: impl IntoIterator<Item = &'a str>) {
    GATHERED.with_borrow_mut(|gathered| {
        if let Some(gathered) = gathered {
            gathered.extend(messages.into_iter().map(str::to_owned));
        }
    });
}

/// Announces to every daemon, with the caller's commit, that every org may have changed. A connection that
/// works on temporary tables announces nothing.
pub fn all_changed(conn: &mut PgConnection) -> QueryResult<()> {
    gather([""]);
    conn.batch_execute(&format!("SELECT pg_notify('{CHANNEL}', '') WHERE {}", on_shared_tables!()))
}

/// Announces changes to every daemon, with the caller's commit.
pub fn changed(conn: &mut PgConnection, changes: impl IntoIterator<Item = Change>) -> QueryResult<()> {
    let changes: BTreeSet<Change> = changes.into_iter().take(MOST_CHANGES + 1).collect();
    // Every value of this enum can be serialised.
    let messages: Vec<String> =
        changes.iter().map(|change| serde_json::to_string(change).unwrap_or_default()).collect();
    if messages.len() > MOST_CHANGES || messages.iter().any(|message| message.len() > LONGEST) {
        return all_changed(conn);
    }
    if !messages.is_empty() {
        gather(messages.iter().map(String::as_str));
        Prepared::<Notify>::new().bind_one::<Text, _>(CHANNEL).bind::<Text, _>(messages).execute(conn)?;
    }
    Ok(())
}

/// Orgs whose entries may be out of date.
#[derive(Debug, PartialEq, Eq)]
pub enum Stale {
    All,
    /// With these row ids.
    Orgs(BTreeSet<i64>),
}

/// The orgs that these messages concern.
pub(super) fn stale<'a>(
    conn: &mut PgConnection,
    messages: impl Iterator<Item = &'a str>,
) -> QueryResult<Stale> {
    let (mut orgs, mut refs, mut subscriptions) = (BTreeSet::new(), Vec::new(), Vec::new());
    for message in messages {
        match serde_json::from_str(message) {
            Ok(Change::Org(org_id)) => {
                orgs.insert(org_id);
            }
            Ok(Change::Ref(name)) => refs.push(name),
            Ok(Change::Subscription(account, livemode, id)) => subscriptions.push((account, livemode, id)),
            Err(_) => return Ok(Stale::All),
        }
    }
    if !refs.is_empty() || !subscriptions.is_empty() {
        let concerned: Vec<i64> = Prepared::<Concerned>::new()
            .bind::<Text, _>(refs)
            .bind::<Text, _>(subscriptions.iter().map(|key| key.0.as_str()).collect())
            .bind::<Bool, _>(subscriptions.iter().map(|key| key.1).collect())
            .bind::<Text, _>(subscriptions.iter().map(|key| key.2.as_str()).collect())
            .load(conn)?;
        orgs.extend(concerned);
    }
    Ok(Stale::Orgs(orgs))
}

/// Lets a connection listen; false: it listened already.
pub(super) fn listen(conn: &mut PgConnection) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let channels: Count =
        diesel::sql_query("SELECT count(*) AS count FROM pg_listening_channels()").get_result(conn)?;
    if channels.count == 0 {
        conn.batch_execute(&format!("LISTEN {CHANNEL}"))?;
    }
    Ok(channels.count == 0)
}

/// The changes that this daemon has received, numbered in order. An entry of the cache carries the number
/// that was current before it was read.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    /// When the daemon last listened.
    pub(super) at: Option<Instant>,
    pub(super) number: u64,
    /// Number of the last change of every org.
    all: u64,
    /// Number of the last change of single orgs, if that came later.
    orgs: HashMap<i64, u64>,
}

impl ChangeLog {
    /// Whether no change has come since the number was this one.
    pub(super) fn is_current(&self, org_id: i64, number: u64) -> bool {
        number >= self.all && self.orgs.get(&org_id).is_none_or(|changed| number >= *changed)
    }

    pub(super) fn record(&mut self, stale: &Stale) {
        match stale {
            Stale::Orgs(orgs) if orgs.is_empty() => {}
            Stale::Orgs(orgs) if self.orgs.len() + orgs.len() <= REMEMBERED => {
                self.number += 1;
                self.orgs.extend(orgs.iter().map(|org_id| (*org_id, self.number)));
            }
            Stale::All | Stale::Orgs(_) => {
                self.number += 1;
                self.all = self.number;
                self.orgs.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_holds_no_longer() {
        let mut log = ChangeLog::default();
        assert!(log.is_current(1, 0));
        log.record(&Stale::Orgs([1].into()));
        assert!(!log.is_current(1, 0) && log.is_current(2, 0), "another org's");
        assert!(log.is_current(1, log.number), "read afterwards");
        log.record(&Stale::Orgs(BTreeSet::new()));
        assert_eq!(log.number, 1, "nothing has changed");
        log.record(&Stale::All);
        assert!(!log.is_current(1, 1) && !log.is_current(2, 1) && log.is_current(1, 2));
    }

    #[test]
    fn more_changes_than_are_remembered_are_a_change_of_all() {
        let mut log = ChangeLog::default();
        log.record(&Stale::Orgs((0..10_000).collect()));
        assert!(log.is_current(10_000, 0));
        log.record(&Stale::Orgs([10_000].into()));
        assert!(!log.is_current(20_000, 1) && log.is_current(1, 2));
    }
}
