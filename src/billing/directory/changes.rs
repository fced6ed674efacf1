//! Changes of orgs: told in the transaction that makes them, heard by every daemon when that has committed.
//!
//! What is told is what was changed; whose it is, is asked when it is heard. A link and a subscription may be
//! written by two transactions at once, neither of which sees the other's: when the later message is heard,
//! both have committed.

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

/// The channel on which changes are told.
const CHANNEL: &str = "coulomb_orgs";
/// Changes that are told apart; of more, every org is told to have changed.
const APART: usize = 500;
/// Bytes of a message; PostgreSQL sends less than 8,000.
const LONGEST: usize = 4000;
/// Orgs whose last change is remembered.
const REMEMBERED: usize = 10_000;

/// Something that an org's context is made of. Messages of a later release that are not understood are taken
/// for a change of all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The org of that row id.
    Org(i64),
    /// What customers are linked to by this public or external id.
    Ref(String),
    /// A subscription of Stripe: account, live mode, id.
    Subscription(String, bool, String),
}

statement!(Tell -> Untyped: concat!("SELECT pg_notify(?, message) FROM unnest(?) AS m (message)
    WHERE ", on_shared_tables!()));
statement!(Concerned -> BigInt: "SELECT DISTINCT r.org_id FROM (
    SELECT unnest(?) AS ref UNION ALL
    SELECT coalesce(l.ref, l.idle_ref) FROM unnest(?, ?, ?) AS c (account, livemode, id) JOIN subscriptions s
        USING (account, livemode, id)
    JOIN stripe_customer_links l USING (account, livemode, customer_id)) n JOIN org_refs r USING (ref)");

thread_local! {
    /// What the work of [`gathered`] has told so far on this thread; `None` outside of it.
    static TOLD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Runs `work` and gives, beside its result, whose orgs it told to have changed. A transaction is run by one
/// thread from its begin to its end, so what is told on this thread meanwhile is what it told.
///
/// # Errors
/// When the database fails; what `work` says is its own.
pub fn gathered<T, E: From<diesel::result::Error>>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<(T, Stale), E> {
    /// Ends the gathering, also where `work` panics.
    struct Gathering;
    impl Drop for Gathering {
        fn drop(&mut self) {
            TOLD.set(None);
        }
    }
    TOLD.set(Some(Vec::new()));
    let gathering = Gathering;
    let done = work(conn)?;
    let told = TOLD.take().unwrap_or_default();
    drop(gathering);
    let stale = stale(conn, told.iter().map(String::as_str))?;
    Ok((done, stale))
}

fn gather<'a>(messages: impl IntoIterator<Item = &'a str>) {
    TOLD.with_borrow_mut(|told| {
        if let Some(told) = told {
            told.extend(messages.into_iter().map(str::to_owned));
        }
    });
}

/// Tells every daemon, when the caller's transaction commits, that no org may be what it was. A connection
/// that works apart tells nobody.
pub fn all_changed(conn: &mut PgConnection) -> QueryResult<()> {
    gather([""]);
    conn.batch_execute(&format!("SELECT pg_notify('{CHANNEL}', '') WHERE {}", on_shared_tables!()))
}

/// Tells every daemon, when the caller's transaction commits, what has changed; nothing where there is
/// nothing.
pub fn changed(conn: &mut PgConnection, changes: impl IntoIterator<Item = Change>) -> QueryResult<()> {
    let changes: BTreeSet<Change> = changes.into_iter().take(APART + 1).collect();
    // Of such enums every value serialises.
    let messages: Vec<String> =
        changes.iter().map(|change| serde_json::to_string(change).unwrap_or_default()).collect();
    if messages.len() > APART || messages.iter().any(|message| message.len() > LONGEST) {
        return all_changed(conn);
    }
    if !messages.is_empty() {
        gather(messages.iter().map(String::as_str));
        Prepared::<Tell>::new().bind_one::<Text, _>(CHANNEL).bind::<Text, _>(messages).execute(conn)?;
    }
    Ok(())
}

/// Which orgs may not be what they were.
#[derive(Debug, PartialEq, Eq)]
pub enum Stale {
    All,
    /// Those of these row ids.
    Orgs(BTreeSet<i64>),
}

/// Whose orgs these messages are about.
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

/// Begins to listen on a connection; false: it did already.
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

/// What was heard. Times of hearing are numbered; what was read from the database is as of such a number.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When it was last listened.
    pub(super) at: Option<Instant>,
    pub(super) number: u64,
    /// When all changed last.
    all: u64,
    /// When these changed last, if it was since then.
    orgs: HashMap<i64, u64>,
}

impl Heard {
    /// Whether what was read of an org as of that number may still be so.
    pub(super) fn holds(&self, org_id: i64, number: u64) -> bool {
        number >= self.all && self.orgs.get(&org_id).is_none_or(|changed| number >= *changed)
    }

    /// Takes note of what is no longer so.
    pub(super) fn note(&mut self, stale: &Stale) {
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
        let mut heard = Heard::default();
        assert!(heard.holds(1, 0));
        heard.note(&Stale::Orgs([1].into()));
        assert!(!heard.holds(1, 0) && heard.holds(2, 0), "another org's");
        assert!(heard.holds(1, heard.number), "read afterwards");
        heard.note(&Stale::Orgs(BTreeSet::new()));
        assert_eq!(heard.number, 1, "nothing was told");
        heard.note(&Stale::All);
        assert!(!heard.holds(1, 1) && !heard.holds(2, 1) && heard.holds(1, 2));
    }

    #[test]
    fn more_changes_than_are_remembered_are_a_change_of_all() {
        let mut heard = Heard::default();
        heard.note(&Stale::Orgs((0..10_000).collect()));
        assert!(heard.holds(10_000, 0));
        heard.note(&Stale::Orgs([10_000].into()));
        assert!(!heard.holds(20_000, 1) && heard.holds(1, 2));
    }
}
