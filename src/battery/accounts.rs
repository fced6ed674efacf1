//! Accounts in the database: locks, reads and writes them. Owns `battery_accounts`, `battery_grants` and
//! `battery_entries`.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Jsonb, Nullable, Numeric, SmallInt, Text, Timestamptz, Untyped};
use rust_decimal::Decimal;
use serde_json::Value;

use super::account::{Account, draws_json};
use super::entries::Entry;
use super::grants::{Grant, GrantSource, GrantState};
use super::terms::AllTerms;
use super::told;
use crate::billing::directory::OrgContext;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::messages;
use crate::quantity::Sum;

/// Which grants are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Grants that are not closed: enough to burn and to grant.
    Live,
    /// Every grant: for clawbacks, and for units that come back.
    All,
}

/// Accounts of this transaction. Changes stay in memory until [`Accounts::write`].
#[derive(Debug, Default)]
pub struct Accounts {
    by_org: BTreeMap<i64, Account>,
}

// Makes the rows that are missing. `WHERE false` locks a row that exists without writing it. Rows are locked
// in the order of the array.
statement!(Lock -> Untyped:
    "INSERT INTO battery_accounts AS a (org_id, balance, reserved, entries, grants)
     SELECT o, 0, 0, 0, 0
     FROM unnest(?) AS k (o)
     ON CONFLICT (org_id) DO UPDATE
     SET balance = a.balance
     WHERE false");

/// SQL: a row for each account and grant, or one for an account without such grants.
macro_rules! select_accounts {
    ($which_grants:literal) => {
        concat!(
            "SELECT a.org_id, a.balance, a.reserved, a.carried, a.entries, a.grants, a.last_at, a.daily,
                 g.grant_number, g.grant_id, g.source, g.source_key, g.state, g.priority,
                 g.created_at, g.effective_at, g.expires_at,
                 g.amount, g.remaining, g.burned, g.clawed, g.lapsed,
                 g.link, g.reason
             FROM unnest(?) AS k (o)
             JOIN battery_accounts a ON a.org_id = k.o
             LEFT JOIN battery_grants g ON g.org_id = a.org_id",
            $which_grants
        )
    };
}

type AccountTypes =
    (BigInt, Numeric, Numeric, Numeric, BigInt, BigInt, Nullable<Timestamptz>, Nullable<Date>);
type GrantTypes = (
    (Nullable<BigInt>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<SmallInt>),
    (Nullable<Timestamptz>, Nullable<Timestamptz>, Nullable<Timestamptz>),
    (Nullable<Numeric>, Nullable<Numeric>, Nullable<Numeric>, Nullable<Numeric>, Nullable<Numeric>),
    (Nullable<Jsonb>, Nullable<Text>),
);
type AccountRow = (i64, Decimal, Decimal, Sum, i64, i64, Option<DateTime<Utc>>, Option<NaiveDate>);
type GrantRow = (
    (Option<i64>, Option<String>, Option<String>, Option<String>, Option<String>, Option<i16>),
    (Option<DateTime<Utc>>, Option<DateTime<Utc>>, Option<DateTime<Utc>>),
    (Option<Decimal>, Option<Decimal>, Option<Decimal>, Option<Decimal>, Option<Decimal>),
    (Option<Value>, Option<String>),
);

statement!(SelectLive -> (AccountTypes, GrantTypes): select_accounts!(" AND g.state <> 'closed'"));
statement!(SelectAll -> (AccountTypes, GrantTypes): select_accounts!(""));

statement!(InsertGrants -> Untyped:
    "INSERT INTO battery_grants (org_id, grant_number, grant_id, source, source_key, state, priority,
         created_at, effective_at, expires_at, amount, remaining, burned, clawed, lapsed, link, reason)
     SELECT *
     FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
// One statement, as the accounts stay locked during each round trip.
statement!(WriteChanges -> Untyped:
    "WITH e AS (
         INSERT INTO battery_entries (org_id, sequence, at, kind, amount, balance_after, source,
             grant_number, batch, draws, link, reason, actor)
         SELECT *
         FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)),
     g AS (
         UPDATE battery_grants g
         SET state = t.s, remaining = t.r, burned = t.b, clawed = t.c, lapsed = t.l
         FROM unnest(?, ?, ?, ?, ?, ?, ?) AS t (o, n, s, r, b, c, l)
         WHERE (g.org_id, g.grant_number) = (t.o, t.n))
     UPDATE battery_accounts a
     SET balance = t.b, reserved = t.r, carried = t.c, entries = t.e, grants = t.g, last_at = t.a,
         daily = t.d
     FROM unnest(?, ?, ?, ?, ?, ?, ?, ?) AS t (o, b, r, c, e, g, a, d)
     WHERE a.org_id = t.o");

impl Accounts {
    /// Locks the accounts of these orgs, and makes those that are missing. They are as of `now`: grants that
    /// became effective or expired are posted, in memory.
    pub fn lock(
        conn: &mut PgConnection,
        org_ids: impl IntoIterator<Item = i64>,
        depth: Depth,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        let mut org_ids: Vec<i64> = org_ids.into_iter().collect();
        org_ids.sort_unstable();
        org_ids.dedup();
        if org_ids.is_empty() {
            return Ok(Self::default());
        }
        Prepared::<Lock>::new().bind::<BigInt, _>(org_ids.clone()).execute(conn)?;
        Self::read(conn, org_ids, depth, now)
    }

    /// Reads accounts as of `now`, without a lock: they must not be written. Orgs without an account are left
    /// out.
    pub fn read(
        conn: &mut PgConnection,
        org_ids: Vec<i64>,
        depth: Depth,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        if org_ids.is_empty() {
            return Ok(Self::default());
        }
        let rows: Vec<(AccountRow, GrantRow)> = match depth {
            Depth::Live => Prepared::<SelectLive>::new().bind::<BigInt, _>(org_ids).load(conn)?,
            Depth::All => Prepared::<SelectAll>::new().bind::<BigInt, _>(org_ids).load(conn)?,
        };
        let mut by_org: BTreeMap<i64, Account> = BTreeMap::new();
        for ((org_id, balance, reserved, carried, entries, grants, last_at, daily), grant) in rows {
            let account = by_org.entry(org_id).or_insert_with(|| {
                Account::from_row(org_id, (balance, reserved, carried), (entries, grants), last_at, daily)
            });
            account.grants.extend(grant_from_row(grant)?);
        }
        for account in by_org.values_mut() {
            account.grants.sort_by_key(|grant| grant.number);
            account.catch_up(now);
        }
        Ok(Self { by_org })
    }

    /// Grants today's allowance to those of these orgs whose plan has one.
    pub fn grant_allowances<'a>(
        &mut self,
        orgs: impl Iterator<Item = &'a OrgContext>,
        terms: &AllTerms,
        now: DateTime<Utc>,
    ) {
        for org in orgs {
            let units = terms.daily(org);
            if let (true, Some(account)) = (units > Decimal::ZERO, self.by_org.get_mut(&org.org_id)) {
                let (day, end) = org.today(now);
                account.grant_allowance(day, end, units, now);
            }
        }
    }

    /// Adds an empty account for an org that has none. It must not be written.
    pub fn add_empty(&mut self, org_id: i64) {
        self.by_org.entry(org_id).or_insert_with(|| Account::empty(org_id));
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_org.is_empty()
    }

    /// The account of an org, if it was locked or read.
    #[must_use]
    pub fn get(&self, org_id: i64) -> Option<&Account> {
        self.by_org.get(&org_id)
    }

    /// The account of an org, if it was locked or read.
    pub fn get_mut(&mut self, org_id: i64) -> Option<&mut Account> {
        self.by_org.get_mut(&org_id)
    }

    /// Every account that was locked or read.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Account> {
        self.by_org.values_mut()
    }

    /// Drops the accounts that went over the limit, with everything that was decided on them. For work that
    /// nobody asked for: it is done later, when there is room.
    pub fn drop_over_limit(&mut self) {
        self.by_org.retain(|org_id, account| {
            if account.is_over_limit {
                tracing::warn!(
                    org_id,
                    "a battery has no room for what is due to it: its amounts stay below 10^16"
                );
            }
            !account.is_over_limit
        });
    }

    /// Writes the changes, in the caller's transaction.
    ///
    /// # Errors
    /// [`Error::BatteryFull`] when an account went over the limit. The constraint
    /// `battery_grants_org_id_source_key_key` refuses a second grant of one key.
    pub fn write(&self, conn: &mut PgConnection) -> Result<(), Error> {
        let changed: Vec<&Account> = self.by_org.values().filter(|account| account.is_changed).collect();
        if changed.is_empty() {
            return Ok(());
        }
        for account in &changed {
            if account.is_over_limit {
                return Err(Error::BatteryFull { org_id: account.org_id });
            }
            assert!(account.is_sound(), "the battery of org {} does not add up", account.org_id);
        }
        insert_grants(conn, &changed)?;
        write_changes(conn, &changed)?;
        let now = changed.iter().flat_map(|account| account.new_entries()).map(|entry| entry.at).max();
        match now {
            Some(now) => messages::write(conn, told::messages(&changed), now),
            None => Ok(()),
        }
    }
}

fn insert_grants(conn: &mut PgConnection, accounts: &[&Account]) -> Result<(), Error> {
    let new: Vec<(i64, &Grant)> = accounts
        .iter()
        .flat_map(|account| {
            let fresh = account.grants.iter().filter(|grant| grant.number > account.last_stored_grant);
            fresh.map(|grant| (account.org_id, grant))
        })
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let grants = || new.iter().map(|(_, grant)| *grant);
    Prepared::<InsertGrants>::new()
        .bind::<BigInt, _>(new.iter().map(|(org_id, _)| *org_id).collect::<Vec<_>>())
        .bind::<BigInt, _>(grants().map(|grant| grant.number).collect::<Vec<_>>())
        .bind::<Text, _>(grants().map(|grant| grant.id.as_str()).collect::<Vec<_>>())
        .bind::<Text, _>(grants().map(|grant| grant.source.name()).collect::<Vec<_>>())
        .bind::<Text, _>(grants().map(|grant| grant.key.as_str()).collect::<Vec<_>>())
        .bind::<Text, _>(grants().map(|grant| grant.state.name()).collect::<Vec<_>>())
        .bind::<SmallInt, _>(grants().map(|grant| grant.priority).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(grants().map(|grant| grant.created_at).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(grants().map(|grant| grant.effective_at).collect::<Vec<_>>())
        .bind::<Nullable<Timestamptz>, _>(grants().map(|grant| grant.expires_at).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.amount).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.remaining).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.burned).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.clawed).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.lapsed).collect::<Vec<_>>())
        .bind::<Nullable<Jsonb>, _>(grants().map(|grant| grant.link.clone()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(grants().map(|grant| grant.reason.as_deref()).collect::<Vec<_>>())
        .execute(conn)?;
    Ok(())
}

fn write_changes(conn: &mut PgConnection, accounts: &[&Account]) -> Result<(), Error> {
    let entries: Vec<(i64, &Entry)> = accounts
        .iter()
        .flat_map(|account| account.new_entries.iter().map(|entry| (account.org_id, entry)))
        .collect();
    let changed_grants: Vec<(i64, &Grant)> = accounts
        .iter()
        .flat_map(|account| {
            let grant = |number: &i64| account.grants.iter().find(|grant| grant.number == *number);
            account.changed_grants.iter().filter_map(grant).map(|grant| (account.org_id, grant))
        })
        .collect();
    let each = || entries.iter().map(|(_, entry)| *entry);
    let grants = || changed_grants.iter().map(|(_, grant)| *grant);
    let changed = Prepared::<WriteChanges>::new()
        .bind::<BigInt, _>(entries.iter().map(|(org_id, _)| *org_id).collect::<Vec<_>>())
        .bind::<BigInt, _>(each().map(|entry| entry.sequence).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(each().map(|entry| entry.at).collect::<Vec<_>>())
        .bind::<Text, _>(each().map(|entry| entry.kind.name()).collect::<Vec<_>>())
        .bind::<Numeric, _>(each().map(|entry| entry.amount).collect::<Vec<_>>())
        .bind::<Numeric, _>(each().map(|entry| entry.balance_after).collect::<Vec<_>>())
        .bind::<Text, _>(each().map(|entry| entry.source.as_str()).collect::<Vec<_>>())
        .bind::<Nullable<BigInt>, _>(each().map(|entry| entry.grant).collect::<Vec<_>>())
        .bind::<Nullable<BigInt>, _>(each().map(|entry| entry.batch).collect::<Vec<_>>())
        .bind::<Jsonb, _>(each().map(|entry| draws_json(&entry.draws)).collect::<Vec<_>>())
        .bind::<Nullable<Jsonb>, _>(each().map(|entry| entry.link.clone()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(each().map(|entry| entry.reason.as_deref()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(each().map(|entry| entry.actor.as_deref()).collect::<Vec<_>>())
        .bind::<BigInt, _>(changed_grants.iter().map(|(org_id, _)| *org_id).collect::<Vec<_>>())
        .bind::<BigInt, _>(grants().map(|grant| grant.number).collect::<Vec<_>>())
        .bind::<Text, _>(grants().map(|grant| grant.state.name()).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.remaining).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.burned).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.clawed).collect::<Vec<_>>())
        .bind::<Numeric, _>(grants().map(|grant| grant.lapsed).collect::<Vec<_>>())
        .bind::<BigInt, _>(accounts.iter().map(|account| account.org_id).collect::<Vec<_>>())
        .bind::<Numeric, _>(accounts.iter().map(|account| account.balance).collect::<Vec<_>>())
        .bind::<Numeric, _>(accounts.iter().map(|account| account.reserved).collect::<Vec<_>>())
        .bind::<Numeric, _>(accounts.iter().map(|account| account.carried).collect::<Vec<_>>())
        .bind::<BigInt, _>(accounts.iter().map(|account| account.sequence).collect::<Vec<_>>())
        .bind::<BigInt, _>(accounts.iter().map(|account| account.last_grant).collect::<Vec<_>>())
        .bind::<Nullable<Timestamptz>, _>(accounts.iter().map(|account| account.last_at).collect::<Vec<_>>())
        .bind::<Nullable<Date>, _>(accounts.iter().map(|account| account.last_allowance).collect::<Vec<_>>())
        .execute(conn)?;
    if changed == accounts.len() {
        Ok(())
    } else {
        Err(Error::Internal("a locked battery account is gone".to_owned()))
    }
}

fn grant_from_row(row: GrantRow) -> Result<Option<Grant>, Error> {
    let (
        (Some(number), Some(id), Some(source), Some(key), Some(state), Some(priority)),
        (Some(created_at), Some(effective_at), expires_at),
        (Some(amount), Some(remaining), Some(burned), Some(clawed), Some(lapsed)),
        (link, reason),
    ) = row
    else {
        return Ok(None);
    };
    let (source, state) = (GrantSource::parse(&source)?, GrantState::parse(&state)?);
    Ok(Some(Grant {
        number,
        id,
        source,
        key,
        state,
        priority,
        created_at,
        effective_at,
        expires_at,
        amount,
        remaining,
        burned,
        clawed,
        lapsed,
        link,
        reason,
    }))
}
